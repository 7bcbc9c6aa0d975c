"""Whether a tensor can be images in [-1, 1]: what was meant otherwise looks like images that copy nothing."""

import warnings
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from temperance.data.images import InputWarning

if TYPE_CHECKING:
    from torch import Tensor
else:  # torch costs a second to import, and reading images does not need it
    Tensor = Any

REACH = 5.0  # beyond it no sampler goes, however early it was stopped; pixels from 0 to 255 do
DARK = -0.5  # a training set that reaches below it has dark pixels, and so should samples


def check_range(value: Tensor, name: str) -> Float[Tensor, "n c h w"]:
    """The tensor itself. Samples that nobody clamped reach beyond [-1, 1], stored pixels far beyond.

    Raises:
        ValueError: if it holds no floating-point images, or numbers that no sampler makes.
    """
    hint = "; stored pixels are given as a NumPy array, uint8 [n, h, w, c]"
    if value.ndim != 4 or not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name}: a tensor must hold floating-point images [n, c, h, w] in [-1, 1], got {kind} {list(value.shape)}"
            + hint
        )
    if value.numel() and float(value.abs().max()) > REACH:
        raise ValueError(
            f"{name}: a tensor must hold images in [-1, 1], got {float(value.min()):g} to {float(value.max()):g}" + hint
        )
    return value


def warn_of_range(darkest: float, of_train: float, name: str) -> None:
    """Warn of images without a dark pixel beside a training set that has some: they are in [0, 1], most likely.

    Held against training images in [-1, 1], exact copies in [0, 1] lie far from everything.
    """
    if darkest >= 0 and of_train < DARK:
        warnings.warn(
            f"{name}: no value is below 0, those of the training images go down to {of_train:.2g}: images are in"
            " [-1, 1]; of [0, 1], as diffusers pipelines give them, take 2 x - 1",
            InputWarning,
            stacklevel=3,
        )
