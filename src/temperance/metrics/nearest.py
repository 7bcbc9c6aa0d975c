"""How close rows are to the training set, exactly and in blocks: their nearest points, duplicates apart."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.distance import Neighbors, Rows, duplicates, nearest

QUERIES, POINTS = 4096, 4096  # rows and training points that are in memory at a time, at most
FEWEST, BYTES = 64, 1 << 28  # and fewer where they are wide: no less than the one, in float32 within the other


class Proximity(NamedTuple):
    """How close each row is to the training set: the nearest point, and the nearest that is not its duplicate."""

    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride]
    distance: Float[Tensor, " n"]
    second: Float[Tensor, " n"]

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """d1 / d2 in [0, 1]: near 0 for a copy of one training image, near 1 where several are equally near."""
        return self.distance / self.second


def block_rows(width: int, most: int = POINTS) -> int:
    """How many rows of so many numbers make a block: `most` of up to 16,384 numbers, then as many as 256 MB hold."""
    return min(most, max(FEWEST, BYTES // (4 * max(1, width))))


def proximity(x: Rows, train: Rows, group: Int[Tensor, " m"] | None = None) -> Proximity:
    """Distance of every row to its nearest training point and to the nearest one of another duplicate group.

    Without groups, two equal training points would give d1 = d2 and hide every copy of them.

    Args:
        x: rows to look up, [n, f].
        train: the training set, [m, f].
        group: duplicate group of each training point; by default equal rows.

    Raises:
        ValueError: if all training points are duplicates of each other.

    Cost: 2 n m f flops; blocks of at most 4,096 points and 4,096 rows are in memory at a time (see `block_rows`).
    """
    group = duplicates(train) if group is None else group
    if len(group.unique()) < 2:
        raise ValueError(f"train holds 1 distinct image among {len(train)}; d1/d2 needs 2 distinct ones")
    rows = block_rows(train[:1].shape[1], QUERIES)
    parts = [_proximity(x[start : start + rows], train, group) for start in range(0, len(x), rows)]
    if not parts:
        raise ValueError("there are no images to compare with the training set")
    return Proximity(*(torch.cat(column) for column in zip(*parts)))


def _proximity(x: Tensor, train: Rows, group: Tensor) -> Proximity:
    found = nearest_rows(x, train, 2)
    index, distance, second = found.index[:, 0], found.distance[:, 0], found.distance[:, 1].clone()
    todo = (group[found.index[:, 1]] == group[index]).nonzero()[:, 0]
    k = 2
    while len(todo):
        k = min(2 * k, len(train))
        wider = nearest_rows(x[todo], train, k)
        other = group[wider.index] != group[index[todo], None]
        column = other.int().argmax(1, keepdim=True)
        solved = other.any(1)
        second[todo[solved]] = wider.distance.gather(1, column)[solved, 0]
        todo = todo[~solved]
    return Proximity(index, distance, second)


def nearest_rows(x: Float[Tensor, "n f"], train: Rows, k: int) -> Neighbors:
    """The `k` nearest training points of each row, exactly, from one block of training points at a time."""
    index, distance = torch.empty(len(x), 0, dtype=torch.long), torch.empty(len(x), 0)
    rows = block_rows(x.shape[1], POINTS)
    for start in range(0, len(train), rows):
        block = train[start : start + rows]
        found = nearest(x, block, min(k, len(block)))
        index = torch.cat([index, found.index.cpu() + start], 1)
        distance = torch.cat([distance, found.distance.cpu()], 1)
        order = distance.argsort(dim=1, stable=True)[:, :k]  # earlier blocks come first: ties go to the lower index
        index, distance = index.gather(1, order), distance.gather(1, order)
    return Neighbors(index, distance)
