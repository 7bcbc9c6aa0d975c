"""Pictures with known pixels, files of them, and loading that must fail."""

import io

import numpy as np
import pytest
from PIL import Image

from temperance.data import InputError, load


def pixels(n=4, h=6, w=6, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(path, **options)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def fails(*parts, spec, **options):
    """Loading fails with one line that holds every part."""
    with pytest.raises(InputError) as caught:
        load(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def fields(n, seed, side=16, channels=3):
    """Smooth random images, uint8: waves of a few random frequencies."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    k = draw.uniform(-2.5, 2.5, (n, 6, 2))
    phase = draw.uniform(0, 2 * np.pi, (n, 6, 1, 1, channels))
    wave = np.cos(2 * np.pi * (k[..., 0, None, None] * x + k[..., 1, None, None] * y)[..., None] + phase)
    return (127 + 20 * wave.sum(1)).clip(0, 255).round().astype(np.uint8)
