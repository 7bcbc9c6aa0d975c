"""The contraction of `adaptive`, with noise that is annealed away."""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, expand, level
from temperance.sample.noise import Noise
from temperance.sample.sampler import check_share, check_sigmas, only, residual


def annealed(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise,
    *,
    step: float = 0.1,
    limit: int = 400,
) -> Iterator[Tensor]:
    """Ancestral steps at the level that the denoiser sees, each to (1 - a) of it, until that is down to sigmas[-1].

    With s = |D - x| / sqrt(d) and q = (1 - a)^2: x' = D + q (x - D) + s sqrt(q (1 - q)) z, the reverse step from s to
    (1 - a) s. For denoisers that are not told sigma. A sampler that adds noise may believe it is done too early;
    `integrate` measures the end. A row that is done stays where it is. At most `limit` evaluations.
    """
    check_sigmas(sigmas)
    check_share("step", step, 0.0, 1.0)
    end = float(sigmas[-1])
    sigma = level(float(sigmas[0]), x)
    kept = (1 - step) ** 2
    for _ in range(limit):
        denoised = denoiser(x, sigma)
        sigma = residual(x, denoised)
        moving = sigma > end
        if not bool(moving.any()):
            return
        fresh = expand(sigma, x) * math.sqrt(kept * (1 - kept)) * noise.normal(x.shape[1:], x.device)
        x = only(moving, denoised + kept * (x - denoised) + fresh, x)
        yield x
