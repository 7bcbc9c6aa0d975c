"""Images as rows of features, as they are or mirrored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from temperance.data import Images
from temperance.features import Encoder, Pixels, encode
from temperance.metrics import block_rows

View = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Encoded:
    """Images as feature rows: pixels are made block by block, costlier features once."""

    images: Images
    encoder: Encoder
    view: View | None = None
    progress: bool = False
    _kept: Tensor | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any, /) -> Tensor:
        """Rows at a slice, or at an index tensor, as float32 [n, f]."""
        if not isinstance(self.encoder, Pixels):
            if self._kept is None:
                self._kept = self._encode(self.images)
            return self._kept[key]
        return self._encode(self.images[key])

    def _encode(self, images: Images) -> Tensor:
        parts, rows = [], block_rows(images.pixels[0].size) if len(images) else 1
        for start in range(0, len(images), rows):
            x = images[start : start + rows].tensor()
            if self.view is not None:
                x = self.view(x)
            # uint8 pixels are finite: encode's checks and bar would cost more than the features.
            plain = isinstance(self.encoder, Pixels)
            parts.append(self.encoder(x) if plain else encode(self.encoder, x, progress=self.progress))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
