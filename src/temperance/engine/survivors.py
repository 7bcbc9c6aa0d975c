"""The points that can matter to a row: found with upper bounds on the affinity, weighed by direct differences.

A screen gives U[i, j] >= x_i.mu_j - |mu_j|^2 / 2. One exact distance per row, to a point the screen likes,
bounds the nearest from above; whatever lies below the cut that follows has a weight under tol / n of the
heaviest and is dropped. The argument needs no assumption about the data, only that U is an upper bound.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.engine import exact, moments, scan
from temperance.engine.exact import Pairs
from temperance.engine.law import Law
from temperance.engine.moments import Moments
from temperance.engine.screen import Look
from temperance.engine.table import Table

FIRST = 1  # pairs of a row that are measured before its others
SAMPLED = 16  # one point in so many tells how many survive


@runtime_checkable
class Screen(Protocol):
    """Upper bounds on affinities, block by block."""

    name: str
    flops: float  # per row
    bytes: float  # per batch

    def look(self, query: Float[Tensor, "batch d"]) -> Look:
        """Bounds on the affinities of `query`, x - mean in float64, with all points."""
        ...


class Caps(NamedTuple):
    """How many points a row may keep: while points stream by, at their end, and after measuring them."""

    early: float
    late: int
    measured: int

    @classmethod
    def none(cls, n: int) -> "Caps":
        """As many as there are."""
        return cls(math.inf, n, n)


class Found(NamedTuple):
    """Surviving pairs, by row and from near to far as the screen guesses, and the rows with more than the cap."""

    pairs: Pairs
    bound: Float[Tensor, " pairs"]  # of the affinity
    over: Bool[Tensor, " batch"]


def find(x: Float[Tensor, "batch d"], table: Table, law: Law, screen: Screen, nats: float, caps: Caps) -> Found:
    """Every point whose pull may be within `nats` of the heaviest, for rows with few enough of them.

    A row is given up early when so many points of the first groups survive that its cap is out of reach.
    """
    query = x - table.mean
    state = _State(query.square().sum(1))
    look = screen.look(query)
    for start, upper in look.upper:
        top, place = scan.best(upper)
        state.improve(x, table, top, place + start)
        least = state.least(law, nats, upper.dtype)
        state.expect(upper, least, limit=caps.early * max(1.0, 4 * (start + upper.shape[1]) / table.n))
        rows = ((state.top >= least) & ~state.over).nonzero()[:, 0]
        some = upper if len(rows) == len(upper) else upper[rows]
        row, column = scan.where(some >= least[rows, None])
        state.kept.append((rows[row], column + start, some[row, column]))
        if bool(state.over.all()):
            break
    return state.found(state.least(law, nats, torch.float32), caps.late, look)


class _State:
    """What `find` knows so far: for each row the nearest distance, and which points may still matter."""

    def __init__(self, x2: Float[Tensor, " batch"]):
        self.x2 = x2
        self.r2 = torch.full_like(x2, torch.inf)
        self.top = self.liked = torch.full_like(x2, -torch.inf)
        self.seen = torch.zeros_like(x2)
        self.over = torch.zeros_like(x2, dtype=torch.bool)
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def improve(self, x: Tensor, table: Table, top: Tensor, point: Tensor) -> None:
        """A distance, where a group holds a point that the screen likes better than all before."""
        self.top = top
        rows = (top > self.liked).nonzero()[:, 0]
        self.liked = torch.maximum(self.liked, top.double())
        size, error = exact.rough(x, table, Pairs(rows, point[rows]))
        self.r2[rows] = torch.minimum(self.r2[rows], (size + error) ** 2)

    def least(self, law: Law, nats: float, dtype: torch.dtype) -> Float[Tensor, " batch"]:
        """The affinity below which a point does not matter, rounded down; infinite for rows that are given up."""
        least = (self.x2 - law.cut(self.r2, nats)) / 2
        least = torch.where(self.over, torch.inf, least - least.abs() * 2 * torch.finfo(dtype).eps)
        return least.to(dtype)

    def expect(self, upper: Tensor, least: Tensor, limit: float) -> None:
        """Give up rows that, by a sample of each group, have had more candidates than `limit`."""
        self.seen += SAMPLED * (upper[:, ::SAMPLED] >= least[:, None]).sum(1)
        self.over |= self.seen > limit

    def found(self, least: Float[Tensor, " batch"], cap: int, look: Look) -> Found:
        """Candidates that are above the final threshold, by row."""
        row, index, bound = (torch.cat(parts) for parts in zip(*self.kept))
        alive = bound >= least[row]
        row, index, bound = row[alive], index[alive], bound[alive]
        self.over |= torch.bincount(row, minlength=len(self.seen)) > cap
        alive = ~self.over[row]
        row, index, bound = row[alive], index[alive], bound[alive]
        # Without its slack a bound is a guess: the best guess is probably the nearest point.
        order = (bound - look.excess(row, index)).argsort(descending=True)
        order = order[row[order].argsort(stable=True)]
        return Found(Pairs(row[order], index[order]), bound[order], self.over)


class Weighed(NamedTuple):
    """Surviving pairs with their squared distances."""

    pairs: Pairs
    r2: Float[Tensor, " pairs"]


def weigh(
    x: Float[Tensor, "batch d"], table: Table, law: Law, found: Found, nats: float, cap: int
) -> tuple[Weighed, Bool[Tensor, " batch"]]:
    """Exact distances of the pairs that matter, and the rows with more than `cap` of them, which are left out.

    The `FIRST` pairs of each row, measured by a float32 difference, bound the nearest; most others need none.
    """
    x2 = (x - table.mean).square().sum(1)
    first = _place(found.pairs, len(x)) < FIRST
    size, error = exact.rough(x, table, _where(found.pairs, first))
    near = nearest((size + error) ** 2, _where(found.pairs, first), len(x))
    least = (x2 - law.cut(near, nats)) / 2
    keep = found.bound >= (least - least.abs() * 2.0**-22)[found.pairs.row]
    pairs = _where(found.pairs, keep)
    size, error = exact.rough(x, table, pairs)
    near = law.cut(nearest((size + error) ** 2, pairs, len(x)), nats)
    pairs = _where(pairs, (size - error).clamp(min=0) ** 2 <= near[pairs.row])
    over = torch.bincount(pairs.row, minlength=len(x)) > cap
    pairs = _where(pairs, ~over[pairs.row])
    r2 = exact.squared(x, table, pairs)
    keep = r2 <= law.cut(nearest(r2, pairs, len(x)), nats)[pairs.row]
    return Weighed(_where(pairs, keep), r2[keep]), over


def _place(pairs: Pairs, batch: int) -> Tensor:
    """The number of each pair within its row."""
    count = torch.bincount(pairs.row, minlength=batch)
    return torch.arange(len(pairs.row), device=pairs.row.device) - (count.cumsum(0) - count)[pairs.row]


def _where(pairs: Pairs, keep: Tensor) -> Pairs:
    return Pairs(pairs.row[keep], pairs.point[keep])


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
