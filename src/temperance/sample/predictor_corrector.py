"""Stochastic sampling with Langevin corrections between the steps: the paper's sampler."""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.sample.ancestral import reverse_step
from temperance.sample.noise import Noise
from temperance.sample.sampler import check_sigmas


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

    The predictor is the exact reverse step for a single point (`ancestral`). The corrector's step follows from the
    signal-to-noise ratio `snr`, the same for all rows of a level (d and sigma decide it, not the batch).
    1 + `correctors` evaluations a step.
    """
    check_sigmas(sigmas)
    shape = x.shape[1:]
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        x = reverse_step(x, denoiser(x, level(now, x)), now, then, noise)
        # Song's step 2 (snr |z| / |score|)^2 with |score| = sqrt(d) / sigma, its value for noise of std sigma.
        step = 2 * (snr * then) ** 2
        for _ in range(correctors):
            drift = (denoiser(x, level(then, x)) - x) / then**2
            x = x + step * drift + math.sqrt(2 * step) * noise.normal(shape, x.device)
        yield x
