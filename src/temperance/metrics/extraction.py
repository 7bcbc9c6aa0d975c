"""Extraction of training images as Carlini et al. define it: how many come back, and how rare they are."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.distance import Rows, squared
from temperance.metrics.interval import share
from temperance.metrics.nearest import POINTS, QUERIES, Proximity, block_rows
from temperance.report import Measurement

DELTA = 0.1  # of the range of a value, root mean square over the values of an image
RANGE = 2.0  # images run from -1 to 1


def extracted_fraction(
    generated: Proximity, width: int, heldout: Proximity | None = None, *, delta: float = DELTA
) -> Measurement:
    """Share of images within `delta` of a training image: l(a, b) = root mean square of a - b, black to white being 1.

    This is (l, delta)-extraction of Carlini et al. 2023 (arXiv 2301.13188), definition 1, with plain Euclidean l. It
    means something only where rows are pixels in [-1, 1]. Lower is better. Wilson interval. Images that are dark all
    over lie within `delta` of each other: read it beside its null.

    Args:
        generated: proximity of the generated rows to the training set.
        width: values of a row.
        heldout: proximity of the held-out rows, for the null.
        delta: the distance that counts as the same image.
    """
    hits = int(_within(generated, width, delta).sum())
    value, low, high = share(hits, len(generated.index))
    null = None if heldout is None else extracted_fraction(heldout, width, delta=delta).value
    source = "Carlini 2023, arXiv 2301.13188, def. 1"
    return Measurement("extracted_fraction", value, low, high, len(generated.index), False, source, null)


def eidetic_k(
    generated: Proximity, train: Rows, heldout: Proximity | None = None, *, delta: float = DELTA
) -> Measurement | None:
    """How rare the rarest extracted training image is: how many training images lie within `delta` of it.

    1: an image that stands alone in the training set came back. Large: only what the set holds many times.
    (k, l, delta)-eidetic memorization of Carlini et al. 2023 (arXiv 2301.13188), definition 2, at its least k; `n` of
    the measurement is the number of different training images that were extracted. None if none was. A count of what
    was found, not an estimate: it has no interval; more generated images can only lower it. The null is the same for
    held-out images, where any lie that close.

    Cost: 2 d |train| flops in float64 per extracted training image.
    """
    width = train[:1].shape[1]
    found = generated.index[_within(generated, width, delta)].unique()
    if len(found) == 0:
        return None
    radius = delta * RANGE * math.sqrt(width)
    least = min(float(_crowd(train[part], train, radius).min()) for part in found.split(block_rows(width, QUERIES)))
    null = None if heldout is None else eidetic_k(heldout, train, delta=delta)
    source = "Carlini 2023, arXiv 2301.13188, def. 2"
    return Measurement("eidetic_k", least, None, None, len(found), True, source, None if null is None else null.value)


def _within(near: Proximity, width: int, delta: float) -> Bool[Tensor, " n"]:
    return near.distance.double() <= delta * RANGE * math.sqrt(width) * (1 + 1e-6)


def _crowd(x: Float[Tensor, "n f"], train: Rows, radius: float) -> Float[Tensor, " n"]:
    """How many training points lie within the radius of each row, itself counted."""
    count = torch.zeros(len(x))
    rows = block_rows(x.shape[1], POINTS)
    for start in range(0, len(train), rows):
        d2 = squared(x, train[start : start + rows])
        count += (d2 <= (radius * (1 + 1e-6)) ** 2).sum(1).cpu()
    return count
