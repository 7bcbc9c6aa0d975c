"""Which way to evaluate a batch: screens in turn, each for the rows that the one before gave up, then all points."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.engine import survivors
from temperance.engine.dense import dense
from temperance.engine.law import Law
from temperance.engine.moments import Moments
from temperance.engine.survivors import Caps, Screen, Weighed
from temperance.engine.table import Table

FEW = 16  # points that are always worth measuring
BLUR = 1.0  # nats of rounding at which float32 logits can no longer be trusted to rank


class Result(NamedTuple):
    """Moments, bounds on what they miss, and how they were found; one entry per row."""

    sums: Moments
    dropped: Float[Tensor, " batch"]
    logit_error: Float[Tensor, " batch"]
    path: tuple[str, ...]
    flops: float
    bytes: float  # read and written, points and indices


def run(x: Float[Tensor, "batch d"], table: Table, law: Law, screens: Sequence[Screen], tol: float) -> Result:
    """Moments of x (float64) under a law; `screens` from the cheapest to the sharpest."""
    if not screens or (screens[0].name == "float32" and _sharp(x, table, law)):
        return everything(x, table, law)
    screen, *rest = screens
    nats = survivors.nats_for(tol, table.n)
    caps = _caps(table, rest)
    found = survivors.find(x, table, law, screen, nats, caps)
    weighed, crowded = survivors.weigh(x, table, law, found, nats, caps.measured)
    over = found.over | crowded
    few = _few(weighed, x, table, law, nats, screen.name)
    few = few._replace(flops=few.flops + screen.flops * len(x), bytes=few.bytes + screen.bytes)
    if not bool(over.any()):
        return few
    rows = over.nonzero()[:, 0]
    return _replace(few, rows, run(x[rows], table, law.take(rows), rest, tol), screen.name)


def _caps(table: Table, rest: Sequence[Screen]) -> Caps:
    """Where the next way to go is cheaper: a gathered point costs as much as some hundred bytes of a stream."""
    if rest:
        return Caps(table.n // 16 + FEW, table.n // 512 + FEW, table.n // 512 + FEW)
    return Caps(table.n // 16 + FEW, table.n // 16 + FEW, table.n // 64 + FEW)


def _sharp(x: Tensor, table: Table, law: Law) -> bool:
    """Whether float32 products, which the last screen needs as well, are already good enough for all points."""
    steepest = law.steepness(torch.zeros(len(x), dtype=torch.float64, device=x.device))
    return bool((table.rounding((x - table.mean).float()) * steepest < BLUR).all())


def _few(weighed: Weighed, x: Tensor, table: Table, law: Law, nats: float, name: str) -> Result:
    sums = survivors.gather(weighed, (x - table.mean).square().sum(1), table, law)
    kept = torch.bincount(weighed.pairs.row, minlength=len(x))
    # The heaviest point alone has e = 1, so this share is an upper bound.
    dropped = (table.n - kept) * torch.exp(torch.full_like(sums.mass, -nats)) / sums.mass
    flops, read = 5.0 * table.d * len(weighed.r2), 2.0 * table.row_bytes * len(weighed.r2)
    return Result(sums, dropped, torch.zeros_like(dropped), (name,) * len(x), flops, read)


def everything(x: Float[Tensor, "batch d"], table: Table, law: Law) -> Result:
    """All points, nothing dropped: in float32, and again in float64 for rows where its rounding is about a nat."""
    result = _at(x, table, law, torch.float32, "dense")
    rows = (result.logit_error >= BLUR).nonzero()[:, 0]
    if len(rows) == 0:
        return result
    return _replace(result, rows, _at(x[rows], table, law.take(rows), torch.float64, "dense64"), None)


def _at(x: Tensor, table: Table, law: Law, dtype: torch.dtype, name: str) -> Result:
    query = x - table.mean
    flops = 4.0 * len(x) * table.n * table.d
    sums = dense(x, table, law, dtype)
    rounding = table.rounding(query.to(dtype))
    r2 = (query.square().sum(1) - 2 * (sums.best.double() + rounding)).clamp(min=0)
    return Result(
        sums,
        torch.zeros_like(r2),
        rounding * law.steepness(r2),
        (name,) * len(x),
        flops,
        float(table.n * table.row_bytes),
    )


def _replace(into: Result, rows: Int[Tensor, " few"], new: Result, tried: str | None) -> Result:
    """Put the rows of `new` in their places; their paths say what was tried before."""
    sums = Moments(*(_put(a.double(), rows, b.double()) for a, b in zip(into.sums, new.sums)))
    path = list(into.path)
    for row, name in zip(rows.tolist(), new.path):
        path[row] = f"{tried}>{name}" if tried else name
    return Result(
        sums,
        _put(into.dropped, rows, new.dropped),
        _put(into.logit_error, rows, new.logit_error),
        tuple(path),
        into.flops + new.flops,
        into.bytes + new.bytes,
    )


def _put(into: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    return into.index_copy(0, rows, new)
