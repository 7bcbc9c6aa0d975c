"""Samplers: generators that walk a batch of noise down to images, for any denoiser.

Each yields the batch after every step, so `*_, x = heun(denoiser, x, sigmas)` is the whole loop. `integrate` adds what
a report needs: how many evaluations it took, and whether the noise is really gone. Every random number belongs to one
sample index (`Noise`), so image i depends only on (seed, i), never on the batch it was drawn in.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from temperance.denoiser import Denoiser, expand

CONVERGED = 1.5  # largest accepted ratio of the final noise estimate to the schedule's end


class NotConverged(UserWarning):
    """Some samples still hold more noise than the sampler was asked to leave."""


class Noise:
    """A stream of normal numbers for each sample index, so that results do not depend on how samples are batched.

    Cost: one generator per row (5 kB, about 10 us a draw and row).
    """

    def __init__(self, seed: int, index: Sequence[int]):
        # Weyl-like mixing keeps the streams of neighboring (seed, index) pairs apart.
        self.generators = [
            Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + i * 0xD1B54A32D192ED03 + 1) % (1 << 63)) for i in index
        ]

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "batch *shape"]:
        """Standard normal numbers of `shape` for every index: [len(index), *shape]."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.generators]).to(device)


class Samples(NamedTuple):
    """What a sampler hands out."""

    x: Float[Tensor, "batch *shape"]
    nfe: int  # denoiser evaluations per image
    final_sigma: Float[Tensor, " batch"]  # |D - x| / sqrt(d) at the last state, the noise the denoiser still sees
    converged: Bool[Tensor, " batch"]


@runtime_checkable
class Sampler(Protocol):
    """The common signature of this module's generators."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "batch *shape"],
        sigmas: Float[Tensor, " steps"],
        noise: Noise,
    ) -> Iterator[Tensor]:
        """Yield the batch after each step; the last one is at noise level sigmas[-1]."""
        ...


def heun(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """Deterministic second-order steps along dx/dsigma = (x - D) / sigma (arXiv 2206.00364, alg. 1 without churn).

    Two evaluations a step. Written with D, not the score, so that no 1/sigma^2 is formed. `noise` is not used.
    """
    _check_sigmas(sigmas)
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        slope = (x - denoiser(x, _level(now, x))) / now
        ahead = x + (then - now) * slope
        x = x + (then - now) / 2 * (slope + (ahead - denoiser(ahead, _level(then, x))) / then)
        yield x


def predictor_corrector(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise,
    *,
    snr: float = 0.16,
    correctors: int = 1,
) -> Iterator[Tensor]:
    """Ancestral steps, each followed by Langevin corrections at the new level (Song et al. 2021, arXiv 2011.13456).

    The predictor is the exact reverse step for a single point, x' = D + (s'/s)^2 (x - D) + s' sqrt(1 - (s'/s)^2) z.
    The corrector's step follows from the signal-to-noise ratio `snr`, the same for all rows of a level (d and sigma
    decide it, not the batch). 1 + `correctors` evaluations a step.
    """
    _check_sigmas(sigmas)
    shape = x.shape[1:]
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        ratio = (then / now) ** 2
        denoised = denoiser(x, _level(now, x))
        x = denoised + ratio * (x - denoised) + then * math.sqrt(1 - ratio) * noise.normal(shape, x.device)
        # Song's step 2 (snr |z| / |score|)^2 with |score| = sqrt(d) / sigma, its value for noise of std sigma.
        step = 2 * (snr * then) ** 2
        for _ in range(correctors):
            drift = (denoiser(x, _level(then, x)) - x) / then**2
            x = x + step * drift + math.sqrt(2 * step) * noise.normal(shape, x.device)
        yield x


def adaptive(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise | None = None,
    *,
    step: float = 0.1,
    limit: int = 400,
) -> Iterator[Tensor]:
    """Contract towards the denoised image, x' = x + a (D - x), until the noise it sees is down to sigmas[-1].

    For denoisers that are not told sigma: the level is estimated as |D - x| / sqrt(d), so no preset schedule can
    overshoot, and no training data is needed (arXiv 2601.19285 needs the nearest training point here). Only the first
    and last of `sigmas` matter. A row that is done stays where it is. At most `limit` evaluations.
    """
    _check_sigmas(sigmas)
    end = float(sigmas[-1])
    level = torch.full((len(x),), float(sigmas[0])).to(x)
    for _ in range(limit):
        denoised = denoiser(x, level)
        level = residual(x, denoised)
        moving = level > end
        if not bool(moving.any()):
            return
        x = torch.where(expand(moving, x), x + step * (denoised - x), x)
        yield x


def residual(x: Float[Tensor, "batch *shape"], denoised: Tensor) -> Float[Tensor, " batch"]:
    """The noise std a denoiser sees in each image: |D - x| / sqrt(d)."""
    return (denoised - x).flatten(1).square().mean(1).sqrt()


@torch.no_grad()
def integrate(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: Sequence[int],
    sigmas: Float[Tensor, " steps"],
    noise: Noise,
    **options: float | int,
) -> Samples:
    """Draw noise at sigmas[0], run a sampler to its end, remove what noise is left, and say whether that was allowed.

    The last evaluation measures the noise left at the final state and is handed out as the image. Images whose noise
    estimate exceeds `CONVERGED` times sigmas[-1] are marked, and a `NotConverged` warning counts them: a sampler that
    stops early looks like generalization.
    """
    evaluations = 0

    def counted(x: Tensor, sigma: Tensor | None) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return denoiser(x, sigma)

    x = float(sigmas[0]) * noise.normal(shape)
    last = deque([x], maxlen=1)  # of all states, only the last is kept
    last.extend(sampler(counted, x, sigmas, noise, **options))
    x = last[0]
    denoised = counted(x, _level(float(sigmas[-1]), x))
    final = residual(x, denoised)
    converged = final <= CONVERGED * float(sigmas[-1])
    if not bool(converged.all()):
        warnings.warn(
            f"{int((~converged).sum())} of {len(x)} samples have not converged: noise estimate up to "
            f"{float(final.max()):.3g} where the schedule ends at {float(sigmas[-1]):.3g}",
            NotConverged,
            stacklevel=2,
        )
    return Samples(denoised, evaluations, final, converged)


def _level(sigma: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def _check_sigmas(sigmas: Tensor) -> None:
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas > 0).all()) or not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"sigmas must be at least two decreasing numbers > 0, got {sigmas.tolist()[:6]}")
