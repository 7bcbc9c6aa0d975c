"""Deterministic sampling of second order with one evaluation a step."""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.sample.noise import Noise
from temperance.sample.sampler import check_sigmas


def dpm_solver(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """DPM-Solver++ (2M), midpoint form, in sigma space (arXiv 2211.01095, algorithm 2, with alpha = 1).

    x' = D~ + (s'/s) (x - D~) with D extrapolated from the last two evaluations in lambda = -log sigma,
    D~ = D + (D - D_before) h / (2 h_before). The first step is Euler's. One evaluation a step, so twice as many levels
    as Heun for the same cost. Each step contracts towards D~. `noise` is not used.
    """
    check_sigmas(sigmas)
    before, last = None, 0.0
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        denoised = denoiser(x, level(now, x))
        ahead = math.log(now / then)
        target = denoised if before is None else denoised + ahead / (2 * last) * (denoised - before)
        x = target + then / now * (x - target)
        before, last = denoised, ahead
        yield x
