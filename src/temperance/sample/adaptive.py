"""Contraction towards the denoised image, for denoisers that are not told how noisy it is."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.sample.noise import Noise
from temperance.sample.sampler import check_share, check_sigmas, only, residual


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
    check_sigmas(sigmas)
    check_share("step", step, 0.0, 1.0)
    end = float(sigmas[-1])
    sigma = level(float(sigmas[0]), x)
    for _ in range(limit):
        denoised = denoiser(x, sigma)
        sigma = residual(x, denoised)
        moving = sigma > end
        if not bool(moving.any()):
            return
        x = only(moving, x + step * (denoised - x), x)
        yield x
