"""Objectives that a study compares with and nobody should need: baselines, and forms of the paper's smoothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from temperance.denoiser import expand
from temperance.distance import Neighbors
from temperance.empirical import denoise, paper_temperature
from temperance.engine import tempered_mean
from temperance.objective import Objective, TangentSmoothed, Target, TemperatureSmoothed

Displacement = Callable[[Tensor, Tensor, Generator], Tensor]  # training images, their rows -> images beside them


@dataclass(frozen=True)
class Displaced:
    """Another objective, aimed at displaced images instead of training images."""

    displace: Displacement
    objective: Objective

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The other objective's target for the displaced images."""
        return self.objective(self.displace(mu, index, generator), index, generator)


@dataclass(frozen=True)
class Mixing:
    """mu' = mu + u (mu_k - mu), u uniform in [0, 1], k one of the neighbors: SMOTE (Chawla et al. 2002)."""

    points: Float[Tensor, "n *shape"]
    neighbors: Neighbors

    def __call__(self, mu: Tensor, index: Tensor, generator: Generator) -> Tensor:
        """Displaced images."""
        k = self.neighbors.index.shape[1]
        chosen = torch.randint(k, (len(index), 1), generator=generator)
        share = torch.rand(len(index), generator=generator).to(mu)
        other = self.points[self.neighbors.index[index].gather(1, chosen)[:, 0]]
        return mu + expand(share, mu) * (other - mu)


@dataclass(frozen=True)
class Tangents:
    """The displacement of `TangentSmoothed`, to be followed by another objective."""

    tangent: TangentSmoothed

    def __call__(self, mu: Tensor, index: Tensor, generator: Generator) -> Tensor:
        """Displaced images."""
        return self.tangent(mu, index, generator).denoised


@dataclass(frozen=True)
class Floored:
    """Below `floor`, the posterior mean of mu's neighborhood at sigma = floor: T = (floor / sigma)^2.

    A temperature that holds the effective sample size constant has this form.
    """

    base: TemperatureSmoothed
    floor: float

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The clean image above the floor, the mean of its neighborhood below."""
        target = replace(self.base, sigma_collapse=0.0)(mu, index, generator)

        def mean(x: Tensor, points: Tensor, group: Tensor, sigma: Tensor) -> Tensor:
            return tempered_mean(x, points, group, sigma, (self.floor / sigma) ** 2)

        return _smoothed(target, index, self.base, self.floor, mean)


@dataclass(frozen=True)
class Literal:
    """The paper's smoothing as written: noise-unconditional, a temperature T_j for every point (sec. 5)."""

    base: TemperatureSmoothed
    sigma_min: float
    sigma_max: float

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The clean image above sigma_collapse, the literally tempered mean of its neighborhood below."""
        collapse = self.base.sigma_collapse
        strength = collapse if self.base.temperature is None else self.base.temperature
        target = replace(self.base, sigma_collapse=0.0, told=False)(mu, index, generator)

        def mean(x: Tensor, points: Tensor, group: Tensor, sigma: Tensor) -> Tensor:
            return denoise(paper_temperature(x, points, self.sigma_min, self.sigma_max, strength, index=group), points)

        return _smoothed(target, index, self.base, collapse, mean)


def _smoothed(
    target: Target,
    index: Tensor,
    base: TemperatureSmoothed,
    below: float,
    mean: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Target:
    """The target with the denoised image replaced where sigma <= `below` by a mean over mu and its neighbors."""
    low = (target.sigma <= below).nonzero()[:, 0]
    if len(low) == 0:
        return target
    group = torch.cat([index[low, None], base.neighbors.index[index[low]]], 1)
    images = mean(target.x[low].flatten(1), base.points.flatten(1), group, target.sigma[low])
    images = images.reshape(target.denoised[low].shape).to(target.denoised)
    return target._replace(denoised=target.denoised.index_copy(0, low, images))


@dataclass(frozen=True)
class Band:
    """Displaced images where noise is above `sigma`, training images below; noise is the same for both."""

    displace: Displacement
    objective: Objective
    sigma: float

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Rows of either target, by their noise level."""
        moved = self.displace(mu, index, generator)
        state = generator.get_state()
        high = self.objective(moved, index, generator)
        generator.set_state(state)
        low = self.objective(mu, index, generator)
        keep = expand(high.sigma > self.sigma, mu)
        return low._replace(x=high.x.where(keep, low.x), denoised=high.denoised.where(keep, low.denoised))
