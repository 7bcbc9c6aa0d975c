"""A sampler run to its end, with what a report needs to know about it."""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.sample.noise import Noise
from temperance.sample.projected import Project, projected
from temperance.sample.sampler import Sampler, Start, Walker, residual

CONVERGED = 1.5  # largest accepted ratio of the final noise estimate to the schedule's end


class NotConverged(UserWarning):
    """Some samples still hold more noise than the sampler was asked to leave."""


class Samples(NamedTuple):
    """What a sampler hands out."""

    x: Float[Tensor, "batch *shape"]
    nfe: int  # denoiser evaluations per image
    final_sigma: Float[Tensor, " batch"]  # |D - x| / sqrt(d) at the last state, the noise the denoiser still sees
    converged: Bool[Tensor, " batch"]


@torch.no_grad()
def integrate(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: Sequence[int],
    sigmas: Float[Tensor, " steps"],
    noise: Noise,
    *,
    project: Project | None = None,
    start: Start | None = None,
    **options: float | int,
) -> Samples:
    """Draw noise at sigmas[0], run a sampler to its end, remove what noise is left, and say whether that was allowed.

    The last evaluation measures the noise left at the final state and is handed out as the image. Images whose noise
    estimate exceeds `CONVERGED` times sigmas[-1] are marked, and a `NotConverged` warning counts them: a sampler that
    stops early looks like generalization. With `project`, every denoised image, and so every sample, obeys it. With
    `start`, samples begin there, and only the levels below are walked. An empty batch takes no evaluation.

    Raises:
        ValueError: if the start's level is not above the last one.
    """
    counted = _Counted(denoiser if project is None else projected(denoiser, project))
    if start is not None:
        sigmas = _below(start.sigma, sigmas)
    x = float(sigmas[0]) * noise.normal(shape) if start is None else start(noise)
    if not len(x):
        return Samples(x, 0, residual(x, x), torch.ones(0, dtype=torch.bool))
    last = deque([x], maxlen=1)  # of all states, only the last is kept
    last.extend(sampler(counted, x, sigmas, noise, **options))
    x = last[0]
    denoised = counted(x, level(float(sigmas[-1]), x))
    final = residual(x, denoised)
    converged = final <= CONVERGED * float(sigmas[-1])
    if not bool(converged.all()):
        warnings.warn(
            f"{int((~converged).sum())} of {len(x)} samples have not converged: noise estimate up to "
            f"{float(final.max()):.3g} where the schedule ends at {float(sigmas[-1]):.3g}",
            NotConverged,
            stacklevel=2,
        )
    return Samples(denoised, counted.evaluations, final, converged)


def _below(level: float, sigmas: Float[Tensor, " steps"]) -> Float[Tensor, " fewer"]:
    """A level, then all that are below it; one that is hardly below would be a step for nothing."""
    if level <= float(sigmas[-1]):
        raise ValueError(f"samples cannot start at level {level:.3g}: the schedule ends at {float(sigmas[-1]):.3g}")
    lower = sigmas[sigmas < 0.95 * level]
    return torch.cat([sigmas.new_tensor([level]), lower if len(lower) else sigmas[-1:]])


class _Counted:
    """A denoiser that counts its evaluations, and walks by itself if what it counts does."""

    def __init__(self, source: Denoiser):
        self.source, self.evaluations = source, 0
        if isinstance(source, Walker):
            self.walker, self.trajectory = source, self._trajectory

    def __call__(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        self.evaluations += 1
        return self.source(x, sigma)

    def _trajectory(self, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
        """The last state alone, since no other is kept; counted as the evaluations that it stands for."""
        self.evaluations += 2 * (len(sigmas) - 1)
        return self.walker.trajectory(x, sigmas, last=True)
