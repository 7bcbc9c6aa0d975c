"""A smoothed start: samples begin at a displaced training image and some noise, in the place of noise alone.

What an image shows is decided at high noise, and there no network is needed: at level sigma the closed form of tangent
smoothing is x = mu' + sigma eps, mu' = mu + h / sqrt(K) sum_k z_k (mu_k - mu), so that a draw of it takes no step. The
network takes the noise away from there on. How far samples lie from the training images is set by h, before any
training; what they look like close up is the network's. Sampling from a noisy image is SDEdit (arXiv 2108.01073); from
images that keep the distance of unseen ones it was measured here (docs/results.md).
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.diagnostics import PIXELS, WHEN_CUT, collapse_sigma, suggest_h, suggest_k
from temperance.distance import Neighbors, distinct
from temperance.engine import displaced, neighbor_table
from temperance.sample import Noise


@dataclass(frozen=True)
class SmoothedStart:
    """Draws from the closed form of tangent smoothing at one level of noise.

    Attributes:
        points: the training images.
        neighbors: of the points, K of each.
        h: the width.
        sigma: the level of noise.
        labels: the class of each point, where samples are to be of a class.
        wanted: the class of each sample; None: any.
    """

    points: Float[Tensor, "n *shape"]
    neighbors: Neighbors
    h: float
    sigma: float
    labels: Int[Tensor, " n"] | None = None
    wanted: Int[Tensor, " batch"] | None = None

    @cached_property
    def flat(self) -> Float[Tensor, "n d"]:
        """The images as rows."""
        return self.points.flatten(1)

    def describe(self) -> dict[str, Any]:
        """What decides the draws, for a record."""
        digest = hashlib.sha256(self.flat.numpy().tobytes()).hexdigest()
        found = {"sigma": self.sigma, "h": self.h, "k": self.neighbors.index.shape[1], "points_sha256": digest}
        if self.labels is not None:
            found["labels_sha256"] = hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()
        return found

    def of(self, wanted: Int[Tensor, " batch"]) -> "SmoothedStart":
        """The start of samples of these classes, which begin at images of their own.

        Raises:
            ValueError: if no image is known to be of one of them.
        """
        known = [] if self.labels is None else self.labels.unique().tolist()
        missing = [label for label in wanted.tolist() if label not in known]
        if missing:
            raise ValueError(f"a smoothed start has no images of class {missing[0]}")
        return replace(self, wanted=wanted)

    def __call__(self, noise: Noise) -> Float[Tensor, "batch *shape"]:
        """A displaced image and noise of level sigma for every index. Cost: 2 K d flops a row."""
        row = self._rows(noise)
        near, k = self.neighbors.index[row], self.neighbors.index.shape[1]
        moved = displaced(self.points[row], self.flat, near, noise.normal((k,)) * self.h / k**0.5)
        return moved + self.sigma * noise.normal(self.points.shape[1:])

    def _rows(self, noise: Noise) -> Int[Tensor, " batch"]:
        if self.wanted is None:
            return noise.whole(len(self.points))
        assert self.labels is not None  # `of` looked at them
        own = [torch.nonzero(self.labels == label).flatten() for label in self.wanted.tolist()]
        which = noise.whole([len(rows) for rows in own]).tolist()
        return torch.stack([rows[i] for rows, i in zip(own, which)]) if own else self.wanted


def smoothed_start(
    points: Float[Tensor, "n *shape"], h: float | str = "matched", labels: Int[Tensor, " n"] | None = None
) -> SmoothedStart:
    """A start with everything chosen from the training images, displaced along neighbors of their class if `labels`.

    The level is `collapse_sigma`: above it images share the score, below it single ones own it. K is `suggest_k`'s; the
    widths are those of a recipe: `matched` is where displaced images that are cut to the range of pixels lie as far
    from the training images as unseen ones do.

    Cost: the neighbor table, 2 n^2 d flops, and some seconds.

    Raises:
        ValueError: if all images, or those of a class, are the same, or for another word than auto, halved and matched.
    """
    if isinstance(h, str) and h not in ("auto", *WHEN_CUT):
        raise ValueError(f"h must be a number, auto, {' or '.join(WHEN_CUT)}, got {h!r}")
    flat = points.flatten(1)
    level = collapse_sigma(flat)
    sets = [flat] if labels is None else [flat[labels == label] for label in labels.unique()]
    fewest = min(len(distinct(one)) for one in sets)
    if fewest < 2:
        raise ValueError(f"a smoothed start needs 2 distinct images{' of every class' if labels is not None else ''}")
    table = neighbor_table(flat, suggest_k(fewest), labels=labels)
    if h == "auto":
        h = suggest_h(flat, table).h
    elif isinstance(h, str):
        h = suggest_h(flat, table, span=PIXELS).at(WHEN_CUT[h])
    return SmoothedStart(points, table, float(h), level, labels)
