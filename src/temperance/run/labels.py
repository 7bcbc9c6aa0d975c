"""The classes of images, as a class-conditional run numbers them."""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

from temperance.data import Images


def labels_of(images: Images, asked: str = "--class-conditional") -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
    """The images' classes, numbered from 0, and their names: those of the labels where these have none.

    Classes that no image has are left out: a network would never learn to draw them.

    Raises:
        ValueError: if the images have no labels, or one is negative; it names the option that `asked` for them.
    """
    if images.labels is None:
        raise ValueError(f"{asked}: {images.source} has no labels; give class folders or a labeled .npz")
    labels = torch.from_numpy(images.labels)
    if int(labels.min()) < 0:
        raise ValueError(f"{asked}: labels of {images.source} must be 0 or more, got {int(labels.min())}")
    found, classes = labels.unique(return_inverse=True)
    return classes, tuple(images.classes[i] if images.classes else str(i) for i in found.tolist())


def labels_digest(images: Images) -> str | None:
    """sha256 of the labels; None if there are none."""
    return None if images.labels is None else hashlib.sha256(images.labels.astype("<i8").tobytes()).hexdigest()
