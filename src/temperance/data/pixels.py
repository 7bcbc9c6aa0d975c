"""The rules for pixels: any stored image becomes uint8 grey or RGB, of the size and channels asked for."""

import io
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
else:  # imported when the first image is decoded
    Image = Any

WHITE = (255, 255, 255, 255)


def convert(pixels: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Fit an array of images; one that fits already is returned as it is, memory map and all."""
    from PIL import Image

    height, width, stored = pixels.shape[1:]
    if size in (None, height) and (size is None or height == width) and stored != 4 and channels in (None, stored):
        return pixels
    images = (Image.fromarray(np.ascontiguousarray(one[..., 0] if stored == 1 else one)) for one in pixels)
    shape = (size or height, size or width, channels or min(stored, 3))
    out = np.empty((len(pixels), *shape), np.uint8)
    for row, image in zip(out, images):
        row[:] = _fit(image, size, channels)
    return out


class Decoded(NamedTuple):
    """The first picture of a file, uint8 [h, w, c], and how many there are."""

    pixels: np.ndarray
    pictures: int


def decode_file(data: bytes, size: int | None, channels: int | None) -> Decoded:
    """Pixels of one encoded image; of a stack or an animation, those of the first."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as file:
        # Phones keep a second, smaller version of the same picture in an MPO.
        pictures = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        file.load()
        return Decoded(_fit(ImageOps.exif_transpose(file), size, channels), pictures)


def _fit(image: Image, size: int | None, channels: int | None) -> np.ndarray:
    from PIL import Image

    image = _eight_bit(image)
    if size is not None and image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def _eight_bit(image: Image) -> Image:
    """Any mode to L (grey) or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; old Pillow opens it as 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()} do not fit 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save 8 or 16 bits")
    plain: Literal["L", "RGB"] = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image.convert(plain)
