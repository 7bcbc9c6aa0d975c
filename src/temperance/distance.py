"""Distances between rows, in one place: nearest points, neighbor tables, duplicates.

Two forms of |x - mu|^2 are in use. The product form |x|^2 - 2 x.mu + |mu|^2 is fast and cancels badly when x is close
to mu; it is only ever used in float64 on centered data, or in float32 to rank candidates. Whatever is returned as a
distance comes from direct differences, so that duplicates are at exactly 0.
"""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1 << 24  # elements of a temporary: 128 MB in float64


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

    Cost: 3 * batch * k * d flops, in blocks of at most 128 MB.
    """
    out = torch.empty(index.shape, dtype=torch.float64, device=x.device)
    rows = max(1, BLOCK // max(1, index.shape[1] * x.shape[1]))
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


def duplicates(points: Float[Tensor, "n d"], radius: float = 0.0) -> Int[Tensor, " n"]:
    """A group number for every point: points closer than or at `radius` of each other, directly or in a chain.

    Groups are numbered by their first member, so `duplicates(p).unique().numel()` counts distinct points.
    """
    group = torch.arange(len(points))
    found = nearest(points, points, min(len(points), 32))
    for i, j in zip(*torch.where(found.distance <= radius)):
        a, b = _root(group, int(i)), _root(group, int(found.index[i, j]))
        group[max(a, b)] = min(a, b)
    return torch.tensor([_root(group, i) for i in range(len(points))])


def _root(group: Tensor, i: int) -> int:
    while int(group[i]) != i:
        i = int(group[i])
    return i


def fingerprint(points: Tensor) -> str:
    """sha256 of a tensor's type, shape and bytes: the key under which derived tables are kept."""
    digest = hashlib.sha256(f"{points.dtype}{tuple(points.shape)}".encode())
    digest.update(points.detach().cpu().contiguous().numpy().data)
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
