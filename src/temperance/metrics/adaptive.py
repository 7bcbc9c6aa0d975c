"""Shares below a threshold that unseen real images set: what a test finds at a stated rate of false alarms."""

import math

from jaxtyping import Float
from torch import Tensor

from temperance.metrics.interval import Z, share
from temperance.metrics.nearest import Proximity
from temperance.report import Measurement

RATE = 0.01  # share of unseen real images that may be called copies


def memorized_adaptive(generated: Proximity, heldout: Proximity, *, rate: float = RATE) -> Measurement:
    """Share of images with d1/d2 below the value that a share `rate` of held-out real images stays below.

    The threshold 1/3 is too strict on some data (near-copies at .5 pass) and too loose on other data (unseen images
    at .3 are called copies); this one asks the data. `rate` is right. The null is the share of further unseen images
    to be expected there: about `rate`, or more where the held-out ones are too few to resolve it. Source: the 1/3 of
    Yoon et al. 2023 replaced by a held-out quantile (ours). Interval: see `share_below`.

    Raises:
        ValueError: if `rate` is not between 0 and 1.
    """
    value, low, high, null = share_below(generated.ratio, heldout.ratio, rate)
    source = f"Yoon 2023; threshold at {100 * rate:g} % of held-out"
    return Measurement("memorized_adaptive", value, low, high, len(generated.index), None, source, null)


def share_below(
    values: Float[Tensor, " n"], null: Float[Tensor, " m"], rate: float
) -> tuple[float, float, float, float]:
    """The share of `values` below the threshold that at most a share `rate` of `null` stays below, its 95 %
    interval, and the share of further values like `null` that is to be expected below it.

    The interval is Wilson's (1927) at the ends of the threshold's own interval (order statistics at m rate -+ 1.96
    standard deviations; below the first of them nothing is certain), so it holds for a threshold that was itself
    estimated; it is conservative. With m < 1 / rate the threshold is the smallest of `null`, which 1 / (m + 1) of
    further values stay below.

    Raises:
        ValueError: if `rate` is not between 0 and 1, or a set is empty.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie between 0 and 1, got {rate}; 0.01 is usual")
    order, m = null.double().sort().values, len(null)
    if m == 0:
        raise ValueError("null is empty; give at least 1 held-out value")
    half = Z * math.sqrt(m * rate * (1 - rate))
    at = round(m * rate, 9)
    places = (math.floor(at - half), math.floor(at), math.ceil(at + half))
    low, value, high = (order[min(p, m - 1)] if p >= 0 else -math.inf for p in places)
    x = values.double()
    hits = [int((x < threshold).sum()) for threshold in (low, value, high)]
    expected = (int((order < value).sum()) + 1) / (m + 1)
    return hits[1] / len(x), share(hits[0], len(x))[1], share(hits[2], len(x))[2], expected
