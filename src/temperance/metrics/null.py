"""How close unseen real images come to the training set: the p-value of being closer still.

Counting held-out images gives p-values that hold whatever the data are, and none below 1 / (m + 1). Where that is too
coarse for the rate asked for, the lower tail of log distance is fitted, and images closer than every held-out one get
their p-values from the fit: an assumption, and said to be one.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.metrics.copying import p_values

TAIL, LEAST, MOST = 0.1, 10, 250  # share of the held-out images in the tail, and the least and most of them
REACH = 1000  # the fit is trusted to p-values this many times below 1 / (m + 1), not further


@dataclass(frozen=True, eq=False)
class Null:
    """Distances of held-out images, and the tail fitted to the smallest of them (None: counting only).

    With y = log(edge / distance), P(Y > y) = (1 + shape y / scale)^(-1 / shape): a generalized Pareto tail. Its shape 0
    is a power law of distance, what a density on a smooth manifold gives; near twins in the data make it larger.
    """

    distance: Float[Tensor, " m"]
    edge: float | None = None
    scale: float = 1.0
    shape: float = 0.0
    share: float = 0.0

    @property
    def kind(self) -> str:
        """`conformal` or `tail`."""
        return "conformal" if self.edge is None else "tail"

    @property
    def least(self) -> float:
        """The smallest p-value that this null gives, that of distance 0."""
        return (1 + self.ties) / (len(self.distance) + 1) / (1 if self.edge is None else REACH)

    @property
    def ties(self) -> int:
        """How many held-out images lie at distance 0: no image is closer than they are."""
        return int((self.distance <= 0).sum())

    def fewest(self, n: int, fdr: float) -> int:
        """How many of `n` images must be as close as can be before Benjamini-Hochberg can reject any."""
        return math.ceil(round(n * self.least / fdr, 9))

    def p(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """P-values of 'no closer to the training set than unseen real images'."""
        counted = p_values(distance, self.distance)
        if self.edge is None:
            return counted
        d = distance.double()
        y = (self.edge / d.clamp(min=1e-300)).log().clamp(min=0)
        power = (
            torch.exp(-y / self.scale) if self.shape < 1e-9 else (1 + self.shape * y / self.scale) ** (-1 / self.shape)
        )
        fitted = torch.where(d > 0, self.share * power, 0.0).clamp(min=self.least)
        # Where there are held-out images as close, they are counted, and near twins among them weigh in full.
        return torch.where(d < self.distance.min(), torch.minimum(fitted, counted), counted)

    def describe(self) -> dict[str, Any]:
        """What a report states about it."""
        found: dict[str, Any] = {"kind": self.kind, "heldout": len(self.distance), "least_p": self.least}
        if self.edge is not None:
            found |= {"edge": self.edge, "scale": self.scale, "shape": self.shape, "share": self.share}
        return found


def fit_null(heldout: Float[Tensor, " m"], n: int, fdr: float) -> Null:
    """The null for judging `n` images at a false discovery rate.

    Args:
        heldout: distances of the held-out images; none of them should be a training image.
        n: number of images to judge.
        fdr: the rate.

    Counting is used where it can reject a single one of the n images, 1 / (m + 1) <= fdr / n, where fewer than 50
    held-out images leave too few for a tail of 10, where some lie at distance 0, so that nothing can be closer, and
    where most of the tail shares its distances with others: a coarse space has no tail that goes on smoothly.

    Source of the fit: L-moments of the k excesses (Hosking & Wallis 1987). A shape below 1/k is raised to it: where the
    true shape is 0, the excess of a new image over the mean of k others is Pareto of shape 1/k, so that its p-value
    is right with the scale unknown. A scale that is plugged in as if it were known flags images that copy nothing.
    """
    counting, m = Null(heldout), len(heldout)
    if 1 / (m + 1) <= fdr / max(1, n) or m < LEAST / TAIL / 2 or counting.ties:
        return counting
    k = min(MOST, max(LEAST, int(TAIL * m)))
    order = heldout.double().sort().values
    if 2 * len(order[:k].unique()) < k:
        return counting
    edge = float(order[k])
    y = (edge / order[:k]).log().flip(0)  # ascending
    first = float(y.mean())
    second = 2 * float((y * torch.arange(k).double() / (k - 1)).mean()) - first
    shape = 0.0 if second <= 0 else min(0.9, max(0.0, 2 - first / second))
    return Null(heldout, edge, first * (1 - shape), max(shape, 1 / k), (k + 1) / (m + 1))
