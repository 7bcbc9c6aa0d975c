"""Images as files: PNGs, one array, and a sheet to look at."""

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from temperance.atomic import named, write_bytes

SHOWN = 100  # images on the sheet


def write_pngs(folder: Path, pixels: np.ndarray, index: Iterable[int]) -> None:
    """Write `00000.png` and so on, named by the image's number.

    Not fsynced, which takes longer than drawing a small image: what a power cut takes is in the finished batches.
    """
    for i, image in zip(index, pixels):
        write_bytes(folder / f"{int(i):05d}.png", _png(image), durable=False)


def write_array(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write an npz whose `arr_0` is uint8 of `shape`, block by block: memory for one block.

    Raises:
        OSError: naming `path`, if it cannot be written; what was there before is still there.
    """
    scratch = path.with_name(f".{path.name}.new")
    entry = zipfile.ZipInfo("arr_0.npy", (1980, 1, 1, 0, 0, 0))  # a fixed date: equal samples make equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        with named(path):
            with zipfile.ZipFile(scratch, "w") as archive, archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, about)  # pyright: ignore[reportArgumentType]
                for block in blocks:
                    file.write(np.ascontiguousarray(block).tobytes())
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_sheet(path: Path, pixels: np.ndarray) -> None:
    """Write a near-square sheet of images with a one-pixel gap; if there are none, no sheet is left."""
    if len(pixels):
        write_bytes(path, _png(_grid(pixels[:SHOWN])))
    else:
        path.unlink(missing_ok=True)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _grid(pixels: np.ndarray) -> np.ndarray:
    n, h, w, c = pixels.shape
    columns = int(np.ceil(n**0.5))
    sheet = np.full((-(-n // columns) * (h + 1), columns * (w + 1), c), 255, np.uint8)
    for i, image in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * (h + 1) : y * (h + 1) + h, x * (w + 1) : x * (w + 1) + w] = image
    return sheet
