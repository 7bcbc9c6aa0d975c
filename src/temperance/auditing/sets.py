"""The sets that are compared: any accepted form as images, checked against each other."""

from typing import Any

import numpy as np
from torch import Tensor

from temperance.data import Images, to_uint8


def check(sets: dict[str, Any], fdr: float) -> dict[str, Images]:
    """The sets that are given, as images of one size; a ValueError that names what is wrong."""
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must lie between 0 and 1, got {fdr}; 0.05 is usual")
    found = {key: _images(value, key) for key, value in sets.items() if value is not None}
    shape = found["train"].pixels.shape[1:]
    for key, value in found.items():
        if len(value) == 0:
            raise ValueError(f"{key} holds no images; give at least 1")
        if value.pixels.shape[1:] != shape:
            raise ValueError(
                f"train is {_size(shape)} and {key} is {_size(value.pixels.shape[1:])}; load both with the"
                " same size and channels"
            )
    train = found["train"].pixels
    if not any((image != train[0]).any() for image in train[1:]):
        raise ValueError(f"train holds 1 distinct image among {len(train)}; d1/d2 needs 2 distinct ones")
    return found


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''}"


def _images(value: Images | Tensor | np.ndarray, name: str) -> Images:
    """Any accepted form as uint8 images; a tensor is rounded to 8 bits, as saving it would."""
    if isinstance(value, Images):
        return value
    if isinstance(value, Tensor):
        return Images(to_uint8(value.detach().cpu().float()), source=name)
    return Images(value[..., None] if value.ndim == 3 else value, source=name)


def label(images: Images, i: int) -> str | int:
    """The name of an image's file, or its number."""
    return i if images.names is None else images.names[i]
