"""Random numbers by sample index: image i depends only on (seed, i), never on the batch it was drawn in."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

# Distance between the noise indices of two draws of one image. torch's CPU generator takes the low 32 bits of a seed
# only, so that a power of two would repeat the noise; from the 16th draw on it repeats that of another image.
FRESH = 268_435_459


class Noise:
    """A stream of normal numbers for each sample index, so that results do not depend on how samples are batched.

    Cost: one generator per row (5 kB, about 10 us a draw and row).
    """

    def __init__(self, seed: int, index: Sequence[int]):
        # Weyl-like mixing keeps the streams of neighboring (seed, index) pairs apart.
        self.generators = [
            Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + i * 0xD1B54A32D192ED03 + 1) % (1 << 63)) for i in index
        ]

    @classmethod
    def of(cls, generators: Sequence[Generator]) -> "Noise":
        """The streams of given generators, one for each image: the list that diffusers' pipelines take.

        Raises:
            ValueError: if one generator is given twice, which would mix two images' streams.
        """
        if len({id(g) for g in generators}) != len(generators):
            raise ValueError(f"generators must be distinct, got {len(generators)} with repeats; make one an image")
        noise = cls(0, [])
        noise.generators = list(generators)
        return noise

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "batch *shape"]:
        """Standard normal numbers of `shape` for every index: [len(index), *shape]."""
        rows = [torch.randn(tuple(shape), generator=g, device=g.device) for g in self.generators]
        return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)

    def whole(self, below: int | Sequence[int]) -> Int[Tensor, " batch"]:
        """A whole number from 0 to `below` - 1 for every index, each as likely as another; `below` may be its own."""
        most = [below] * len(self.generators) if isinstance(below, int) else below
        rows = [torch.randint(n, (), generator=g, device=g.device) for n, g in zip(most, self.generators, strict=True)]
        return torch.tensor([int(row) for row in rows], dtype=torch.long)
