"""Distances between rows, in one place: nearest points, neighbor tables, duplicates.

Two forms of |x - mu|^2 are in use. The product form |x|^2 - 2 x.mu + |mu|^2 is fast and cancels badly when x is close
to mu; it is only ever used in float64 on centered data, or in float32 to rank candidates. Whatever is returned as a
distance comes from direct differences, so that duplicates are at exactly 0.
"""

import hashlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1 << 24  # elements of a temporary: 128 MB in float64
ROWS = 2048  # points of a block where all pairs are visited: 32 MB of float64 distances


@runtime_checkable
class Rows(Protocol):
    """Rows that may be made on demand: a tensor is one, and so are images encoded block by block."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return the rows of a slice, or of an index tensor, as [n, d]."""
        ...


class Neighbors(NamedTuple):
    """The k nearest points of each row, nearest first, by Euclidean distance."""

    index: Int[Tensor, "n k"]  # pyright: ignore[reportIncompatibleMethodOverride]
    distance: Float[Tensor, "n k"]


def squared(x: Float[Tensor, "batch d"], points: Float[Tensor, "n d"]) -> Float[Tensor, "batch n"]:
    """Squared Euclidean distances in float64, by the product form on data centered at the points' mean.

    Absolute error is about 1e-15 times the squared spread of the data, small enough for a softmax at any sigma above
    1e-5 of that spread. Cost: one float64 GEMM, 2 * batch * n * d flops; memory 8 * batch * n bytes.
    """
    check_rows(x, points)
    mean = points.double().mean(0)
    a, b = x.double() - mean, points.double() - mean
    product = torch.addmm((b * b).sum(1).expand(len(a), -1), a, b.T, alpha=-2.0)
    return product.add_((a * a).sum(1, keepdim=True)).clamp_(min=0)


