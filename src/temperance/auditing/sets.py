"""The sets that are compared: any accepted form as images, checked against each other."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from temperance.data import Images, among, check_range, digests, to_uint8, warn_of_range


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
    darkest = float(train.min()) / 127.5 - 1
    for key, value in sets.items():
        if isinstance(value, Tensor):
            warn_of_range(float(value.min()), darkest, key)
    if not any((image != train[0]).any() for image in train[1:]):
        raise ValueError(f"train holds 1 distinct image among {len(train)}; d1/d2 needs 2 distinct ones")
    return found


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''}"


def _images(value: Images | Tensor | np.ndarray, name: str) -> Images:
    """Any accepted form as uint8 images; a tensor is clamped to [-1, 1] and rounded, as saving it would."""
    if isinstance(value, Images):
        return value
    if isinstance(value, Tensor):
        return Images(to_uint8(check_range(value, name).detach().cpu().float()), source=name)
    return Images(value[..., None] if value.ndim == 3 else value, source=name)


def in_train(sets: dict[str, Images], mirrored: bool) -> dict[str, Bool[Tensor, " n"]]:
    """Which images of the other sets are training images, pixel by pixel, as they are or mirrored.

    Cost: a hash of every image.
    """
    known = set(digests(sets["train"].pixels))
    others = {key: images.pixels for key, images in sets.items() if key != "train"}
    return {key: torch.from_numpy(among(pixels, known, mirrored=mirrored)) for key, pixels in others.items()}


def heldout_copies(sets: dict[str, Images], mirrored: bool) -> int:
    """How many generated images equal a held-out image that is no training image. Cost: a hash of every image."""
    known = set(digests(sets["heldout"].pixels)) - set(digests(sets["train"].pixels)) if "heldout" in sets else set()
    return int(among(sets["generated"].pixels, known, mirrored=mirrored).sum())


def unseen(sets: dict[str, Images], same: dict[str, Bool[Tensor, " n"]]) -> dict[str, Images]:
    """The sets without the held-out images that are training images; with them where they are more than half of all.

    A careless split is repaired so. Where most are training images the sets overlap, and nothing is left to judge by.
    """
    shared = same.get("heldout")
    if shared is None or not bool(shared.any()) or overlapping(shared):
        return sets
    return sets | {"heldout": sets["heldout"][(~shared).numpy()]}


def overlapping(shared: Bool[Tensor, " n"]) -> bool:
    """Whether most held-out images are training images."""
    return 2 * int(shared.sum()) > len(shared)


def label(images: Images, i: int) -> str | int:
    """The name of an image's file, or its number."""
    return i if images.names is None else images.names[i]
