"""Targets for anyone's training loop: what a network is asked to predict decides whether it copies.

    target = objective(mu, index, generator)
    pred = net(target.x, target.condition)
    loss(pred, target).mean().backward()
    optimizer.step()

Every objective draws a noise level and noise, and returns the noisy images and the denoised images to regress on.
They differ in the last only, so they fit any network, process and parameterization.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from temperance.augmentation import changed, draw_changes
from temperance.denoiser import expand, prediction
from temperance.distance import Neighbors
from temperance.empirical import Tangent
from temperance.engine import displaced, tempered_mean
from temperance.schedule import Schedule


class Target(NamedTuple):
    """One training batch: noisy images `x`, what to predict, and how much each row counts.

    `x` is the process's image over its alpha, `sigma` its level (see `temperance.schedule`); `native` turns a target
    into what a network of the process itself is fed.
    """

    x: Float[Tensor, "batch *shape"]
    denoised: Float[Tensor, "batch *shape"]
    sigma: Float[Tensor, " batch"]
    condition: Float[Tensor, " batch"] | None  # what the network may be told about the noise; None: nothing
    weight: Float[Tensor, " batch"]
    label: Int[Tensor, " batch"] | Float[Tensor, "batch 5"] | None = None  # what else it is told: class, or change


@runtime_checkable
class Objective(Protocol):
    """Turns clean images, named by their row in the training set, into a `Target`."""

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Draw noise levels and noise from `generator`; nothing else is random."""
        ...


def loss(prediction: Float[Tensor, "batch *shape"], target: Target) -> Float[Tensor, " batch"]:
    """Weighted mean squared error of each row; the caller reduces."""
    return target.weight * (prediction - target.denoised).square().flatten(1).mean(1)


def predict(network: Callable[..., Tensor], target: Target) -> Float[Tensor, "batch *shape"]:
    """Call a network on a target: with its label only if there is one."""
    extra = () if target.label is None else (target.label,)
    return network(target.x, target.condition, *extra)


class Native(NamedTuple):
    """A target as a network of the process itself meets it."""

    y: Float[Tensor, "batch *shape"]  # alpha mu + sigma eps
    t: Float[Tensor, " batch"]
    output: Float[Tensor, "batch *shape"]  # what the network is to predict


def native(target: Target, schedule: Schedule, name: str) -> Native:
    """Convert a target for a network that takes the process's own image and time and predicts `name`.

    `name`: denoised, eps, v or velocity. Unweighted squared error to `output` is the usual loss of such a network.
    For smoothed objectives the output follows from the smoothed denoised image, so it is not the noise that was added.
    Draw the target from float32 images and cast what the network is given: noise of a low level that was added in half
    precision cannot be told from rounding.

    Raises:
        ValueError: for another `name`.
    """
    t = schedule.time(target.sigma)
    alpha, _ = schedule.kernel(t)
    output = prediction(name).from_denoised(target.x, target.denoised, target.sigma)
    kind = target.x.dtype
    return Native((expand(alpha, target.x) * target.x).to(kind), t, output.to(kind))


@dataclass(frozen=True)
class Labeled:
    """Adds each image's class to the targets of another objective."""

    objective: Objective
    labels: Int[Tensor, " n"]

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The other objective's target, with labels."""
        return self.objective(mu, index, generator)._replace(label=torch.as_tensor(self.labels)[index].long())


@dataclass(frozen=True)
class Weighted:
    """Weighs the targets of another objective by a function of their level instead of the schedule's weight."""

    objective: Objective
    weight: Callable[[Tensor], Tensor]

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The other objective's target, with weights."""
        target = self.objective(mu, index, generator)
        return target._replace(weight=self.weight(target.sigma))


class IndexedDataset:
    """Any map-style dataset, with each item's row beside it: what an objective needs to find neighbors.

    An item `image` becomes `(image, index)`, `(image, label)` becomes `(image, index, label)`, and a dictionary gets
    the key `index`. Works under any sampler, shuffling and `DataLoader`.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Item `index`, with `index`."""
        item = self.dataset[index]
        if isinstance(item, dict):
            return {**item, "index": index}
        if isinstance(item, tuple | list):
            return (item[0], index, *item[1:])
        return item, index


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
        moved = displaced(mu, self.points.flatten(1), near, z)
        return _noised(moved, self.schedule, generator, told=self.told)


@dataclass(frozen=True)
class ExactTangent:
    """The noisy images of tangent smoothing, and the mean of all displaced images they may come from to regress on.

    `TangentSmoothed` draws mu' and x; E[mu' | x] has the same minimizer without the chance of the draw: stable target
    fields (arXiv 2302.00670), for the tangent mixture and over all images. Cost over tangent smoothing: that of the
    closed form on the whole training set, 4 n (d + K^2) flops a row in float64; see `temperance.empirical.Tangent`.
    """

    tangent: TangentSmoothed

    @cached_property
    def mixture(self) -> Tangent:
        """The distribution of the displaced images, in closed form."""
        return Tangent(self.tangent.points.flatten(1), self.tangent.neighbors, self.tangent.h)

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """Target: the posterior mean in the place of the displaced image."""
        target = self.tangent(mu, index, generator)
        return target._replace(denoised=self.mixture(target.x, target.sigma).to(mu))


@dataclass(frozen=True)
class Augmented:
    """Changes a share of another objective's images (see `temperance.augmentation`) and tells the network how.

    `size` times as much as `temperance.augmentation.SPREAD` says; the network is told standard normal numbers.

    Samples are drawn with no change told, so that none is seen in them: the non-leaking augmentation of Karras et al.
    2022 (arXiv 2206.00364, appendix F.2). The network learns from more than the training images. Noise is added after
    the change. The network must take five numbers a row for a label: `network.hear(5)` of the package's own. Cost over
    the other objective: one resampling.

    Raises:
        ValueError: for an objective whose target is not the image that noise was added to.
    """

    objective: Objective
    share: float
    size: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.objective, NoiseConditional | NoiseUnconditional | TangentSmoothed):
            raise ValueError(f"images of {type(self.objective).__name__} cannot be changed: its targets are means")

    def __call__(self, mu: Float[Tensor, "batch *shape"], index: Int[Tensor, " batch"], generator: Generator) -> Target:
        """The other objective's target with changed images, and the changes as labels."""
        target = self.objective(mu, index, generator)
        changes = draw_changes(len(mu), self.share, generator).to(mu)
        image = changed(target.denoised, self.size * changes)
        return target._replace(x=target.x + (image - target.denoised), denoised=image, label=changes)


def _noised(mu: Tensor, schedule: Schedule, generator: Generator, *, told: bool) -> Target:
    """Levels and weights are float32 at least: in half precision some overflow, and noise is lost to rounding."""
    wide = torch.promote_types(mu.dtype, torch.float32)
    alpha, sigma = schedule.kernel(schedule.draw(len(mu), generator))
    sigma = (sigma / alpha).to(mu.device, wide)
    eps = torch.randn(mu.shape, generator=generator, device=generator.device).to(mu.device, wide)
    x = (mu + expand(sigma, mu) * eps).to(mu.dtype)
    return Target(x, mu, sigma, sigma.to(mu.dtype) if told else None, schedule.weight(sigma))
