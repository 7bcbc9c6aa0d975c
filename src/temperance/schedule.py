"""Noise levels: which ones a training step draws, how much each counts, and which ones a sampler walks down.

Every process is written `x_t = alpha(t) mu + sigma(t) eps`. Both processes here keep alpha = 1 and use the noise std
itself as `t`.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor


@runtime_checkable
class Schedule(Protocol):
    """The noise levels of a process: four pure functions."""

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return (alpha, sigma) of `x_t = alpha mu + sigma eps`."""
        ...

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """Draw the times of `n` training examples."""
        ...

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Return `steps` decreasing times for a sampler, from the noisiest to the cleanest."""
        ...

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the loss weight of squared error in the denoised image at each noise level."""
        ...


@dataclass(frozen=True)
class Edm:
    """Log-normal training levels, rho-spaced sampling levels (Karras et al. 2022, arXiv 2206.00364, table 1).

    Units: those of the data, which the project keeps in [-1, 1]. `sigma_data` is the data's std.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    mean: float = -1.2
    std: float = 1.2
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Variance exploding: alpha = 1, sigma = t."""
        return torch.ones_like(t), t

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """Log sigma ~ Normal(mean, std), clipped to [sigma_min, sigma_max]."""
        log_sigma = self.mean + self.std * torch.randn(n, generator=generator, device=generator.device)
        return log_sigma.exp().clamp(self.sigma_min, self.sigma_max)

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Eq. 5 of the source: levels evenly spaced in sigma^(1/rho)."""
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64) ** (1 / self.rho)
        return (ends[0] + torch.linspace(0, 1, steps, dtype=torch.float64) * (ends[1] - ends[0])).pow(self.rho).float()

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """1 / sigma^2 + 1 / sigma_data^2: unit loss at every level for an untrained preconditioned network."""
        return sigma**-2 + self.sigma_data**-2


@dataclass(frozen=True)
class Ve:
    """Log-uniform levels and lambda = sigma^2 score weighting: the setting of arXiv 2601.19285 (0.01 to 50)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Variance exploding: alpha = 1, sigma = t."""
        return torch.ones_like(t), t

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """Log sigma ~ Uniform(log sigma_min, log sigma_max)."""
        u = torch.rand(n, generator=generator, device=generator.device)
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** u

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Geometric levels."""
        return (
            torch.logspace(0, 1, steps, base=self.sigma_min / self.sigma_max, dtype=torch.float64)
            .mul(self.sigma_max)
            .float()
        )

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """sigma^2 |score error|^2 = |denoised error|^2 / sigma^2."""
        return sigma**-2


def edm_for(points: Float[Tensor, "n d"]) -> Edm:
    """The EDM schedule with its constants measured on the data instead of assumed.

    sigma_data: root mean square; mean: log sigma_data - 0.5 (the source's ratio, e^-1.2 : 0.5); sigma_max: five times
    the std along the widest direction, below which noise would not hide the data (80 : 16 for CIFAR-10); sigma_min:
    0.1, since the last evaluation removes what is left. Cost: a rank-1 power iteration.
    """
    rms = float(points.square().mean().sqrt())
    centered = points - points.mean(0)
    direction = torch.ones(points.shape[1], dtype=points.dtype)
    for _ in range(20):
        direction = centered.T @ (centered @ direction)
        direction = direction / direction.norm().clamp(min=1e-30)
    widest = float((centered @ direction).square().mean().sqrt())
    return Edm(sigma_min=0.1, sigma_max=max(1.0, 5 * widest), mean=math.log(rms) - 0.5, sigma_data=rms)


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
