"""Files of weights that lie on this machine: found, hashed, never fetched; and images as networks want them."""

import hashlib
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from temperance import atomic


def present(path: str | Path, encoder: str, advice: str) -> Path:
    """The path, if there is something; otherwise a ValueError that says what to get.

    Raises:
        ValueError: if nothing lies there.
    """
    if not Path(path).exists():
        raise ValueError(f"the encoder {encoder} found nothing at {path}; {advice}. Nothing is ever downloaded here.")
    return Path(path)


def sha256(*paths: Path) -> str:
    """Digest of the files' content, one after the other; of one file it is what `sha256sum` prints."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def as_rgb(images: Float[Tensor, "n c h w"], encoder: str) -> Float[Tensor, "n 3 h w"]:
    """Gray repeated to three channels.

    Raises:
        ValueError: if there are not 1 or 3 channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"the encoder {encoder} takes 1 or 3 channels, got {images.shape[1]}")
    return images.expand(-1, 3, -1, -1)


def squared_up(images: Float[Tensor, "n c h w"], side: int, mode: str = "bilinear") -> Float[Tensor, "n c side side"]:
    """The whole image resized to a square, with antialiasing."""
    if images.shape[2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode=mode, antialias=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """One safetensors file, of tensors on any device; readers see the old file or the whole new one."""
    try:
        atomic.write_bytes(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}, about))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {path}: {error}; choose a folder that can be written") from error
