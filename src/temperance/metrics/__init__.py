"""Numbers about sets of images: are the generated ones copies of the training set, and are they any good?

Every function works on feature rows [n, f] (pixels are features too) and returns a `Measurement`: the
value, a 95 % interval, its direction, its source, and its null, which is the same figure for real data that
the model never saw. A number about copying means nothing without that null: some data sets resemble
themselves.

Distances are exact and evaluated in blocks; no [n, n] matrix is ever held.
"""

from temperance.distance import Rows
from temperance.metrics.copying import (
    authpct,
    benjamini_hochberg,
    copy_auc,
    cosine_distance,
    ct_score,
    fewest_flags,
    memorized_fraction,
    mifid,
    p_values,
    ratio_median,
)
from temperance.metrics.fidelity import Quality, frechet_distance, kid, quality
from temperance.metrics.interval import jackknife, subsample, wilson, with_null
from temperance.metrics.nearest import QUERIES, Proximity, nearest_rows, proximity

__all__ = [
    "QUERIES",
    "Proximity",
    "Quality",
    "Rows",
    "authpct",
    "benjamini_hochberg",
    "copy_auc",
    "cosine_distance",
    "ct_score",
    "fewest_flags",
    "frechet_distance",
    "jackknife",
    "kid",
    "memorized_fraction",
    "mifid",
    "nearest_rows",
    "p_values",
    "proximity",
    "quality",
    "ratio_median",
    "subsample",
    "wilson",
    "with_null",
]
