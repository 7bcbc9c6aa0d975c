"""Low frequencies of the gray image: blind to compression, resizing and brightness, and the hash made of them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.features.local import squared_up

SIDE, KEPT = 32, 8  # the image is brought to 32x32, the lowest 8x8 frequencies are kept


@dataclass(frozen=True)
class Dct:
    """The 63 lowest frequencies of the gray image, without its mean. No channels, no brightness, contrast kept."""

    name: str = "dct"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """[n, c, h, w] -> [n, 63]: orthonormal DCT-II of the image at 32x32. Cost: a few kflops an image."""
        return _lowest(images)[:, 1:]


@dataclass(frozen=True)
class PHash:
    """The 64-bit perceptual hash as zeros and ones, so that a squared distance is a Hamming distance.

    Source: pHash (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions), DCT variant: one
    bit a frequency, set where it is above the median of the 64. Distances are coarse and tie often.
    """

    name: str = "phash"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """[n, c, h, w] -> [n, 64] of 0 and 1."""
        low = _lowest(images)
        middle = low.double().quantile(0.5, dim=1, keepdim=True)
        return (low > middle).float()


def _lowest(images: Tensor) -> Float[Tensor, "n 64"]:
    gray = images.float().mean(1, keepdim=True)
    gray = squared_up(gray, SIDE)
    base = _cosines().to(gray)
    return (base @ gray[:, 0] @ base.T).flatten(1)


def _cosines() -> Float[Tensor, "kept side"]:
    """The first rows of the orthonormal DCT-II matrix."""
    k, x = torch.arange(KEPT)[:, None], torch.arange(SIDE)[None]
    rows = torch.cos(math.pi * k * (2 * x + 1).double() / (2 * SIDE)) * math.sqrt(2 / SIDE)
    rows[0] /= math.sqrt(2)
    return rows
