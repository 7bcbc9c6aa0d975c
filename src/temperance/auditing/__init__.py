"""The audit: does a set of generated images hand back its training set, and how good is it?

Everything is exact and runs in blocks; features are made on demand, so that memory stays bounded by a few
blocks.
"""

from temperance.auditing.document import KEYS, SCHEMA, as_json, write
from temperance.auditing.judge import audit
from temperance.auditing.model import denoiser_of
from temperance.auditing.views import Encoded, View

__all__ = ["KEYS", "SCHEMA", "Encoded", "View", "as_json", "audit", "denoiser_of", "write"]
