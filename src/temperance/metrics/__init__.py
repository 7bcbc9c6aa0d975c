"""Numbers about sets of images: are the generated ones copies of the training set, and are they any good?

Every function works on feature rows [n, f] (pixels are features too) and returns a `Measurement`: the
value, a 95 % interval, its direction, its source, and its null, which is the same figure for real data that
the model never saw. A number about copying means nothing without that null: some data sets resemble
themselves.

Distances are exact and evaluated in blocks; no [n, n] matrix is ever held.
"""

from temperance.distance import Rows
from temperance.metrics.adaptive import RATE, memorized_adaptive, share_below
from temperance.metrics.copying import (
    EVEN,
    authpct,
    benjamini_hochberg,
    copy_auc,
    cosine_distance,
    ct_score,
    memorized_fraction,
    mifid,
    p_values,
    ratio_median,
)
from temperance.metrics.diversity import vendi_score
from temperance.metrics.extraction import DELTA, eidetic_k, extracted_fraction
from temperance.metrics.fidelity import Quality, fd_ratio, frechet_distance, kid, quality
from temperance.metrics.interval import jackknife, subsample, wilson, with_null
from temperance.metrics.likelihood import fld
from temperance.metrics.nearest import QUERIES, Proximity, block_rows, nearest_rows, proximity
from temperance.metrics.nearness import dcr_share
from temperance.metrics.null import Null, fit_null

__all__ = [
    "DELTA",
    "EVEN",
    "Null",
    "Proximity",
    "QUERIES",
    "Quality",
    "RATE",
    "Rows",
    "authpct",
    "benjamini_hochberg",
    "block_rows",
    "copy_auc",
    "cosine_distance",
    "ct_score",
    "dcr_share",
    "eidetic_k",
    "extracted_fraction",
    "fd_ratio",
    "fit_null",
    "fld",
    "frechet_distance",
    "jackknife",
    "kid",
    "memorized_adaptive",
    "memorized_fraction",
    "mifid",
    "nearest_rows",
    "p_values",
    "proximity",
    "quality",
    "ratio_median",
    "share_below",
    "subsample",
    "vendi_score",
    "wilson",
    "with_null",
]
