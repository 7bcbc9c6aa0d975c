"""Image files in a folder or a zip: which count, their order, and the labels that folders or a table give them."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from temperance.data.images import InputError, InputWarning
from temperance.data.source import Source

JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")
SUFFIXES = frozenset([*JPEG, ".png", ".apng", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
# Pictures as well, of kinds that are not read: told, or images would be missing without a word.
UNREAD = frozenset(
    [".dcm", ".nii", ".heic", ".heif", ".jxl", ".jp2", ".tga", ".psd", ".svg", ".eps", ".exr", ".dng", ".cr2", ".nef"]
)


def open_folder(path: Path) -> Source:
    """A folder of images and all folders below it."""
    every = (Path(root, file).relative_to(path).as_posix() for root, files in _walk(path) for file in files)
    table = path / "dataset.json"
    content = table.read_bytes() if table.is_file() else None
    return open_files(path, every, lambda name: (path / name).read_bytes(), content)


def _walk(path: Path) -> Iterable[tuple[str, list[str]]]:
    """Every folder and the names of its files; linked folders too, each real folder once."""
    seen = set()
    for root, folders, files in os.walk(path, followlinks=True, onerror=_raise):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(folders)
        if real not in seen:
            yield root, files
        seen.add(real)


def _raise(error: OSError) -> None:
    """A folder that cannot be listed is no empty one."""
    raise error


def open_zip(path: Path, stack: ExitStack) -> Source:
    """A zip of images; the archive stays open as long as `stack`."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    every = {PurePosixPath(name).as_posix(): name for name in archive.namelist()}  # some begin with ./
    table = archive.read(every["dataset.json"]) if "dataset.json" in every else None
    return open_files(path, every, lambda name: archive.read(every[name]), table)


def open_files(path: Path, every: Iterable[str], read: Callable[[str], bytes], table: bytes | None) -> Source:
    """The images among the names in `every`, in natural order; labels from `table` (`dataset.json`) or the folders."""
    shown = [PurePosixPath(name) for name in every if not _is_hidden(name)]
    names = tuple(sorted((str(name) for name in shown if name.suffix.lower() in SUFFIXES), key=natural))
    unread = [name.suffix.lower() for name in shown if name.suffix.lower() in UNREAD]
    if unread:
        kinds = " ".join(sorted(set(unread)))
        warnings.warn(
            f"{len(unread)} files of {path} are not read ({kinds}): export them first", InputWarning, stacklevel=4
        )
    if not names:
        raise InputError(
            f"{path} holds no images; expected files ending in {' '.join(sorted(SUFFIXES))}; check the path"
        )
    labels, classes = _folder_labels(names) if table is None else _table_labels(path, names, table)
    return Source(lambda i: read(names[i]), len(names), names, labels, classes)


def natural(name: str) -> tuple:
    """Sort key under which img2 comes before img10, folder by folder."""
    parts = (re.split(r"([0-9]+)", part) for part in name.split("/"))
    return tuple(tuple((int(s), "") if i % 2 else (0, s.casefold()) for i, s in enumerate(p)) for p in parts), name


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _folder_labels(names: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Label by the first folder in which paths differ; None if there is only one, or images lie beside it."""
    parents = [PurePosixPath(name).parts[:-1] for name in names]
    shared = len(os.path.commonprefix(parents))
    if any(len(parts) == shared for parts in parents):
        return None, None
    own = [parts[shared] for parts in parents]
    classes = tuple(sorted(set(own), key=natural))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in own], dtype=np.int64), classes


def _table_labels(path: Path, names: tuple[str, ...], table: bytes) -> tuple[np.ndarray | None, None]:
    """Labels of EDM's `dataset.json`: {"labels": [["00000/img00000000.png", 6], ...]} or null."""
    try:
        listed = json.loads(table)["labels"]
        if listed is None:
            return None, None
        number = {str(name).replace("\\", "/"): label for name, label in listed}
        labels = [number[name] for name in names]
        if not all(isinstance(label, int) for label in labels):
            raise ValueError("a label is not an integer")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: dataset.json must hold 'labels': [[file, integer], ...] for every image or null "
            f"({type(error).__name__}: {error}); correct it or remove it"
        ) from error
    return np.array(labels, dtype=np.int64), None
