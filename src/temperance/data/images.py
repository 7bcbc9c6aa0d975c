"""Images in memory: uint8 pixels with names and labels; to tensors and back, cut into parts."""

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from temperance.atomic import write_text

if TYPE_CHECKING:
    from torch import Tensor
else:  # torch costs a second to import and two functions need it; jaxtyping checks the shape of Any as well
    Tensor = Any


class InputWarning(UserWarning):
    """Images that can be used, but are hardly what was meant. One line for a user."""


class InputError(ValueError):
    """Data that cannot be used. One line says what was given, what was expected and one thing to try."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class Skipped(NamedTuple):
    """A file that could not be decoded and was left out."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, uint8 [n, height, width, channels], with what is known about them.

    Attributes:
        pixels: uint8 [n, h, w, c], c = 1 or 3; a read-only memory map if the source is an untouched `.npy`.
        names: relative paths for folders and zips, None for arrays and built-ins that have none.
        labels: int64 [n], or None.
        classes: the name of each label, or None.
        source: the text that named the data.
        skipped: files left out because they could not be decoded.
    """

    pixels: np.ndarray
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    source: str = "array"
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[3] not in (1, 3):
            raise InputError(f"{self.source}: images must be uint8 [n, h, w, 1 or 3], got {describe(pixels)}")
        for what, value in (("names", self.names), ("labels", self.labels)):
            if value is not None and len(value) != len(pixels):
                raise InputError(f"{self.source}: {len(value)} {what} for {len(pixels)} images; give one of each")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: "slice | Sequence[int] | np.ndarray | Tensor") -> "Images":
        """The images at a slice, an array of indices or a mask; a slice shares memory."""
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.ndim != 1:
                raise InputError(
                    f"images are chosen by a slice or a list of indices, got an index of shape {key.shape}"
                )
            key = key if key.dtype == bool else key.astype(np.int64)
        labels = None if self.labels is None else self.labels[key]
        return Images(
            self.pixels[key],
            pick(self.names, len(self), key),
            labels,
            self.classes,
            self.source,
            self.skipped,
        )

    def tensor(self) -> Float[Tensor, "n c h w"]:
        """float32 in [-1, 1], channels first: pixel / 127.5 - 1. Cost: one copy, 4 bytes a value."""
        import torch

        values = self.pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        values /= 127.5
        values -= 1
        return torch.from_numpy(values)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of shape and pixels, the key of what is derived from them. Cost: one pass over them."""
        digest = hashlib.sha256(str(self.pixels.shape).encode())
        for start in range(0, len(self), 1024):  # a block at a time: a memory map need not fit in memory
            digest.update(np.ascontiguousarray(self.pixels[start : start + 1024]).data)
        return digest.hexdigest()


def to_uint8(x: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Pixels uint8 [n, h, w, c] of images in [-1, 1], rounded and clamped. Inverse of `Images.tensor`.

    Raises:
        InputError: if a value is not finite.
    """
    if not bool(x.isfinite().all()):
        raise InputError(f"images hold {int((~x.isfinite()).sum())} non-finite values; expected numbers in [-1, 1]")
    pixels = x.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8))


def digests(pixels: np.ndarray) -> list[bytes]:
    """sha256 of the pixels [n, h, w, c] of each image: the same for equal images only."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in pixels]


def among(pixels: np.ndarray, known: Container[bytes], *, mirrored: bool) -> np.ndarray:
    """Which images are those of some digests, pixel by pixel, as they are or also `mirrored`: bool [n]."""
    views = [pixels, pixels[:, :, ::-1]] if mirrored else [pixels]
    hits = [[digest in known for digest in digests(view)] for view in views]
    return np.asarray(np.any(np.array(hits, dtype=bool), axis=0))


def unlike(images: Images, others: Images, *, mirrored: bool = False) -> Images:
    """The images that equal none of `others`, pixel by pixel, as they are or also `mirrored`."""
    keep = ~among(images.pixels, set(digests(others.pixels)), mirrored=mirrored)
    return images if keep.all() else images[keep]


def unseen(heldout: Images, images: Images, *, mirrored: bool = False) -> Images:
    """The held-out images that are no training images, also not `mirrored` ones.

    Raises:
        InputError: if they are of another shape, or all of them are training images.
    """
    if heldout.pixels.shape[1:] != images.pixels.shape[1:]:
        shapes = ("x".join(map(str, of.pixels.shape[1:])) for of in (heldout, images))
        raise InputError("--heldout images are {}, training images {}; set --size or --channels".format(*shapes))
    found = unlike(heldout, images, mirrored=mirrored)
    if not len(found):
        raise InputError(f"--heldout {heldout.source}: all of it are training images; give images that are not")
    return found


def split(images: Images, sizes: Sequence[int], seed: int = 0) -> tuple[Images, ...]:
    """Shuffle and cut into disjoint parts of the given sizes; what is left over is not returned.

    The same images, sizes and seed give the same parts; no global random state is touched.

    Raises:
        InputError: if a size is negative or the sizes add up to more than there is.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(images):
        raise InputError(
            f"cannot split {len(images)} images of {images.source} into {list(sizes)}; "
            f"expected parts of {len(images)} or fewer in all; ask for less"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum([0, *sizes])
    return tuple(images[order[start:end]] for start, end in zip(ends[:-1], ends[1:]))


def record_skipped(images: Images, path: str | Path) -> None:
    """Write one JSON line per left-out file (`source`, `name`, `reason`): the list that quarantine keeps.

    Lines of other sources that stand there already stay: a command may read more than one set.

    Raises:
        InputError: if the file cannot be written, or is not such a list.
    """
    path = Path(path)
    try:
        known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        items = [item for item in known if item["source"] != images.source]
        items += [{"source": images.source, **item._asdict()} for item in images.skipped]
        write_text(path, "".join(json.dumps(item) + "\n" for item in items))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a list of left-out files; move it, or choose another folder") from error


def pick(names: tuple[str, ...] | None, count: int, key: Any) -> tuple[str, ...] | None:
    """The names at a slice, indices or a mask of `count` images; None if there are no names."""
    return None if names is None else tuple(names[i] for i in np.arange(count)[key])


def describe(array: np.ndarray) -> str:
    """Dtype and shape, as messages give them."""
    return f"{array.dtype} {list(array.shape)}"
