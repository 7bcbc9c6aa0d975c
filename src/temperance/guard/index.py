"""What a guard knows of the training images: features and hashes, kept in a file without the images."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from temperance.data import Images, digests
from temperance.features import Encoder, Pixels, encode
from temperance.guard.views import crop
from temperance.metrics import block_rows

ROWS = 4096  # images that are encoded together, at most: fewer where they are large


@dataclass(frozen=True, eq=False)
class Index:
    """All that a guard knows of the training images: their features and the sha256 of their pixels."""

    whole: Float[Tensor, "n f"]
    inner: Float[Tensor, "n g"]  # of the middle that is left when `shift` pixels are cut off on all sides
    center: Float[Tensor, " f"]
    digests: UInt8[Tensor, "n 32"]
    encoder: str
    shape: tuple[int, int, int]
    shift: int

    def __len__(self) -> int:
        return len(self.whole)


def index_of(train: Images, encoder: Encoder, shift: int = 2) -> Index:
    """Features and hashes of the training images. Cost: two encodings each.

    Raises:
        ValueError: if a shift leaves less than 4x4 pixels of an image, or the encoder another number of features.
    """
    height, width, channels = train.pixels.shape[1:]
    if shift < 0 or min(height, width) - 2 * shift < 4:
        raise ValueError(f"shift must leave 4x4 of {height}x{width} pixels, got {shift}; use a smaller one")
    see = crop(shift, shift, height - 2 * shift, width - 2 * shift)
    rows = block_rows(height * width * channels, ROWS)
    blocks = (train[s : s + rows].tensor() for s in range(0, len(train), rows))
    seen = [
        (encode(encoder, block), encode(encoder, see(block)) if shift else torch.empty(len(block), 0))
        for block in blocks
    ]
    raw, middle = (torch.cat(column) for column in zip(*seen))
    if shift and raw.shape[1] != middle.shape[1] and not isinstance(encoder, Pixels):
        raise ValueError(
            f"encoder {encoder.name} has {raw.shape[1]} features of an image and {middle.shape[1]} of its middle; "
            "use another one, larger images, or shift 0"
        )
    center = torch.zeros(raw.shape[1]) if isinstance(encoder, Pixels) else raw.mean(0)
    return Index(
        compared(raw, center, encoder),
        compared(middle, center, encoder) if shift else middle,
        center,
        torch.from_numpy(np.array([np.frombuffer(d, np.uint8) for d in digests(train.pixels)])),
        encoder.name,
        (channels, height, width),
        shift,
    )


def compared(rows: Tensor, center: Tensor, encoder: Encoder) -> Tensor:
    """Pixels as they are; other features centered and normalized, since their length means little."""
    return rows if isinstance(encoder, Pixels) else functional.normalize(rows - center, dim=1)
