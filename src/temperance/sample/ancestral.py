"""Stochastic sampling by the reverse step that is exact for a single image."""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.sample.noise import Noise
from temperance.sample.sampler import check_share, check_sigmas


def ancestral(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise,
    *,
    eta: float = 1.0,
) -> Iterator[Tensor]:
    """Draw each step from q(x' | x, mu = D) (DDPM, arXiv 2006.11239, eq. 7, in sigma space). One evaluation a step.

    Args:
        denoiser: E[mu | x].
        x: noise of std sigmas[0].
        sigmas: decreasing noise levels.
        noise: where the step's noise comes from.
        eta: share of the fresh noise, as in DDIM (arXiv 2010.02502): 1 is ancestral, 0 is Euler's deterministic step.
    """
    check_sigmas(sigmas)
    check_share("eta", eta, 0.0, 1.0)
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        x = reverse_step(x, denoiser(x, level(now, x)), now, then, noise, eta)
        yield x


def reverse_step(
    x: Float[Tensor, "batch *shape"], denoised: Tensor, now: float, then: float, noise: Noise, eta: float = 1.0
) -> Float[Tensor, "batch *shape"]:
    """Return x' = D + (s'/s)^2 (x - D) + s' sqrt(1 - (s'/s)^2) z; with eta < 1, less of z and more of x - D."""
    ratio = (then / now) ** 2
    if eta == 0:
        return denoised + then / now * (x - denoised)
    if eta < 1:
        kept = math.sqrt(ratio * (1 - eta**2 * (1 - ratio)))
        return (
            denoised + kept * (x - denoised) + eta * then * math.sqrt(1 - ratio) * noise.normal(x.shape[1:], x.device)
        )
    return denoised + ratio * (x - denoised) + then * math.sqrt(1 - ratio) * noise.normal(x.shape[1:], x.device)
