"""What all samplers share: their signature, and how a noise level is checked, spread over rows and read off images."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.denoiser import Denoiser, expand
from temperance.sample.noise import Noise


@runtime_checkable
class Sampler(Protocol):
    """The common signature of this package's generators."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "batch *shape"],
        sigmas: Float[Tensor, " steps"],
        noise: Noise,
    ) -> Iterator[Tensor]:
        """Yield the batch after each step; the last one is at noise level sigmas[-1]."""
        ...


@runtime_checkable
class Start(Protocol):
    """Where samples begin, if not in noise alone."""

    @property
    def sigma(self) -> float:
        """The level of noise that they hold there."""
        ...

    def __call__(self, noise: Noise) -> Float[Tensor, "batch *shape"]:
        """The noisy image of every index."""
        ...


@runtime_checkable
class Walker(Protocol):
    """A denoiser that knows a cheaper way down a whole schedule than one evaluation after another."""

    def trajectory(
        self, x: Float[Tensor, "batch *shape"], sigmas: Float[Tensor, " steps"], *, last: bool = False
    ) -> Iterator[Tensor]:
        """The states that `heun` would yield, to the denoiser's own accuracy; only the final one if `last`."""
        ...


def residual(x: Float[Tensor, "batch *shape"], denoised: Tensor) -> Float[Tensor, " batch"]:
    """The noise std a denoiser sees in each image: |D - x| / sqrt(d); never 0, which no denoiser takes for a level."""
    return (denoised - x).flatten(1).square().mean(1).sqrt().clamp(min=1e-12)


def only(rows: Bool[Tensor, " batch"], new: Tensor, old: Float[Tensor, "batch *shape"]) -> Tensor:
    """`new` where a row is still moving, `old` where it is done."""
    return torch.where(expand(rows, old), new, old)


def check_sigmas(sigmas: Tensor) -> None:
    """Raise a ValueError unless `sigmas` is something to walk down."""
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas > 0).all()) or not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"sigmas must be at least two decreasing numbers > 0, got {sigmas.tolist()[:6]}")


def check_share(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value}")
