"""Which rows a step trains on and with what noise: pure functions of (seed, step), whoever computes them.

Nothing random is kept between steps, so a run that is resumed, or spread over other devices, sees the same batches.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from temperance.objective import Objective, Target


@lru_cache(maxsize=4)
def _order(n: int, seed: int) -> Int[Tensor, " n"]:
    return torch.randperm(n, generator=Generator().manual_seed(seed % (1 << 63)))


def batch_index(n: int, size: int, step: int, seed: int) -> Int[Tensor, " size"]:
    """The rows of step `step` (from 0) when every epoch is a fresh permutation.

    A pure function, so resuming skips nothing: its cost does not depend on `step`. One permutation an epoch, O(n).
    """
    position = torch.arange(step * size, (step + 1) * size)
    epochs = (position // n).unique().tolist()
    order = torch.cat([_order(n, seed * 1_000_003 + e) for e in epochs])
    return order[position - epochs[0] * n]


def noise_seed(seed: int, step: int, group: int = 0) -> int:
    """Seed of a step's random numbers."""
    return ((seed * 1_000_003 + step) * 4099 + group) % (1 << 63)


def batch_target(
    objective: Objective,
    mu: Float[Tensor, "n *shape"],
    size: int,
    step: int,
    seed: int,
    *,
    groups: int = 1,
    part: tuple[int, int] = (0, 1),
) -> Target:
    """What step `step` trains on: the target of a global batch of `size` rows, or one process's part of it.

    The rows are split evenly into `groups`, each with a random generator of its own, so noise belongs to the rows
    and not to who computes them. Of `part = (rank, processes)` the groups that reach into the rank's rows are drawn
    and cut. Cost: with one group every process draws the noise of the whole batch; with as many groups as
    processes (or a multiple) each draws its own rows only.
    """
    index, rows = batch_index(len(mu), size, step, seed), torch.arange(size)
    mine = rows.tensor_split(part[1])[part[0]]
    pieces = []
    for group, members in enumerate(rows.tensor_split(groups)):
        keep = members[(members >= mine[0]) & (members <= mine[-1])] if len(mine) else mine
        if len(keep):
            generator = Generator().manual_seed(noise_seed(seed, step, group))
            target = objective(mu[index[members]], index[members], generator)
            pieces.append(target if len(keep) == len(members) else take(target, keep - members[0]))
    return pieces[0] if len(pieces) == 1 else each(torch.cat, *pieces)


def take(target: Target, rows: Int[Tensor, " k"] | slice) -> Target:
    """Some rows of a target."""
    return each(lambda columns: columns[0][rows], target)


def each(change: Callable[[list[Tensor]], Tensor], *targets: Target) -> Target:
    """A target whose every column is made from the same column of others; a column that is None stays so."""
    columns = (None if column[0] is None else change(list(column)) for column in zip(*targets))
    return type(targets[0])(*columns)  # pyright: ignore[reportArgumentType]
