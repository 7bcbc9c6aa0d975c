"""Arrays in `.npy` and `.npz` files, and the shapes, dtypes and ranges of numbers that are taken as images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from temperance.data.images import InputError, describe
from temperance.data.source import Source

ROUNDING = 1e-5  # how far floats in [0, 1] or [-1, 1] may lie outside


def open_npy(path: Path) -> Source:
    """A `.npy`, memory-mapped."""
    # `np.load` would leave a file open that begins like a zip and is none.
    stock = _images_array(path, _numpy(path, lambda: np.lib.format.open_memmap(path, mode="r")))
    return Source(stock, len(stock))


def open_npz(path: Path) -> Source:
    """A `.npz`: images in `arr_0`, labels in `labels` or `arr_1`."""
    with _numpy(path, lambda: path.open("rb")) as stream, _numpy(path, lambda: NpzFile(stream)) as file:
        if "arr_0" not in file:
            raise InputError(f"{path} holds {', '.join(file) or 'nothing'}; expected arr_0; use np.savez(path, images)")
        key = next((key for key in ("labels", "arr_1") if key in file), None)
        stock = _images_array(path, _numpy(path, lambda: file["arr_0"]))
        labels = None if key is None else _numpy(path, lambda: file[key])
    if labels is None:
        return Source(stock, len(stock))
    if labels.shape != (len(stock),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: {key} is {describe(labels)}; expected {len(stock)} integers, one label an image")
    return Source(stock, len(stock), None, labels.astype(np.int64))


def _numpy(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # not the file it says it is, cut short, or pickled objects, which are never loaded
        raise InputError(
            f"cannot read {path}: {error}; expected a plain numeric array, saved again with numpy"
        ) from error


def _images_array(path: Path, array: np.ndarray) -> np.ndarray:
    """The array as [n, h, w, c] with a dtype and a range that leave no doubt."""
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4) or 0 in array.shape[1:]:
        channels_first = array.ndim == 4 and array.shape[1] in (1, 3, 4)
        hint = "use array.transpose(0, 2, 3, 1)" if channels_first else "stack images along the first axis"
        raise InputError(f"{path} is {describe(array)}; expected [n, h, w, channels] or [n, h, w]; {hint}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path} is {describe(array)}; expected uint8, or floats in [-1, 1] or [0, 1]; save uint8")
    return _from_float(path, array)


def _from_float(path: Path, array: np.ndarray) -> np.ndarray:
    """uint8 pixels of floats. The whole array tells [-1, 1] from [0, 1]: a slice reads like the rest."""
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(
            f"{path} holds {bad} NaN or infinite values; expected finite numbers; drop or repair those images"
        )
    if low < -1 - ROUNDING or high > 1 + ROUNDING:
        raise InputError(f"{path} holds floats from {low:.4g} to {high:.4g}; expected [-1, 1] or [0, 1]; rescale it")
    scale, shift = (127.5, 127.5) if low < -ROUNDING else (255.0, 0.0)
    blocks = [np.rint(array[i : i + 1024] * scale + shift).astype(np.uint8) for i in range(0, len(array), 1024)]
    return np.concatenate(blocks)
