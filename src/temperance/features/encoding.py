"""Features of many images, batch by batch, and the cache of those rows."""

import hashlib
import re
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from temperance.features.encoder import Encoder
from temperance.features.local import write_tensors

FEWEST = 32  # rows of a pass: kernels for fewer sum in another order, and a copy would not lie on its source


def encode(
    encoder: Encoder,
    images: Float[Tensor, "n c h w"],
    batch_size: int = 256,
    progress: bool = False,
    cache: str | Path | None = None,
) -> Float[Tensor, "n f"]:
    """Features of all images, batch by batch, without gradients: float32 on the CPU.

    Equal images have equal rows, however many others they come with: small batches are filled up. With `cache`, a
    folder, rows are kept in a safetensors file named by encoder and sha256 of the images, written atomically; a file
    that cannot be read is made again.

    Raises:
        ValueError: if there are no images, or the encoder does not return one finite row each.

    Cost: memory of the features plus one batch; with a cache, one more pass over the images for the
        hash, and copies of the features while they are written.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"need images and a batch size of at least 1, got {len(images)} and {batch_size}")
    path = None if cache is None else Path(cache) / f"{_key(encoder.name, images)}.safetensors"
    if path is not None and (kept := _read(path, len(images))) is not None:
        return kept
    features = _encode(encoder, images, batch_size, progress)
    if path is not None:
        write_tensors(path, {"features": features}, {"encoder": encoder.name})
    return features


def _encode(encoder: Encoder, images: Tensor, batch_size: int, progress: bool) -> Tensor:
    from tqdm import tqdm

    out = torch.empty(0, 0)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc=f"encoding ({encoder.name})", unit="batch", disable=not progress):
        part = images[start : start + batch_size]
        filled = part if len(part) >= FEWEST else part[torch.arange(FEWEST) % len(part)]
        try:
            with torch.inference_mode():
                rows = encoder(filled)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"the encoder {encoder.name} cannot take images {tuple(part.shape[1:])}: {last}"
            ) from error
        if rows.ndim != 2 or len(rows) != len(filled) or not bool(rows.isfinite().all()):
            raise ValueError(
                f"the encoder {encoder.name} must return one finite row per image, got {tuple(rows.shape)}"
            )
        if start == 0:  # an ordinary tensor: what inference mode makes may not enter autograd later
            out = torch.empty(len(images), rows.shape[1])
        out[start : start + batch_size] = rows[: len(part)]
    return out


def _key(name: str, images: Tensor) -> str:
    digest = hashlib.sha256(f"{name}|{images.dtype}|{tuple(images.shape)}".encode())
    for part in images.split(1024):
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{re.sub('[^A-Za-z0-9._-]', '_', name)[:64]}-{digest.hexdigest()[:32]}"


def _read(path: Path, n: int) -> Tensor | None:
    try:
        features = load_file(str(path))["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return features if features.ndim == 2 and len(features) == n else None
