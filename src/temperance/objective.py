"""Targets for anyone's training loop: what a network is asked to predict decides whether it copies.

    target = objective(mu, index, generator)
    pred = net(target.x, target.condition)
    loss(pred, target).mean().backward()
    optimizer.step()

Every objective draws a noise level and noise, and returns the noisy images and the denoised images to regress on.
They differ in the last only, so they fit any network, process and parameterization.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from temperance.denoiser import expand
from temperance.distance import Neighbors
from temperance.engine import tempered_mean
from temperance.schedule import Schedule


class Target(NamedTuple):
    """One training batch: noisy images `x`, what to predict, and how much each row counts."""

    x: Float[Tensor, "batch *shape"]
    denoised: Float[Tensor, "batch *shape"]
    sigma: Float[Tensor, " batch"]
    condition: Float[Tensor, " batch"] | None  # what the network may be told about the noise; None: nothing
    weight: Float[Tensor, " batch"]


@runtime_checkable
class Objective(Protocol):
    """Turns clean images, named by their row in the training set, into a `Target`."""

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Draw noise levels and noise from `generator`; nothing else is random."""
        ...


def loss(prediction: Float[Tensor, "batch *shape"], target: Target) -> Float[Tensor, " batch"]:
    """Weighted mean squared error of each row; the caller reduces."""
    return target.weight * (prediction - target.denoised).square().flatten(1).mean(1)


@dataclass(frozen=True)
class NoiseConditional:
    """Denoising score matching. Its exact minimizer, the empirical denoiser, returns training images."""

    schedule: Schedule

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Target: the clean image; condition: sigma."""
        return _noised(mu, self.schedule, generator, told=True)


@dataclass(frozen=True)
class NoiseUnconditional:
    """The same without telling the network sigma: L_u of arXiv 2601.19285, explicit score matching on p_MN."""

    schedule: Schedule

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Target: the clean image; condition: None."""
        return _noised(mu, self.schedule, generator, told=False)


@dataclass(frozen=True)
class TemperatureSmoothed:
    """Below `sigma_collapse`, regress on the mean of the K neighbors of mu under softened weights (sec. 5).

    Weights: softmax over mu and its neighbors of -|x - mu_j|^2 / (2 sigma^2 T), T = max(sigma_collapse / sigma, 1)
    or, if `temperature` is given, T = max(temperature / sigma, 1). One temperature per row: see `paper_temperature`
    for why. `told=False` gives the paper's noise-unconditional form. Cost over the plain step: a gather of K + 1
    rows and 3 (K + 1) d flops a row, for the rows below sigma_collapse only.
    """

    schedule: Schedule
    points: Float[Tensor, "n *shape"]
    neighbors: Neighbors
    sigma_collapse: float
    temperature: float | None = None
    told: bool = True

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Target: the clean image above sigma_collapse, the tempered mean of its neighborhood below."""
        target = _noised(mu, self.schedule, generator, told=self.told)
        low = (target.sigma <= self.sigma_collapse).nonzero()[:, 0]
        if len(low) == 0:
            return target
        sigma = target.sigma[low]
        strength = self.sigma_collapse if self.temperature is None else self.temperature
        group = torch.cat([index[low, None], self.neighbors.index[index[low]]], 1)
        heat = (strength / sigma).clamp(min=1)
        smoothed = tempered_mean(target.x[low].flatten(1), self.points.flatten(1), group, sigma, heat)
        smoothed = smoothed.reshape(len(low), *mu.shape[1:])
        return target._replace(denoised=target.denoised.index_copy(0, low, smoothed.to(mu.dtype)))


@dataclass(frozen=True)
class TangentSmoothed:
    """Replace each image by a random blend along the local manifold, then match scores as usual.

    mu' = mu + h / sqrt(K) sum_k z_k (mu_k - mu), z ~ N(0, I), over the K neighbors of mu: a draw from the Gaussian
    whose covariance is h^2 times that of the neighbors around mu (see `temperance.empirical.Tangent` for the closed
    form this converges to). Cost over the plain step: a gather of K rows and 2 K d flops a row.
    """

    schedule: Schedule
    points: Float[Tensor, "n *shape"]
    neighbors: Neighbors
    h: float
    told: bool = True

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Target: the displaced image."""
        near = self.neighbors.index[index]
        z = torch.randn(near.shape, generator=generator, device=generator.device).to(mu) * (
            self.h / near.shape[1] ** 0.5
        )
        table = self.points.flatten(1)
        pulled = torch.nn.functional.embedding_bag(near, table, per_sample_weights=z.to(table), mode="sum")
        displaced = mu * expand(1 - z.sum(1), mu) + pulled.reshape(mu.shape).to(mu)
        return _noised(displaced, self.schedule, generator, told=self.told)


def _noised(mu: Tensor, schedule: Schedule, generator: Generator, *, told: bool) -> Target:
    _, sigma = schedule.kernel(schedule.draw(len(mu), generator))
    sigma = sigma.to(mu)
    eps = torch.randn(mu.shape, generator=generator, device=generator.device).to(mu)
    return Target(mu + expand(sigma, mu) * eps, mu, sigma, sigma if told else None, schedule.weight(sigma))
