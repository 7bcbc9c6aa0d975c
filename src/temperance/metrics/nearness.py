"""Which side a generated image is nearer to: the images that were trained on, or the ones held out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.distance import nearest
from temperance.metrics.interval import fold_of, wilson
from temperance.report import Measurement

FOLDS = 10  # of each reference, left out in turn for the interval


def dcr_share(
    generated: Float[Tensor, "n f"], train: Float[Tensor, "m f"], heldout: Float[Tensor, "k f"]
) -> Measurement:
    """Share of generated rows whose nearest training row is closer than their nearest held-out row; ties count half.

    0.5 is right, 1 copies. Both references must be of equal size, since of more rows one lies nearer; hand in
    different rows (`temperance.distance.distinct`), since one that repeats some of its rows holds fewer. Source:
    distance to the closest record, Platzer & Reutterer 2021 (arXiv 2104.00635). Held-out images handed in as
    generated score 0: they lie on themselves. Interval: Wilson's, with the sample size that gives the variance over
    generated rows plus that over the references (ten-fold jackknife, conservative here): one reference row may be the
    nearest of many. Rows with the same two nearest references count by how many they differ from: (sum p^2)^-1 for
    shares p of such pairs, so that a thousand samples of one mode are one.

    Raises:
        ValueError: if the references differ in size or shapes do not fit.

    Cost: 4 n m f flops.
    """
    if len(train) != len(heldout):
        raise ValueError(
            f"train and heldout must be of equal size, got {len(train)} and {len(heldout)}; subsample the larger one"
        )
    folds = min(FOLDS, len(train))
    (a, nearest_train), (b, nearest_heldout) = (
        _per_fold(generated, reference, folds) for reference in (train, heldout)
    )
    value, n = _closer(a, b), len(generated)
    pairs = torch.stack([nearest_train, nearest_heldout], 1).unique(dim=0, return_counts=True)[1]
    different = n**2 / float(pairs.double().square().sum())  # rows of one mode all say the same
    variance = value * (1 - value) / different
    if folds > 1:
        others = [[j for j in range(folds) if j != i] for i in range(folds)]
        left = torch.tensor([_closer(a[:, keep], b[:, keep]) for keep in others], dtype=torch.float64)
        variance += float((folds - 1) * left.var(correction=0))
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else different
    low, high = wilson(value, size)
    return Measurement("dcr_share", value, low, high, n, None, "Platzer 2021, arXiv 2104.00635", 0.5)


def _per_fold(x: Tensor, reference: Tensor, folds: int) -> tuple[Float[Tensor, "n folds"], Int[Tensor, " n"]]:
    """Distance of each row to the nearest reference row of every fold, and which of all rows is the nearest."""
    fold = fold_of(len(reference), folds).to(reference.device)
    rows = [(fold == i).nonzero()[:, 0] for i in range(folds)]
    found = [nearest(x, reference[row], 1) for row in rows]
    distance = torch.cat([one.distance for one in found], 1)
    index = torch.cat([row[one.index] for row, one in zip(rows, found)], 1)
    return distance, index.gather(1, distance.argmin(1, keepdim=True))[:, 0]


def _closer(a: Tensor, b: Tensor) -> float:
    one, other = a.min(1).values, b.min(1).values
    return (float((one < other).sum()) + float((one == other).sum()) / 2) / len(one)
