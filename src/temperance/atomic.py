"""Writing that either happened or did not: a file or folder appears under its name complete, or not at all."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
CHUNK = 1 << 26  # bytes handed to the operating system at a time
STALE = 600.0  # seconds without a change after which an unfinished file is nobody's: processes may write the same one


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file through a temporary neighbor: readers see the old content or the new, never a part.

    `durable`: fsync it, and remove what a killed process left of it. Without, which is much faster for many small
    files, a power cut may still take it.

    Raises:
        OSError: naming `path`, if it cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in _unfinished(path) if durable else ():
        with suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with named(path):
            _fill(handle, data, durable)
            Path(name).chmod(0o644)
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def write_verified(path: Path, data: bytes) -> None:
    """Write a new file, fsync it and read it back. For the body of `new_folder`, where a rename comes later.

    Raises:
        OSError: naming `path`, if it cannot be written or does not read back as it was written.
    """
    with named(path):
        _fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), data)
    if _sha256(path) != hashlib.sha256(data).hexdigest():
        raise OSError(f"{path} does not read back as it was written; check the disk")


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """`write_bytes` for readable JSON; non-finite numbers are refused, since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        OSError: if there is no such file.
        ValueError: naming `path`, if it is no JSON object; it was damaged or edited by something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: no JSON object")
    return found


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; on leaving, fsync it, add a sha256 manifest and rename it to `path`.

    An existing `path` is replaced. If the body raises, nothing is left and an existing `path` stays as it was. One
    process at a time may fill a `path`: what is there of it unfinished was left by one that was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in _unfinished(path):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = path.with_name(f".{path.name}.old")
    try:
        yield scratch
        files = sorted(p for p in scratch.rglob("*") if p.is_file())
        write_json(scratch / MANIFEST, {str(p.relative_to(scratch)): _sha256(p) for p in files})
        for file in files:
            _sync_file(file)
        for folder in [p for p in scratch.rglob("*") if p.is_dir()] + [scratch]:
            _sync_folder(folder)
        scratch.chmod(0o755)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed two lines below
            path.replace(old)
        scratch.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        if old.exists() and not path.exists():
            old.replace(path)
        raise
    _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder; its name is gone at once, so that no part of it is ever seen under that name."""
    gone = path.with_name(f".{path.name}.gone")
    if gone.exists():
        shutil.rmtree(gone)  # left by a process that was killed two lines below
    path.replace(gone)
    shutil.rmtree(gone)


def is_complete(path: Path) -> bool:
    """Whether a folder made by `new_folder` holds exactly what its manifest says."""
    return damaged(path) is None


def damaged(path: Path) -> str | None:
    """The first file of a folder made by `new_folder` that is not what the manifest says; None if all are."""
    name = MANIFEST
    try:
        manifest = read_json(path / MANIFEST)
        for name, digest in manifest.items():
            if _sha256(path / name) != digest:
                return name
    except (OSError, ValueError):
        return name
    return None if manifest else MANIFEST


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the file's name to an error of the operating system that lacks it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _fill(handle: int, data: bytes, durable: bool = True) -> None:
    """Write all of `data` to an open file, fsync it if asked and close it."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest[:CHUNK]) :]
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def _unfinished(path: Path) -> Iterator[Path]:
    """The temporary neighbors of `path`, as `tempfile` names them; not those of other names that begin alike."""
    return path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}")


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
