"""The ways a guard looks at a sample: whole, mirrored, and the parts that a shift may have left."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

from torch import Tensor

from temperance.augmentation import mirrored


class View(NamedTuple):
    """A way to look at a sample, and the part of the training images that it is held against."""

    inner: bool  # against their middle, or whole
    see: Callable[[Tensor], Tensor]


def views_of(height: int, width: int, shift: int) -> list[View]:
    """The sample whole, its parts that a shift of up to `shift` pixels may have left, and the mirror images of all."""
    plain = [View(False, _same)]
    for dy, dx in product(range(2 * shift + 1), repeat=2) if shift else ():
        plain.append(View(True, crop(dy, dx, height - 2 * shift, width - 2 * shift)))
    return plain + [View(view.inner, _then(mirrored, view.see)) for view in plain]


def _same(images: Tensor) -> Tensor:
    return images


def crop(top: int, left: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A function that cuts a part out of images."""
    return lambda images: images[..., top : top + height, left : left + width]


def _then(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: second(first(images))
