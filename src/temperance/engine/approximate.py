"""Approximate neighbors by an inverted file of faiss, for sets too large to compare every pair; recall is measured."""

import sys
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm import tqdm

from temperance.distance import Neighbors
from temperance.engine.nearest import Finder

PROBES = 32  # cells searched for a row
CHECKED = 256  # rows whose exact neighbors are computed to measure recall


def approximate_neighbors(points: Float[Tensor, "n d"], k: int, *, progress: bool = False) -> Neighbors:
    """The k nearest other points of every point, most of them; prints the measured recall on stderr.

    Cost: sqrt(n) / 8 of the exact table's; a float32 copy of the points inside faiss.

    Raises:
        ModuleNotFoundError: without faiss, naming the package to install.
    """
    try:
        faiss = import_module("faiss")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("approximate neighbors need faiss: pip install faiss-cpu") from error
    n, d = points.shape
    cells = max(1, min(int(4 * n**0.5), n // 40))
    quantizer = faiss.IndexFlatL2(d)
    index = faiss.IndexIVFFlat(quantizer, d, cells)
    index.train(points[:: max(1, n // (64 * cells))].float().contiguous().numpy())
    parts = range(0, n, 8192)
    for start in parts:
        index.add(points[start : start + 8192].float().contiguous().numpy())
    index.nprobe = min(PROBES, cells)
    found = [_search(index, points, start, k) for start in tqdm(parts, "neighbors", disable=not progress)]
    result = Neighbors(torch.cat([f.index for f in found]), torch.cat([f.distance for f in found]))
    print(f"approximate neighbors: recall {recall(points, result):.4f} on {min(n, CHECKED)} rows", file=sys.stderr)
    return result


def _search(index, points: Tensor, start: int, k: int) -> Neighbors:
    part = points[start : start + 8192].float().contiguous()
    square, near = (torch.from_numpy(a) for a in index.search(part.numpy(), k + 1))
    own = torch.arange(start, start + len(part))[:, None]
    # The row itself goes last, or else the farthest; missing ones (-1) repeat the nearest.
    order = (near == own).long().argsort(dim=1, stable=True)[:, :k]
    near, square = near.gather(1, order), square.gather(1, order).clamp(min=0)
    missing = near < 0
    near = torch.where(missing, near[:, :1], near)
    return Neighbors(near, torch.where(missing, square[:, :1], square).sqrt())


def recall(points: Float[Tensor, "n d"], table: Neighbors, *, checked: int = CHECKED, seed: int = 0) -> float:
    """Share of the true nearest others that a table holds, on a random sample of rows."""
    rows = torch.randperm(len(points), generator=Generator().manual_seed(seed))[:checked]
    truth = Finder(points)(points[rows], table.index.shape[1], rows)
    return float((truth.index[:, :, None] == table.index[rows][:, None]).any(2).float().mean())
