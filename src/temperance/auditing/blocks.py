"""Long work over many rows: in blocks, shared between processes, with what is finished kept on disk."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, distributed
from tqdm import tqdm

from temperance import atomic
from temperance.metrics import block_rows

ROWS = 4096  # of a block, at most: what an interruption can lose


def in_blocks(
    n: int,
    columns: int,
    compute: Callable[[slice], Tensor],
    *,
    name: str,
    width: int = 1,
    work: Path | None = None,
    progress: bool = False,
) -> Float[Tensor, "n columns"]:
    """The rows `compute(slice)` gives, float64, for all of 0..n.

    Under torch.distributed each rank works on every world-th block and all get everything. Their borders depend on
    `width`, the numbers that a row is made from, not on the number of ranks, so neither does the result. With `work`, a
    folder, finished blocks are written there under `name` with a checksum, and found again by the next call: `name`
    must say what was computed on which data.
    """
    size = block_rows(width, ROWS)
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if _together() else (0, 1)
    out = torch.zeros(n, columns, dtype=torch.float64)
    starts = range(rank * size, n, world * size)
    label = name.split("-")[0].replace("_", " ")
    with tqdm(total=n, desc=label, unit="image", file=sys.stderr, disable=not (progress and rank == 0)) as bar:
        for start in starts:
            rows = slice(start, min(start + size, n))
            path = None if work is None else work / f"{name}-{start}.safetensors"
            part = _kept(path, (rows.stop - start, columns))
            if part is None:
                part = compute(rows).double().contiguous()
                if path is not None:
                    atomic.write_bytes(path, save({"rows": part, "sha256": _sha256(part)}))
            out[rows] = part
            bar.update(min(world * size, n - start) if world > 1 else len(part))
    if world > 1:
        distributed.all_reduce(out)  # every row is a sum of one value and zeros: exact
    return out


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _kept(path: Path | None, shape: tuple[int, int]) -> Tensor | None:
    """A finished block; nothing where there is none or it is damaged."""
    if path is None:
        return None
    try:
        kept = load_file(str(path))
        rows, known = kept["rows"], kept["sha256"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = rows.dtype == torch.float64 and rows.shape == shape and torch.equal(_sha256(rows), known)
    return rows if whole else None


def _sha256(rows: Tensor) -> Tensor:
    return torch.frombuffer(bytearray(hashlib.sha256(rows.numpy().data).digest()), dtype=torch.uint8)
