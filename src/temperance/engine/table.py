"""Training points as the engine reads them: flat rows, handed out in blocks, with norms around the mean.

Nothing here copies the points. Products are taken with the stored rows and shifted, x.(mu - m) = x.mu - x.m, unless
the data sits so far from the origin that float32 products would lose it; then each block is centered on its
way.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

OFFSET = 8.0  # |mean| / rms radius above which blocks are centered before multiplying


class Table:
    """Points [n, d] with their mean, half squared norms around it, and a way to walk them in float32 blocks.

    `points` may be memory-mapped: it is only ever read in row order, `rows` at a time. Cost of construction:
    two passes over the points; 12 bytes kept per point.
    """

    def __init__(self, points: Float[Tensor, "n d"], block_bytes: int):
        if points.ndim != 2 or len(points) == 0 or points.shape[1] == 0:
            raise ValueError(f"points must be [n, d] with n, d > 0, got {tuple(points.shape)}")
        self.points = points
        self.n, self.d = points.shape
        self.row_bytes = self.d * points.element_size()
        # A block of points should stay in the last-level cache between the two products that use it.
        self.rows = max(64, min(8192, (8 << 20) // self.d, block_bytes // (16 * self.d)))
        self.mean = self._mean()
        self.half = torch.cat([(p.double() - self.mean).square().sum(1) / 2 for _, p in self.raw()])
        self.radius = float((2 * self.half.max()).sqrt())
        rms = float((2 * self.half.mean()).sqrt())
        self.centered = float(self.mean.norm()) > OFFSET * rms

    def _mean(self) -> Tensor:
        total = torch.zeros(self.d, dtype=torch.float64, device=self.points.device)
        for start, part in self.raw():
            total += part.sum(0, dtype=torch.float64)
            if not bool(total.isfinite().all()) and (bad := int((~part.isfinite()).sum())):
                raise ValueError(f"points holds {bad} non-finite values in the rows up to {start + len(part)}")
        return total / self.n

    def raw(self) -> Iterator[tuple[int, Tensor]]:
        """Blocks of stored rows, each with the number of its first row."""
        for start in range(0, self.n, self.rows):
            yield start, self.points[start : start + self.rows]

    def blocks(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[int, Tensor]]:
        """The same as they are multiplied: in `dtype`, around the mean if `centered`."""
        for start, part in self.raw():
            yield start, self.load(part, dtype)

    def load(self, part: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows as they are multiplied."""
        return (part.double() - self.mean).to(dtype) if self.centered else part.to(dtype)

    def affinity(self, query: Tensor, shift: Tensor, start: int, block: Tensor) -> Float[Tensor, "batch rows"]:
        """x.mu - |mu|^2 / 2 around the mean: larger is nearer, |x|^2 is never formed.

        `query` is x - mean; error at most `rounding(query)`. Cost: 2 * batch * rows * d flops; `mv` for a
        single row.
        """
        half = self.half[start : start + len(block)].to(query.dtype)
        if len(query) == 1:
            return torch.addmv(half, block, query[0], beta=-1).sub_(shift)[None]
        return torch.addmm(half, query, block.T, beta=-1).sub_(shift[:, None])

    def shift(self, query: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """What a product with stored rows has too much: query . mean."""
        return torch.zeros_like(query[:, 0]) if self.centered else (query.double() @ self.mean).to(query.dtype)

    def rounding(self, query: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """A bound on the error of `affinity`: d + 8 roundings, each of a product of norms (Cauchy-Schwarz)."""
        largest = self.radius if self.centered else self.radius + 2 * float(self.mean.norm())
        scale = query.double().norm(dim=1) * largest + float(self.half.max())
        return (self.d + 8) * torch.finfo(query.dtype).eps / 2 * scale
