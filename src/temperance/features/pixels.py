"""The images themselves as rows, at full and at low resolution."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Pixels:
    """The images themselves, flattened."""

    name: str = "pixels"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """[n, c, h, w] -> [n, c * h * w], values untouched."""
        return images.flatten(1)


@dataclass(frozen=True)
class LowRes:
    """The images averaged down to at most `side` x `side`: what is left after blur, noise, JPEG and small moves."""

    side: int = 8

    @property
    def name(self) -> str:
        """`lowres`, with the side where it is not 8."""
        return "lowres" if self.side == 8 else f"lowres{self.side}"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """[n, c, h, w] -> [n, c * min(h, side) * min(w, side)], means of equal areas."""
        size = min(images.shape[2], self.side), min(images.shape[3], self.side)
        return functional.adaptive_avg_pool2d(images, size).flatten(1)
