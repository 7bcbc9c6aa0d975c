"""What every feature space is: images in, one row each out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Encoder(Protocol):
    """Images in [-1, 1] to one row of features each. Equal names mean equal features: caches rely on it."""

    @property
    def name(self) -> str:
        """What a report calls this space."""
        ...

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Encode one batch."""
        ...


@dataclass(frozen=True, eq=False)
class Function:
    """Any function of an image batch as an encoder: `Function(lambda x: x.mean((2, 3)), "mean color, v1")`.

    The name stands for the function in reports and in the cache: a changed function needs another name.
    """

    call: Callable[[Tensor], Tensor]
    name: str

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """What the function returns for [n, c, h, w] in [-1, 1]: one row of features each."""
        return self.call(images)
