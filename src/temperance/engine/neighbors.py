"""The neighbor table: computed once, kept beside the data, mapped into memory when it is needed again.

Exact duplicates are one point: they have no direction between them, and a point is not its own neighbor. Every member
of a group gets the neighbors of its first member, each of them the first of another group.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from temperance.atomic import write_bytes
from temperance.distance import Neighbors, duplicates, fingerprint
from temperance.engine.approximate import approximate_neighbors
from temperance.engine.nearest import Finder

HUGE = 10_000_000  # points above which an approximate index is offered
PART = 4096  # rows saved together: what an interruption can lose


def neighbor_table(
    points: Float[Tensor, "n d"],
    k: int,
    *,
    path: Path | str | None = None,
    labels: Tensor | None = None,
    space: Tensor | None = None,
    approximate: bool = False,
    block_bytes: int = 256 << 20,
    progress: bool = False,
) -> Neighbors:
    """The k nearest other points of every point; duplicates count as one.

    Args:
        points: the data; may be memory-mapped.
        k: how many.
        path: a safetensors file. If it holds the table of this very data, it is mapped and nothing is computed;
            an interrupted computation goes on from its last finished part. None: nothing is written.
        labels: [n] integers; neighbors come from the same label only.
        space: [n, e], where distances are measured, for example features of an encoder; the points unless given.
        approximate: use faiss instead, with its recall measured and printed; only for more than 10 million points,
            without labels, and duplicates are not grouped.
        block_bytes: memory beyond points and table.
        progress: show a bar on stderr.

    Raises:
        ValueError: if k is not in 1..number of distinct points - 1 (of some label), or lengths differ.

    Cost: n^2 d integer multiply-adds, and about 3 k float differences a row; k * 12 bytes a row on disk.
    """
    labels = None if labels is None else torch.as_tensor(labels)
    where = points if space is None else space.flatten(1)
    for name, value in (("labels", labels), ("space", space)):
        if value is not None and len(value) != len(points):
            raise ValueError(f"{name} must have {len(points)} rows, got {len(value)}")
    key = _key(points, k, labels, space, approximate) if path is not None else ""
    if path is not None and (found := _stored(Path(path), key)) is not None:
        return found
    if approximate:
        return _approximate(where, k, labels, path, key, progress)
    table = _Parts(Path(path), key) if path is not None else None
    members = _groups_by_label(where, labels)
    index = torch.empty(len(points), k, dtype=torch.long)
    distance = torch.empty(len(points), k)
    total = sum(len(first) for first, _ in members)
    with tqdm(total=total, desc="neighbors", disable=not progress, unit="pt") as bar:
        for number, (first, member) in enumerate(members):
            part = _of_group(where, first, k, block_bytes, table, number, bar.update)
            index[member[0]], distance[member[0]] = first[part.index[member[1]]], part.distance[member[1]]
    result = Neighbors(index, distance)
    return result if table is None else table.finish(result)


def _approximate(
    where: Tensor, k: int, labels: Tensor | None, path: Path | str | None, key: str, progress: bool
) -> Neighbors:
    if len(where) <= HUGE or labels is not None:
        raise ValueError(f"approximate is for more than {HUGE} points without labels, got {len(where)} points")
    table = approximate_neighbors(where, k, progress=progress)
    if path is not None:
        _write(Path(path), table, key)
    return table


def _groups_by_label(where: Tensor, labels: Tensor | None) -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """For every label: its distinct points, and its rows with the distinct point each of them is."""
    out = []
    every = torch.arange(len(where))
    for member in [every] if labels is None else [every[labels == one] for one in labels.unique()]:
        group = duplicates(where) if labels is None else member[duplicates(where[member])]
        first, place = torch.unique(group, return_inverse=True)
        out.append((first, (member, place)))
    return out


def _of_group(
    where: Tensor,
    first: Tensor,
    k: int,
    block_bytes: int,
    table: "_Parts | None",
    number: int,
    done: Callable[[int], object],
) -> Neighbors:
    """Neighbors among distinct points, by their number in `first`."""
    if len(first) <= k:
        raise ValueError(f"k={k} neighbors need at least {k + 1} distinct points, got {len(first)}")
    own = where if len(first) == len(where) else where[first]
    finder: Finder | None = None
    parts = []
    for start in range(0, len(first), PART):
        part = table.load(number, start) if table is not None else None
        if part is None:
            finder = finder or Finder(own, block_bytes=block_bytes)
            rows = torch.arange(start, min(start + PART, len(first)))
            part = finder(own[rows], k, rows)
            if table is not None:
                table.save(number, start, part)
        parts.append(part)
        done(len(part.index))
    return Neighbors(torch.cat([p.index for p in parts]), torch.cat([p.distance for p in parts]))


# On disk --------------------------------------------------------------------------------------------------------------


def _key(points: Tensor, k: int, labels: Tensor | None, space: Tensor | None, approximate: bool) -> str:
    parts = {"points": fingerprint(points), "k": k, "approximate": approximate}
    parts["labels"] = "" if labels is None else fingerprint(labels)
    parts["space"] = "" if space is None else fingerprint(space)
    return json.dumps(parts, sort_keys=True)


def _stored(path: Path, key: str) -> Neighbors | None:
    """A finished table of the same data, mapped into memory."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if cast(dict, file.metadata() or {}).get("key") != key:
                return None
        tensors = load_file(path)
    except SafetensorError:  # damaged: made again
        return None
    return Neighbors(tensors["index"], tensors["distance"])


class _Parts:
    """Finished parts of a table beside its final file, until it is complete."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.folder = path.with_name(path.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)

    def _name(self, group: int, start: int) -> Path:
        return self.folder / f"{group}-{start}.safetensors"

    def load(self, group: int, start: int) -> Neighbors | None:
        return _stored(self._name(group, start), self.key)

    def save(self, group: int, start: int, part: Neighbors) -> None:
        _write(self._name(group, start), part, self.key)

    def finish(self, whole: Neighbors) -> Neighbors:
        """Write the table, remove the parts, and map it."""
        _write(self.path, whole, self.key)
        shutil.rmtree(self.folder, ignore_errors=True)  # another process with the same table may have done so
        mapped = _stored(self.path, self.key)
        assert mapped is not None
        return mapped


def _write(path: Path, table: Neighbors, key: str) -> None:
    """Completely or not at all."""
    write_bytes(path, save(table._asdict(), metadata={"key": key}))
