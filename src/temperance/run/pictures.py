"""Images as files: PNGs, one array, and a sheet to look at."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from temperance.atomic import write_bytes


def write_pictures(out: Path, pixels: np.ndarray) -> None:
    """Write `images/00000.png` and so on, `samples.npz` (`arr_0`, uint8 NHWC) and a sheet of the first hundred."""

    def png(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    for i, image in enumerate(pixels):
        write_bytes(out / "images" / f"{i:05d}.png", png(image))
    packed = io.BytesIO()
    np.savez_compressed(packed, arr_0=pixels)
    write_bytes(out / "samples.npz", packed.getvalue())
    if len(pixels):
        write_bytes(out / "grid.png", png(_grid(pixels[:100])))


def _grid(pixels: np.ndarray) -> np.ndarray:
    """A near-square sheet of images with a one-pixel gap."""
    n, h, w, c = pixels.shape
    columns = int(np.ceil(n**0.5))
    sheet = np.full((-(-n // columns) * (h + 1), columns * (w + 1), c), 255, np.uint8)
    for i, image in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * (h + 1) : y * (h + 1) + h, x * (w + 1) : x * (w + 1) + w] = image
    return sheet
