"""What every sampler takes, and how the quantities a diffusion network may predict turn into each other.

A noisy image is `x = mu + sigma * eps`. A denoiser returns `D(x, sigma) = E[mu | x]`, the mean of the clean images
that could have become `x`. Score, noise and velocity are linear in it, so they are views, not other models.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A network or a closed form: anything that maps a noisy batch to the mean of its clean images."""

    def __call__(
        self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *shape"]:
        """Return E[mu | x]; `sigma` is the noise std of each row, or None for a noise-unconditional denoiser."""
        ...


def expand(value: Shaped[Tensor, " batch"], like: Float[Tensor, "batch *shape"]) -> Tensor:
    """View one number per row so that it broadcasts over `like`: [batch] -> [batch, 1, ..., 1]."""
    return value.reshape(-1, *([1] * (like.ndim - 1)))


def level(sigma: float, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """One noise level for every row."""
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def elsewhere(denoiser: Denoiser, device: torch.device | str) -> Denoiser:
    """A denoiser on `device` for a caller whose images are on the CPU: they are moved there and back.

    On the CPU it is the denoiser itself, so that one that walks by itself still does.
    """
    if torch.device(device).type == "cpu":
        return denoiser

    def call(x: Tensor, sigma: Tensor | None) -> Tensor:
        return denoiser(x.to(device), None if sigma is None else sigma.to(device)).cpu()

    return call


def score_from_denoised(x: Tensor, denoised: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Gradient of log p(x; sigma), by Tweedie's formula: (D - x) / sigma^2."""
    return (denoised - x) / expand(sigma, x) ** 2


def denoised_from_score(x: Tensor, score: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Tweedie's formula read backwards: x + sigma^2 * score."""
    return x + expand(sigma, x) ** 2 * score


def eps_from_denoised(x: Tensor, denoised: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """The unit noise that the denoiser believes is in x: (x - D) / sigma."""
    return (x - denoised) / expand(sigma, x)


def denoised_from_eps(x: Tensor, eps: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Remove predicted unit noise: x - sigma * eps."""
    return x - expand(sigma, x) * eps


def velocity_from_denoised(x: Tensor, denoised: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Velocity eps - mu of the linear path `y = (1 - t) mu + t eps`, where x = y / (1 - t) and sigma = t / (1 - t).

    Source: rectified flow / flow matching (arXiv 2209.03003, 2210.02747), rewritten in sigma space.
    """
    return eps_from_denoised(x, denoised, sigma) - denoised


def denoised_from_velocity(x: Tensor, velocity: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Invert `velocity_from_denoised`: D = (x - sigma * velocity) / (1 + sigma)."""
    s = expand(sigma, x)
    return (x - s * velocity) / (1 + s)


def v_from_denoised(x: Tensor, denoised: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """The `v` target alpha * eps - s * mu of progressive distillation (arXiv 2202.00512, eq. 8).

    Its process is `y = alpha mu + s eps` with alpha^2 + s^2 = 1; here x = y / alpha and sigma = s / alpha.
    """
    s = expand(sigma, x)
    alpha = (1 + s**2).rsqrt()
    return alpha * (x - denoised) / s - alpha * s * denoised


def denoised_from_v(x: Tensor, v: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """Invert `v_from_denoised`: D = alpha^2 x - alpha sigma v, alpha = 1 / sqrt(1 + sigma^2)."""
    s = expand(sigma, x)
    alpha = (1 + s**2).rsqrt()
    return alpha**2 * x - alpha * s * v


class Prediction(NamedTuple):
    """What a network puts out, as functions of (x, that or the denoised image, sigma)."""

    to_denoised: Callable[[Tensor, Tensor, Tensor], Tensor]
    from_denoised: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]  # of squared error in the denoised image, that makes it squared error in this


def _same(x: Tensor, value: Tensor, sigma: Tensor) -> Tensor:
    return value


PREDICTIONS = {
    "denoised": Prediction(_same, _same, lambda sigma: torch.ones_like(sigma)),
    "eps": Prediction(denoised_from_eps, eps_from_denoised, lambda sigma: sigma**-2),
    "v": Prediction(denoised_from_v, v_from_denoised, lambda sigma: 1 + sigma**-2),
    "velocity": Prediction(denoised_from_velocity, velocity_from_denoised, lambda sigma: (1 + 1 / sigma) ** 2),
}


def prediction(name: str) -> Prediction:
    """The entry of `PREDICTIONS`.

    Raises:
        ValueError: for another name.
    """
    if name not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {name!r}")
    return PREDICTIONS[name]
