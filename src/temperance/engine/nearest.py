"""The k nearest points of many rows, exactly: 8-bit products to find candidates, differences to rank them.

For each group of rows all upper bounds are made; a sample of them gives a threshold that about 2 k points pass; the
exact distances of those bound the k-th nearest; whatever may be nearer than that is measured. Distances are float32
differences summed in float64, and float64 throughout where two of them are too close to order.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.distance import Neighbors
from temperance.engine import exact, scan
from temperance.engine.exact import Pairs
from temperance.engine.screen import Integer, Single
from temperance.engine.survivors import Screen
from temperance.engine.table import Table

STRIDE = 4  # one bound in so many is sampled
WIDE = 1.4  # times k: how many candidates the sampled threshold aims at
ROWS = 512


class Finder:
    """Nearest-point search in one set of points, prepared once.

    Cost: codes of n d bytes if the budget allows; then 2 n d integer operations a row, and a difference for each of
    about 3 k points.
    """

    def __init__(self, points: Float[Tensor, "n d"], *, block_bytes: int = 256 << 20):
        self.table = Table(points, block_bytes)
        wide = not points.is_cuda and self.table.n * self.table.d >= 1 << 20
        self.screen: Screen = Integer(self.table, 0.7 * block_bytes) if wide else Single(self.table)
        codes = self.table.n * self.table.d if isinstance(self.screen, Integer) and self.screen.codes is not None else 0
        # Bounds of a group, a mask over them, and room for the candidates.
        self.rows = max(1, min(ROWS, (block_bytes - codes) // (12 * self.table.n)))

    def blocks(
        self, x: Float[Tensor, "batch d"], k: int, exclude: Int[Tensor, " batch"] | None = None
    ) -> Iterator[Neighbors]:
        """Neighbors of consecutive groups of rows; `exclude` names one point per row that does not count.

        Raises:
            ValueError: if k is not in 1..n, or 1..n-1 with `exclude`; if x is not [batch, d] or not finite.
        """
        most = self.table.n - (exclude is not None)
        if not 1 <= k <= most:
            raise ValueError(f"k must be between 1 and {most} for {self.table.n} points, got {k}")
        if x.ndim != 2 or x.shape[1] != self.table.d:
            raise ValueError(f"x must be [batch, {self.table.d}], got {tuple(x.shape)}")
        for start in range(0, len(x), self.rows):
            part = x[start : start + self.rows].double()
            if not bool(part.isfinite().all()):
                raise ValueError(f"x holds non-finite values in rows {start} to {start + len(part) - 1}")
            yield self._block(part, k, None if exclude is None else exclude[start : start + self.rows])

    def __call__(self, x: Float[Tensor, "batch d"], k: int, exclude: Int[Tensor, " batch"] | None = None) -> Neighbors:
        """The k nearest points of every row, nearest first; ties go to the lower index."""
        parts = list(self.blocks(x, k, exclude))
        if not parts:
            return Neighbors(torch.empty(0, k, dtype=torch.long), torch.empty(0, k))
        return Neighbors(torch.cat([p.index for p in parts]), torch.cat([p.distance for p in parts]))

    def _block(self, x: Tensor, k: int, exclude: Tensor | None) -> Neighbors:
        query = x - self.table.mean
        upper = torch.empty(len(x), self.table.n, device=x.device)
        for start, bounds in self.screen.look(query).upper:
            upper[:, start : start + bounds.shape[1]] = bounds
        if exclude is not None:
            upper[torch.arange(len(x), device=x.device), exclude] = -torch.inf
        first = _threshold(upper, k)
        pairs = _passing(upper, first)
        short = (torch.bincount(pairs.row, minlength=len(x)) < k).nonzero()[:, 0]
        if len(short):
            first[short] = upper[short].topk(k).values[:, -1]
            pairs = _passing(upper, first)
        size, error = exact.rough(x, self.table, pairs)
        bound = _kth(size + error, pairs, len(x), k)
        least = ((query.square().sum(1) - bound**2) / 2).float()
        least = least - least.abs() * 2.0**-22
        more = _passing(upper, torch.where(least < first, least, torch.inf), first)
        if len(more.row):
            rest = exact.rough(x, self.table, more)
            pairs = Pairs(torch.cat([pairs.row, more.row]), torch.cat([pairs.point, more.point]))
            size, error = torch.cat([size, rest[0]]), torch.cat([error, rest[1]])
            bound = _kth(size + error, pairs, len(x), k)
        keep = size - error <= bound[pairs.row]
        return self._ranked(x, Pairs(pairs.row[keep], pairs.point[keep]), size[keep], error[keep], k)

    def _ranked(self, x: Tensor, pairs: Pairs, size: Tensor, error: Tensor, k: int) -> Neighbors:
        """The first k of each row, after float64 where intervals overlap."""
        order = _order(pairs, size)
        pairs, size, error = Pairs(pairs.row[order], pairs.point[order]), size[order], error[order]
        close = (size[1:] - error[1:] <= size[:-1] + error[:-1]) & (pairs.row[1:] == pairs.row[:-1])
        doubt = torch.zeros(len(size), dtype=torch.bool, device=size.device)
        doubt[1:] |= close
        doubt[:-1] |= close
        size[doubt] = exact.squared(x, self.table, Pairs(pairs.row[doubt], pairs.point[doubt])).sqrt()
        by_point = pairs.point.argsort(stable=True)
        order = by_point[_order(Pairs(pairs.row[by_point], pairs.point[by_point]), size[by_point])]
        count = torch.bincount(pairs.row, minlength=len(x))
        place = (count.cumsum(0) - count)[:, None] + torch.arange(k, device=x.device)
        chosen = order[place]
        return Neighbors(pairs.point[chosen], size[chosen].float())


def _order(pairs: Pairs, size: Tensor) -> Tensor:
    """By row, then by size, then as given."""
    by_size = size.argsort(stable=True)
    return by_size[pairs.row[by_size].argsort(stable=True)]


def _threshold(upper: Float[Tensor, "batch n"], k: int) -> Float[Tensor, " batch"]:
    """A value that about WIDE * k bounds of each row exceed."""
    n = upper.shape[1]
    sample = upper[:, ::STRIDE]
    wanted = math.ceil(WIDE * k / STRIDE) + 2
    if sample.shape[1] <= 4 * wanted:
        return upper.topk(min(n, 2 * k)).values[:, -1]
    return sample.topk(wanted).values[:, -1]


def _passing(upper: Tensor, least: Tensor, below: Tensor | None = None) -> Pairs:
    """Pairs with least <= bound, and bound < below; only rows that can have any are looked at."""
    rows = least.isfinite().nonzero()[:, 0]
    if len(rows) == 0:
        return Pairs(rows, rows)
    some = upper if len(rows) == len(upper) else upper[rows]
    mask = some >= least[rows, None]
    if below is not None:
        mask &= some < below[rows, None]
    row, point = scan.where(mask)
    return Pairs(rows[row], point)


def _kth(size: Tensor, pairs: Pairs, batch: int, k: int) -> Float[Tensor, " batch"]:
    """The k-th smallest value of each row, of at least k."""
    order = _order(pairs, size)
    count = torch.bincount(pairs.row, minlength=batch)
    return size[order[count.cumsum(0) - count + k - 1]]
