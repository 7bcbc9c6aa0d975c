"""A guard at the door: no near-copy of a training image is handed out.

A sample is refused if it is closer to a training image than all but a stated share of unseen real images are. Distances
are taken in the feature space of an encoder, also to the mirrored sample and to the sample moved by a few pixels. What
is refused is drawn again, a bounded number of times. A guard can be kept as an index without the training images.
"""

from temperance.guard.guard import ATTEMPTS, PICTURES, Guard, Guarded, Near, Thresholds, Verdict
from temperance.guard.index import Index, index_of
from temperance.guard.views import View

__all__ = ["ATTEMPTS", "PICTURES", "Guard", "Guarded", "Index", "Near", "Thresholds", "Verdict", "View", "index_of"]
