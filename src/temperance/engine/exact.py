"""Pairs (row, point) weighed by direct differences in float64: what every path ends in."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.engine.table import Table

BLOCK = 1 << 21  # elements of a temporary: 16 MB in float64


class Pairs(NamedTuple):
    """Which points matter to which rows, sorted by row: a sparse [batch, n] matrix in coordinate form."""

    row: Int[Tensor, " pairs"]
    index: Int[Tensor, " pairs"]


def squared(x: Float[Tensor, "batch d"], table: Table, pairs: Pairs) -> Float[Tensor, " pairs"]:
    """|x_row - mu_index|^2 by differences in float64: exact at ties, 0 at duplicates. Cost: 3 * pairs * d flops."""
    out = torch.empty(len(pairs.row), dtype=torch.float64, device=x.device)
    size = max(1, BLOCK // table.d)
    for start in range(0, len(out), size):
        part = slice(start, start + size)
        difference = table.points[pairs.index[part]].double() - x[pairs.row[part]].double()
        torch.linalg.vecdot(difference, difference, out=out[part])
    return out


def combine(
    coefficient: Float[Tensor, " pairs"], table: Table, pairs: Pairs, batch: int
) -> Float[Tensor, "batch d"]:
    """Sum over each row's pairs of coefficient * mu, in float64. Cost: 2 * pairs * d flops."""
    out = torch.zeros(batch, table.d, dtype=torch.float64, device=coefficient.device)
    size = max(1, BLOCK // table.d)
    for start in range(0, len(coefficient), size):
        part = slice(start, start + size)
        out.index_add_(0, pairs.row[part], coefficient[part, None] * table.points[pairs.index[part]].double())
    return out


def by_row(
    value: Float[Tensor, " pairs"], row: Int[Tensor, " pairs"], batch: int, how: str
) -> Float[Tensor, " batch"]:
    """Reduce pair values within each row: `how` is sum or amax (-inf where a row has none)."""
    start = torch.full((batch,), -torch.inf if how == "amax" else 0.0, dtype=value.dtype, device=value.device)
    return start.scatter_reduce_(0, row, value, how)
