"""Writing that either happened or did not: a file or folder appears under its name complete, or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary neighbor: readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """`write_bytes` for readable JSON; non-finite numbers are refused, since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; on leaving, fsync it, add a sha256 manifest and rename it to `path`.

    An existing `path` is replaced. If the body raises, nothing is left and an existing `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield scratch
        files = sorted(p for p in scratch.rglob("*") if p.is_file())
        write_json(scratch / MANIFEST, {str(p.relative_to(scratch)): _sha256(p) for p in files})
        for file in files:
            _sync_file(file)
        for folder in [p for p in scratch.rglob("*") if p.is_dir()] + [scratch]:
            _sync_folder(folder)
        scratch.chmod(0o755)
        old = path.with_name(f".{path.name}.old")
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed two lines below
            path.replace(old)
        scratch.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def is_complete(path: Path) -> bool:
    """Whether a folder made by `new_folder` holds exactly what its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return bool(manifest) and all(_sha256(path / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
