"""Deterministic sampling of second order with two evaluations a step."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser
from temperance.sample.noise import Noise
from temperance.sample.sampler import Walker, check_sigmas
from temperance.step import second_order


def heun(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """Deterministic second-order steps along dx/dsigma = (x - D) / sigma (arXiv 2206.00364, alg. 1 without churn).

    Between levels far apart, which `vp` and `flow` begin with, another rule of two evaluations: see `temperance.step`.
    Two evaluations a step. Written with D, not the score, so that no 1/sigma^2 is formed. `noise` is not used.
    A denoiser that is a `Walker` walks itself.
    """
    check_sigmas(sigmas)
    if isinstance(denoiser, Walker):
        yield from denoiser.trajectory(x, sigmas)
        return
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        x = second_order(denoiser, x, now, then)
        yield x
