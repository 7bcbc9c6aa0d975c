"""Deterministic sampling of second order with two evaluations a step."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser
from temperance.sample.noise import Noise
from temperance.sample.sampler import Walker, check_sigmas, level


def heun(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """Deterministic second-order steps along dx/dsigma = (x - D) / sigma (arXiv 2206.00364, alg. 1 without churn).

    Two evaluations a step. Written with D, not the score, so that no 1/sigma^2 is formed. `noise` is not used.
    A denoiser that is a `Walker` walks itself.
    """
    check_sigmas(sigmas)
    if isinstance(denoiser, Walker):
        yield from denoiser.trajectory(x, sigmas)
        return
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        slope = (x - denoiser(x, level(now, x))) / now
        ahead = x + (then - now) * slope
        x = x + (then - now) / 2 * (slope + (ahead - denoiser(ahead, level(then, x))) / then)
        yield x
