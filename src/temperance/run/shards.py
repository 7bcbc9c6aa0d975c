"""The finished parts of a sampling run: one file for each batch, so that a run can go on, and be shared out."""

import hashlib
import io
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from temperance.atomic import read_json, write_bytes
from temperance.data import SUFFIXES
from temperance.workers import Place

DAMAGED = (OSError, EOFError, ValueError, KeyError, RuntimeError, BadZipFile, zlib.error)  # reading a damaged file
PATIENCE = 900.0  # seconds without news after which missing parts are given up


class Shard(NamedTuple):
    """What one batch of noise indices came to. All but `counts` hold only the images that may be written."""

    pixels: np.ndarray  # uint8 [k, h, w, c]
    number: np.ndarray  # int64 [k], the image's noise index
    final_sigma: np.ndarray
    converged: np.ndarray
    counts: np.ndarray  # asked, refused, evaluations


@dataclass(frozen=True)
class Shards:
    """Batches of noise indices as files under `folder`; a file that was made to another plan does not count."""

    folder: Path
    plan: dict[str, Any]
    n: int
    size: int

    @property
    def starts(self) -> range:
        """The first noise index of every batch."""
        return range(0, self.n, self.size)

    def indices(self, start: int) -> list[int]:
        """The noise indices of the batch that begins at `start`."""
        return list(range(start, min(self.n, start + self.size)))

    def mine(self, place: Place) -> list[int]:
        """The batches of one process: every world-th one."""
        return list(self.starts)[place.rank :: place.world]

    @property
    def _key(self) -> str:
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npz"

    def write(self, start: int, shard: Shard) -> None:
        """Keep a finished batch."""
        packed = io.BytesIO()
        np.savez_compressed(packed, key=np.array(self._key), **shard._asdict())
        write_bytes(self._path(start), packed.getvalue())

    def read(self, start: int) -> Shard:
        """Read a finished batch."""
        with np.load(self._path(start)) as file:
            return Shard(*(file[name] for name in Shard._fields))

    def done(self, start: int) -> bool:
        """Whether the batch is there, undamaged, and made to this plan. Cost: reading all of it."""
        try:
            with self._path(start).open("rb") as stream, np.load(stream) as file:
                held = {name: file[name] for name in ("key", *Shard._fields)}
        except DAMAGED:
            return False
        return str(held["key"]) == self._key and int(held["counts"][0]) == len(self.indices(start))

    def check_resumable(self) -> None:
        """Raise a ValueError that names what differs if the folder holds parts of another run."""
        about = self.folder / "plan.json"
        if not about.exists():
            raise ValueError(f"nothing to resume: {self.folder} holds no finished part; start without --resume")
        before = read_json(about)
        changed = [k for k in self.plan if before.get(k) != json.loads(json.dumps(self.plan[k]))]
        if changed:
            raise ValueError(f"--resume: {self.folder.parent} was made with another {', '.join(changed)}")

    def clear(self, place: Place, images: Path) -> None:
        """Remove what an earlier run left of this process's batches and their pictures.

        Raises:
            ValueError: if there are pictures or samples but no plan: no run has left them.
        """
        out = self.folder.parent
        kept = [f for f in (*out.glob("*"), *out.glob("*/*")) if f.suffix.lower() in SUFFIXES]
        kept += [file for file in (out / "samples.npz", out / "sample.json") if file.exists()]
        if kept and not (self.folder / "plan.json").exists():
            raise ValueError(f"{out} holds images that no sampling run has left, {kept[0]}; choose another --out")
        for file in [*self.folder.glob("*.npz"), *images.glob("*.png")]:
            number = int(file.stem) if file.stem.isdigit() else -1
            if number >= 0 and number // self.size % place.world == place.rank:
                file.unlink()

    def trim(self, images: Path) -> None:
        """Remove what an earlier, longer run drew beyond `n`."""
        for file in [*self.folder.glob("*.npz"), *images.glob("*.png")]:
            if file.stem.isdigit() and int(file.stem) >= self.n:
                file.unlink(missing_ok=True)

    def all(self, place: Place) -> Iterator[Shard]:
        """Every batch in order; waits for those of other processes.

        Raises:
            ValueError: if no batch has been added for `PATIENCE` seconds and some are missing.
        """
        news, seen = time.monotonic(), 0.0
        for start in self.starts:
            while not self.done(start):
                if place.world == 1 or time.monotonic() - news > PATIENCE:
                    raise ValueError(f"images from {start} on are missing in {self.folder}; run again with --resume")
                newest = max((f.stat().st_mtime for f in self.folder.glob("*.npz")), default=0.0)
                if newest != seen:  # not compared with this machine's clock, which a file server need not share
                    news, seen = time.monotonic(), newest
                time.sleep(0.2)
            yield self.read(start)
