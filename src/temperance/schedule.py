"""Noise levels: which ones a training step draws, how much each counts, and which ones a sampler walks down.

Every process is written `y = alpha(t) mu + sigma(t) eps`. Denoisers, objectives and samplers see `x = y / alpha`, an
image with additive noise of std sigma / alpha, the *level*. In that space all processes are one; they differ in the
levels that they draw, weigh and walk. `Edm` and `Ve` keep alpha = 1 and use the level itself as `t`; `Vp` and `Flow`
are converted where a network of their own is called (`temperance.network.Parameterized`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor


@runtime_checkable
class Schedule(Protocol):
    """The noise levels of a process: five pure functions."""

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return (alpha, sigma) of `y = alpha mu + sigma eps`."""
        ...

    def time(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the time at which sigma / alpha is the level `sigma`; the nearest, where no time has it."""
        ...

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """Draw the times of `n` training examples."""
        ...

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Return `steps` decreasing times for a sampler, from the noisiest to the cleanest."""
        ...

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the loss weight of squared error in the denoised image at each level."""
        ...


def levels(schedule: Schedule, steps: int) -> Float[Tensor, " steps"]:
    """`schedule.grid` as the levels sigma / alpha that a sampler takes, decreasing."""
    alpha, sigma = schedule.kernel(schedule.grid(steps))
    return sigma / alpha


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

    def time(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The level is the time."""
        return sigma

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

    def time(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The level is the time."""
        return sigma

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


BETAS = ("linear", "scaled_linear", "cosine")


@dataclass(frozen=True)
class Vp:
    """Variance preserving, in steps: alpha^2 = prod (1 - beta_t), sigma^2 = 1 - alpha^2; t = 0, ..., steps - 1.

    The tables are those of diffusers' `DDPMScheduler`: betas linear from `first` to `last` (Ho et al. 2020, arXiv
    2006.11239), linear in their roots, cosine (Nichol & Dhariwal 2021, arXiv 2102.09672), or any given numbers. Between
    two steps log(sigma / alpha) is interpolated. Steps that leave next to nothing of the image (alpha^2 < 1e-10,
    for example the last one of a table rescaled to zero signal) are not used.
    """

    betas: str | Sequence[float] = "linear"
    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self) -> None:
        if isinstance(self.betas, str) and self.betas not in BETAS:
            raise ValueError(f"betas must be one of {', '.join(BETAS)} or a list of numbers, got {self.betas!r}")
        if not isinstance(self.betas, str):
            object.__setattr__(self, "betas", tuple(self.betas))
            object.__setattr__(self, "steps", len(self.betas))
        if self.steps < 2 or not 0 < self.first <= self.last < 1:
            raise ValueError(
                "need steps >= 2 and 0 < first <= last < 1, got "
                f"steps={self.steps}, first={self.first}, last={self.last}"
            )

    @cached_property
    def _log_level(self) -> Float[Tensor, " steps"]:
        """log(sigma / alpha) of every step in use, float64, increasing."""
        if isinstance(self.betas, str):
            betas = _betas(self.betas, self.steps, self.first, self.last)
        else:
            betas = torch.tensor(self.betas, dtype=torch.float64)
        kept = torch.cumprod(1 - betas, 0)
        table = ((1 - kept) / kept).log() / 2
        table = table[kept > 1e-10]
        if len(table) < 2 or not bool(table.isfinite().all() and (table.diff() > 0).all()):
            raise ValueError(f"betas must lie in (0, 1), got {betas.tolist()[:4]} and {len(betas) - 4} more")
        return table

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """alpha^2 + sigma^2 = 1."""
        table = self._log_level.to(t.device)
        below = t.double().floor().clamp(0, len(table) - 2).long()
        part = (t.double() - below).clamp(0, 1)
        level = torch.lerp(table[below], table[below + 1], part).exp()
        alpha = (1 + level**2).rsqrt()
        return alpha.to(t), (level * alpha).to(t)

    def time(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The step, with a fraction, whose level is `sigma`; the first or the last one where the table has none.

        A whole one where rounding of the level may be all that it differs by: who looks steps up in a table cuts them.
        """
        table = self._log_level.to(sigma.device)
        wanted = sigma.double().log()
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        found = above - 1 + ((wanted - low) / (high - low)).clamp(0, 1)
        return torch.where((found - found.round()).abs() < 1e-3, found.round(), found).to(sigma)

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """A step, each as likely as the other."""
        return torch.randint(len(self._log_level), (n,), generator=generator, device=generator.device).float()

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Times evenly spaced from the last step to the first."""
        return torch.linspace(len(self._log_level) - 1, 0, steps, dtype=torch.float64).float()

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """|v error|^2 = (1 + 1 / sigma^2) |denoised error|^2, sigma the level (arXiv 2202.00512, sec. 4)."""
        return 1 + sigma**-2


def _betas(kind: str, steps: int, first: float, last: float) -> Float[Tensor, " steps"]:
    if kind == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


@dataclass(frozen=True)
class Flow:
    """The straight path of flow matching: alpha = 1 - t, sigma = t, so the level is t / (1 - t).

    Source: arXiv 2210.02747 and 2209.03003 (rectified flow). Its velocity is eps - mu. The ends 0 and 1, where a level
    is 0 or infinite, are kept out: t runs from `t_min` to `t_max`.
    """

    t_min: float = 0.001
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < 1:
            raise ValueError(f"need 0 < t_min < t_max < 1, got t_min={self.t_min}, t_max={self.t_max}")

    def kernel(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The straight line: alpha = 1 - t, sigma = t."""
        return 1 - t, t

    def time(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Inverse of t / (1 - t)."""
        return sigma / (1 + sigma)

    def draw(self, n: int, generator: Generator) -> Float[Tensor, " n"]:
        """Uniform between t_min and t_max."""
        return torch.rand(n, generator=generator, device=generator.device) * (self.t_max - self.t_min) + self.t_min

    def grid(self, steps: int) -> Float[Tensor, " steps"]:
        """Times evenly spaced from t_max to t_min."""
        return torch.linspace(self.t_max, self.t_min, steps, dtype=torch.float64).float()

    def weight(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """|velocity error|^2 = (1 + 1 / sigma)^2 |denoised error|^2, sigma the level."""
        return (1 + 1 / sigma) ** 2


def edm_for(points: Float[Tensor, "n d"]) -> Edm:
    """The EDM schedule with its constants measured on the data instead of assumed.

    sigma_data: root mean square; mean: log sigma_data - 0.5 (the source's ratio, e^-1.2 : 0.5); sigma_max: five times
    the std along the widest direction, below which noise would not hide the data (80 : 16 for CIFAR-10), and three
    times the length of the mean image: sampling starts around zero, and with less noise the start would prefer the
    images on zero's side of the mean (LOG.md, 2026-11-24); sigma_min: 0.1, since the last evaluation removes what is
    left. Cost: a rank-1 power iteration.
    """
    rms, center = float(points.square().mean().sqrt()), points.mean(0)
    centered = points - center
    # Not from ones: they are orthogonal to images that all have the same sum.
    direction = torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0)).to(points)
    for _ in range(50):
        direction = centered.T @ (centered @ direction)
        direction = direction / direction.norm().clamp(min=1e-30)
    widest = float((centered @ direction).square().mean().sqrt())
    sigma_max = max(1.0, 5 * widest, 3 * float(center.norm()))
    return Edm(sigma_min=0.1, sigma_max=sigma_max, mean=math.log(rms) - 0.5, sigma_data=rms)


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
