"""The points that can matter to a row: found with upper bounds on the affinity, weighed by direct differences.

A screen gives U[i, j] >= x_i.mu_j - |mu_j|^2 / 2. One exact distance per row, to a point the screen likes, bounds the
nearest from above; whatever lies below the cut that follows has a weight under tol / n of the heaviest and is
dropped. The argument needs no assumption about the data, only that U is an upper bound.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.engine import exact, moments
from temperance.engine.exact import Pairs
from temperance.engine.law import Law
from temperance.engine.moments import Moments
from temperance.engine.table import Table


class Screen(Protocol):
    """Upper bounds on affinities, block by block."""

    name: str
    flops: float  # per row
    bytes: float  # per batch

    def upper(self, query: Float[Tensor, "batch d"]) -> Iterator[tuple[int, Tensor]]:
        """Blocks (first point, U [batch, rows]) over all points; `query` is x - mean in float64."""
        ...


class Found(NamedTuple):
    """Surviving pairs, sorted by row, and the rows that had more than the cap and are not among them."""

    pairs: Pairs
    over: Bool[Tensor, " batch"]


def find(x: Float[Tensor, "batch d"], table: Table, law: Law, screen: Screen, nats: float, cap: int) -> Found:
    """Every point whose pull may be within `nats` of the heaviest, for rows with at most `cap` of them."""
    query = x - table.mean
    x2 = query.square().sum(1)
    r2 = torch.full_like(x2, torch.inf)
    over = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    seen = torch.zeros(len(x), dtype=torch.long, device=x.device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, upper in screen.upper(query):
        r2 = torch.minimum(r2, _liked(x, table, upper, start))
        least = (x2 - law.cut(r2, nats)) / 2
        row, column = (upper >= _down(least, over, upper)[:, None]).nonzero(as_tuple=True)
        kept.append((row, column + start, upper[row, column]))
        seen += torch.bincount(row, minlength=len(x))
        over |= seen > 16 * cap
    row, index, bound = (torch.cat(parts) for parts in zip(*kept))
    alive = bound >= _down((x2 - law.cut(r2, nats)) / 2, over, bound)[row]
    row, index = row[alive], index[alive]
    over |= torch.bincount(row, minlength=len(x)) > cap
    row, index = row[~over[row]], index[~over[row]]
    order = row.argsort(stable=True)
    return Found(Pairs(row[order], index[order]), over)


def _liked(x: Tensor, table: Table, upper: Tensor, start: int) -> Tensor:
    """The exact squared distance of each row to the point of a block that its screen ranks first."""
    best = upper.argmax(1) + start
    return exact.squared(x, table, Pairs(torch.arange(len(x), device=x.device), best))


def _down(least: Tensor, over: Tensor, like: Tensor) -> Tensor:
    """Thresholds in the type of U, rounded down; infinite for rows that are given up."""
    rounded = least.to(like.dtype)
    return torch.where(over, torch.inf, rounded - rounded.abs() * torch.finfo(like.dtype).eps)


class Weighed(NamedTuple):
    """Surviving pairs with their squared distances."""

    pairs: Pairs
    r2: Float[Tensor, " pairs"]


def weigh(x: Float[Tensor, "batch d"], table: Table, law: Law, pairs: Pairs, nats: float) -> Weighed:
    """Exact distances of pairs; those that turn out to be beyond the cut are dropped."""
    r2 = exact.squared(x, table, pairs)
    keep = r2 <= law.cut(nearest(r2, pairs, len(x)), nats)[pairs.row]
    return Weighed(Pairs(pairs.row[keep], pairs.index[keep]), r2[keep])


def nearest(r2: Float[Tensor, " pairs"], pairs: Pairs, batch: int) -> Float[Tensor, " batch"]:
    """Smallest squared distance of each row; inf without pairs."""
    return -exact.by_row(-r2, pairs.row, batch, "amax")


def gather(weighed: Weighed, x2: Float[Tensor, " batch"], table: Table, law: Law) -> Moments:
    """Moments over surviving pairs, for rows that have any."""
    (row, _), batch = weighed.pairs, len(x2)
    best = (x2 - nearest(weighed.r2, weighed.pairs, batch)) / 2
    affinity = (x2[row] - weighed.r2) / 2
    log_v, v, e = (t[:, 0] for t in moments.terms(law.take(row), affinity[:, None], best[row], x2[row]))
    return Moments(
        best,
        exact.by_row(e, row, batch, "sum"),
        exact.combine(e, table, weighed.pairs, batch),
        exact.by_row(v, row, batch, "sum"),
        exact.by_row(v * log_v, row, batch, "sum"),
        exact.by_row(v, row, batch, "amax"),
    )


def nats_for(tol: float, n: int) -> float:
    """Log ratio to the heaviest point below which n dropped points cannot weigh `tol`."""
    return math.log(n / tol)