def direct(
    x: Float[Tensor, "batch d"], points: Float[Tensor, "n d"], index: Int[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    """Squared distances of each row to its own `k` points, by differences in float64: exact at ties, 0 at duplicates.

    Cost: 3 * batch * k * d flops, in blocks of which three or four are in memory, each at most 32 MB.
    """
    out = torch.empty(index.shape, dtype=torch.float64, device=x.device)
    rows = max(1, BLOCK // 4 // max(1, index.shape[1] * x.shape[1]))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        out[part] = (points[index[part]].double() - x[part, None].double()).square_().sum(-1)
    return out


def nearest(x: Float[Tensor, "batch d"], points: Float[Tensor, "n d"], k: int) -> Neighbors:
    """The `k` nearest points of each row of `x`, exactly.

    Candidates are ranked by a float32 product on centered data; the list is widened until rounding cannot have hidden
    a true neighbor, and re-ranked by direct differences in float64. Ties go to the lower index.

    Raises:
        ValueError: if k is not in 1..n, or shapes or values are unusable.
    """
    check_rows(x, points)
    if not 1 <= k <= len(points):
        raise ValueError(f"k must be between 1 and the number of points {len(points)}, got {k}")
    mean = points.float().mean(0)
    centered = points.float() - mean
    half = centered.square().sum(1) / 2
    rows = max(1, BLOCK // len(points))
    parts = [_nearest_block(part, points, centered, mean, half, k) for part in x.split(rows)]
    if not parts:
        return Neighbors(torch.empty(0, k, dtype=torch.long, device=x.device), torch.empty(0, k, device=x.device))
    return Neighbors(torch.cat([p.index for p in parts]), torch.cat([p.distance for p in parts]))


def _nearest_block(x: Tensor, points: Tensor, centered: Tensor, mean: Tensor, half: Tensor, k: int) -> Neighbors:
    query = x.float() - mean
    rank = torch.addmm(half, query, centered.T, alpha=-1.0)  # (|mu|^2 - 2 x.mu) / 2: same order as the distance
    norm = half.max().mul(2).sqrt()
    # d + 8 roundings of a product of norms, and those of the differences to the mean.
    slack = 2.0**-24 * ((x.shape[1] + 8) * (query.norm(dim=1) * norm + norm**2 / 2))
    slack = slack + 2.0**-22 * mean.norm() * (query.norm(dim=1) + norm)
    wide = min(len(points), k + 8)
    while True:
        value, candidate = rank.topk(wide, largest=False)
        if wide == len(points) or bool((value[:, -1] > value[:, k - 1] + 2 * slack).all()):
            break
        wide = min(len(points), 2 * wide)
    candidate = candidate.sort(1).values
    exact = direct(x, points, candidate)
    order = exact.argsort(dim=1, stable=True)[:, :k]
    return Neighbors(candidate.gather(1, order), exact.gather(1, order).sqrt().float())


def neighbors(points: Float[Tensor, "n d"], k: int, labels: Int[Tensor, " n"] | None = None) -> Neighbors:
    """The `k` nearest other points of every point, itself excluded; with `labels`, only points of the same label.

    An exact copy of a point is another point, and its nearest one. For smoothing, which would leave points with `k`
    copies where they are, use `temperance.engine.neighbor_table`: copies count as one there.

    Raises:
        ValueError: if there are not more than `k` points (of some label).
    """
    if labels is None:
        return _without_self(points, k)
    index = torch.empty(len(points), k, dtype=torch.long, device=points.device)
    distance = torch.empty(len(points), k, device=points.device)
    for label in labels.unique():
        member = (labels == label).nonzero()[:, 0]
        part = _without_self(points[member], k)
        index[member], distance[member] = member[part.index], part.distance
    return Neighbors(index, distance)


def _without_self(points: Tensor, k: int) -> Neighbors:
    if len(points) <= k:
        raise ValueError(f"k={k} neighbors need at least {k + 1} points, got {len(points)}")
    found = nearest(points, points, k + 1)
    own = torch.arange(len(points), device=points.device)[:, None]
    self_last = (found.index == own).long()
    # A point with more than k duplicates may not list itself: then the farthest of the k + 1 is dropped.
    self_last[self_last.sum(1) == 0, -1] = 1
    order = self_last.argsort(dim=1, stable=True)[:, :k]
    return Neighbors(found.index.gather(1, order), found.distance.gather(1, order))


def duplicates(points: Rows, radius: float = 0.0) -> Int[Tensor, " n"]:
    """A group number for every point: equal points, or chains of points within `radius`, share one.

    Groups are numbered by their first member, so `duplicates(p).unique().numel()` counts distinct points.

    Args:
        points: a tensor [n, d], or rows made on demand, a block at a time.
        radius: the largest distance that links two points; at 0 only equal ones are linked.

    Raises:
        ValueError: if points are not [n, d] or not finite.

    Cost: one pass over the bytes; with a radius also n^2 d flops in float64 over distinct points, and below 500 MB.
    """
    group = _equal(points)
    if radius <= 0 or len(group) == 0:
        return group
    first, place = group.unique(return_inverse=True)
    return first[_chained(points, first, radius)[place]]


def distinct(points: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """The points without repeats, the first of each; the tensor itself if none repeats. Cost: as `duplicates`."""
    first = duplicates(points).unique()
    return points if len(first) == len(points) else points[first]


def _equal(points: Rows) -> Int[Tensor, " n"]:
    """For each point the first that is equal to it, value for value, by a 128-bit hash of its bytes."""
    first: dict[bytes, int] = {}
    group: list[int] = []
    step = _rows(points)
    for start in range(0, len(points), step):
        block = points[start : start + step].detach().cpu()
        check_rows(block[:0], block)
        values = (block if block.dtype == torch.float32 else block.double()) + 0.0  # -0 equals 0
        for row in values.numpy():
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            group.append(first.setdefault(digest, len(group)))
    return torch.tensor(group, dtype=torch.long)


def _chained(points: Rows, chosen: Int[Tensor, " m"], radius: float) -> Int[Tensor, " m"]:
    """Components of the graph that links chosen points within `radius`, by the place of their first member."""
    label = torch.arange(len(chosen))
    blocks = label.split(_rows(points))
    for i, rows in enumerate(blocks):
        x = points[chosen[rows]]
        for columns in blocks[i:]:
            y = x if columns is rows else points[chosen[columns]]
            a, b = _within(x, y, radius, label[rows, None] != label[columns])
            label = _linked(label, rows[a], columns[b])
    return label


def _rows(points: Rows) -> int:
    """How many points make a block: fewer where they are wide."""
    return max(1, min(ROWS, BLOCK // (2 * max(1, points[:1].shape[-1]))))


def _within(x: Tensor, y: Tensor, radius: float, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs among the `asked` ones at a distance of at most `radius`; border cases are decided by differences."""
    d2 = squared(x, y).cpu()
    # Every norm that enters the product form is at most twice the largest distance; and radii compare as float32.
    slack = 4e-15 * (x.shape[1] + 8) * float(d2.max()) + 1e-6 * radius**2
    a, b = (asked & (d2 <= radius**2 + slack)).nonzero(as_tuple=True)
    sure = d2[a, b] < radius**2 - slack
    border = (~sure).nonzero()[:, 0]
    for part in border.split(max(1, BLOCK // x.shape[1])):
        gap = direct(x[a[part]], y, b[part, None])[:, 0].cpu()
        sure[part] = gap.sqrt().float() <= radius
    return a[sure], b[sure]


def _linked(label: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Labels after joining the components of each pair; a label is the place of the component's first member."""
    while True:
        one, other = label[a], label[b]
        if torch.equal(one, other):
            return label
        label = label.scatter_reduce(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(label, label[label]):
            label = label[label]


def fingerprint(points: Tensor) -> str:
    """sha256 of a tensor's type, shape and bytes: the key under which derived tables are kept."""
    digest = hashlib.sha256(f"{points.dtype}{tuple(points.shape)}".encode())
    digest.update(points.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_rows(x: Tensor, points: Tensor) -> None:
    """Raise a ValueError that names the argument if rows cannot be compared."""
    if x.ndim != 2 or points.ndim != 2 or x.shape[1] != points.shape[1]:
        raise ValueError(f"x and points must be [batch, d] and [n, d], got {tuple(x.shape)} and {tuple(points.shape)}")
    if len(points) == 0:
        raise ValueError("points is empty")
    for name, value in (("x", x), ("points", points)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds {int((~value.isfinite()).sum())} non-finite values")
