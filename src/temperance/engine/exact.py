"""Pairs (row, point) weighed by direct differences in float64: what every path ends in."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.engine.table import Table

RUN = 64  # squares added up in float32 before float64 takes over
MANY = 32  # pairs per row above which rows are taken one by one
BLOCK = 1 << 16  # elements of a temporary: half a megabyte in float64, to stay in cache


class Pairs(NamedTuple):
    """Which points matter to which rows, sorted by row: a sparse [batch, n] matrix in coordinate form."""

    row: Int[Tensor, " pairs"]
    point: Int[Tensor, " pairs"]


def squared(x: Float[Tensor, "batch d"], table: Table, pairs: Pairs) -> Float[Tensor, " pairs"]:
    """|x_row - mu_point|^2 by differences in float64: exact at ties, 0 at duplicates. Cost: 3 * pairs * d flops."""
    out = torch.empty(len(pairs.row), dtype=torch.float64, device=x.device)
    for part in _parts(len(out), table.d):
        difference = (
            table.points.index_select(0, pairs.point[part]).double().sub_(x.double().index_select(0, pairs.row[part]))
        )
        out[part] = torch.linalg.vecdot(difference, difference)
    return out


def rough(
    x: Float[Tensor, "batch d"], table: Table, pairs: Pairs
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """|x_row - mu_point| by differences in float32, and a bound on its error; `pairs` are sorted by row.

    A fifth of the time of `squared`; bound by the reading of points in random order.
    """
    single, out = x.float(), torch.empty(len(pairs.row), dtype=torch.float64, device=x.device)
    if len(out) > MANY * len(x):
        # Row by row, x need not be gathered.
        for row, part in _runs(pairs.row, BLOCK * MANY // table.d):
            out[part] = _sum_squares(table.points.index_select(0, pairs.point[part]).float().sub_(single[row]))
    else:
        for part in _parts(len(out), table.d):
            out[part] = _sum_squares(
                table.points.index_select(0, pairs.point[part]).float().sub_(single.index_select(0, pairs.row[part]))
            )
    # Rounding of x and mu to float32, of their difference, and of the sum of a run of squares.
    size = out.sqrt_()
    return size, 2.0**-24 * (4 * x.norm(dim=1)[pairs.row] + (RUN + 8) * size)


def _runs(row: Int[Tensor, " pairs"], most: int) -> Iterator[tuple[int, slice]]:
    """Stretches of at most `most` pairs of one row."""
    rows, counts = torch.unique_consecutive(row, return_counts=True)
    end = 0
    for one, count in zip(rows.tolist(), counts.tolist()):
        end += count
        for start in range(end - count, end, most):
            yield one, slice(start, min(end, start + most))


def _sum_squares(rows: Float[Tensor, "pairs d"]) -> Float[Tensor, " pairs"]:
    """Sum of squares, in float32 over runs of at most `RUN` elements only; overwrites its argument."""
    run = math.gcd(rows.shape[1], RUN)
    squares = rows.mul_(rows)
    if run < 8:
        return squares.sum(1, dtype=torch.float64)
    parts = squares.view(-1, run) @ torch.ones(run, dtype=rows.dtype, device=rows.device)
    return parts.view(len(rows), -1).double().sum(1)


def combine(coefficient: Float[Tensor, " pairs"], table: Table, pairs: Pairs, batch: int) -> Float[Tensor, "batch d"]:
    """Sum over each row's pairs of coefficient * mu, in float64. Cost: 2 * pairs * d flops."""
    out = torch.zeros(batch, table.d, dtype=torch.float64, device=coefficient.device)
    for part in _parts(len(coefficient), table.d):
        rows = table.points.index_select(0, pairs.point[part]).double().mul_(coefficient[part, None])
        out.index_add_(0, pairs.row[part], rows)
    return out


def _parts(pairs: int, d: int) -> Iterator[slice]:
    size = max(1, BLOCK // d)
    return (slice(start, start + size) for start in range(0, pairs, size))


def by_row(value: Float[Tensor, " pairs"], row: Int[Tensor, " pairs"], batch: int, how: str) -> Float[Tensor, " batch"]:
    """Reduce pair values within each row: `how` is sum or amax (-inf where a row has none)."""
    start = torch.full((batch,), -torch.inf if how == "amax" else 0.0, dtype=value.dtype, device=value.device)
    return start.scatter_reduce_(0, row, value, how)
