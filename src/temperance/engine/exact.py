"""Pairs (row, point) weighed by direct differences in float64: what every path ends in."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.engine.table import Table

BLOCK = 1 << 16  # elements of a temporary: half a megabyte in float64, to stay in cache


class Pairs(NamedTuple):
    """Which points matter to which rows, sorted by row: a sparse [batch, n] matrix in coordinate form."""

    row: Int[Tensor, " pairs"]
    point: Int[Tensor, " pairs"]


def squared(x: Float[Tensor, "batch d"], table: Table, pairs: Pairs) -> Float[Tensor, " pairs"]:
    """|x_row - mu_point|^2 by differences in float64: exact at ties, 0 at duplicates. Cost: 3 * pairs * d
    flops.
    """
    out = torch.empty(len(pairs.row), dtype=torch.float64, device=x.device)
    for part in _parts(len(out), table.d):
        difference = table.points[pairs.point[part]].double().sub_(x[pairs.row[part]].double())
        out[part] = torch.linalg.vecdot(difference, difference)
    return out


def rough(
    x: Float[Tensor, "batch d"], table: Table, pairs: Pairs
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """|x_row - mu_point| by differences in float32, and a bound on its error. A fifth of the time of
    `squared`.
    """
    single, out = x.float(), torch.empty(len(pairs.row), device=x.device)
    for part in _parts(len(out), table.d):
        difference = table.points[pairs.point[part]].float().sub_(single[pairs.row[part]])
        out[part] = torch.linalg.vecdot(difference, difference)
    # Rounding of x and mu to float32, of their difference, and of the sum of d squares.
    size = out.double().sqrt()
    rounded = 4 * x.norm(dim=1)[pairs.row] + (table.d + 8) * size
    return size, 2.0**-24 * rounded


def combine(coefficient: Float[Tensor, " pairs"], table: Table, pairs: Pairs, batch: int) -> Float[Tensor, "batch d"]:
    """Sum over each row's pairs of coefficient * mu, in float64. Cost: 2 * pairs * d flops."""
    out = torch.zeros(batch, table.d, dtype=torch.float64, device=coefficient.device)
    for part in _parts(len(coefficient), table.d):
        rows = table.points[pairs.point[part]].double().mul_(coefficient[part, None])
        out.index_add_(0, pairs.row[part], rows)
    return out


def _parts(pairs: int, d: int) -> Iterator[slice]:
    size = max(1, BLOCK // d)
    return (slice(start, start + size) for start in range(0, pairs, size))


def by_row(value: Float[Tensor, " pairs"], row: Int[Tensor, " pairs"], batch: int, how: str) -> Float[Tensor, " batch"]:
    """Reduce pair values within each row: `how` is sum or amax (-inf where a row has none)."""
    start = torch.full((batch,), -torch.inf if how == "amax" else 0.0, dtype=value.dtype, device=value.device)
    return start.scatter_reduce_(0, row, value, how)
