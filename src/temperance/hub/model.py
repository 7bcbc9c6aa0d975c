"""A denoiser with what a sampler has to know about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from temperance.autoguidance import Autoguided
from temperance.network import Parameterized, Preconditioned
from temperance.sample import FRESH
from temperance.schedule import Schedule


@dataclass(frozen=True)
class Model:
    """A denoiser with what a sampler has to know about it."""

    denoiser: nn.Module
    schedule: Schedule
    shape: tuple[int, int, int]
    about: dict[str, Any]

    @property
    def told(self) -> bool:
        """Whether the denoiser needs sigma; a noise-unconditional network of `Vp` or `Flow` sits in one that does."""
        inner = self.denoiser.denoiser if isinstance(self.denoiser, Autoguided) else self.denoiser
        return isinstance(inner, Preconditioned | Parameterized)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes it was trained on; empty if it is not class-conditional."""
        return tuple(self.about.get("classes") or ())

    def label(self, name: str) -> int:
        """The number of a class, given its name or, where the names are no numbers themselves, that number.

        Raises:
            ValueError: if the model is not class-conditional or has no such class.
        """
        if not self.classes:
            raise ValueError(f"--label {name}: the model is not class-conditional; train one with --class-conditional")
        if name in self.classes:
            return self.classes.index(name)
        if name.isdigit() and int(name) < len(self.classes) and not all(c.isdigit() for c in self.classes):
            return int(name)
        known = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        raise ValueError(f"--label {name} is no class of the model; expected one of {known}")

    def labels(self, index: Sequence[int]) -> tuple[Int[Tensor, " batch"], ...]:
        """What the denoiser is called with after x and sigma for these sample indices: their classes, or nothing.

        All classes in turn, or the one that `about` holds as `label`. The class depends on the index alone, so that it
        is the same in any batch, and after a redraw, which adds multiples of `FRESH` to it.
        """
        if not self.classes:
            return ()
        only = self.about.get("label")
        return (torch.tensor([i % FRESH % len(self.classes) if only is None else only for i in index]),)
