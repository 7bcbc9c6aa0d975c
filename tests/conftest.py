"""Fixtures of several files: a folder of known pictures, digits, one thread."""

import pytest
import torch

from pictures import pixels, write
from temperance.data import load


@pytest.fixture
def folder(tmp_path):
    """img1, img2, img10: three RGB images whose every pixel is known."""
    stored = pixels(3)
    for name, one in zip(("img1", "img2", "img10"), stored):
        write(tmp_path / "set" / f"{name}.png", one)
    return tmp_path / "set", stored


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors gain nothing from two threads, and on a busy machine their barriers cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(one_thread):
    images = load("digits[:700]")
    return images.tensor(), torch.from_numpy(images.labels)
