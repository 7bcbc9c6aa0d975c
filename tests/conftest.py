"""Fixtures of several files: known pictures, digits, one thread, the engine's screens, a run, refusals."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from pictures import pixels, write
from temperance.data import load
from temperance.engine import ladder
from verbs import TINY, Refused, answer, run


@pytest.fixture
def folder(tmp_path):
    """img1, img2, img10: three RGB images whose every pixel is known."""
    stored = pixels(3)
    for name, one in zip(("img1", "img2", "img10"), stored):
        write(tmp_path / "set" / f"{name}.png", one)
    return tmp_path / "set", stored


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A user's folder: 14 gray pictures."""
    for i in range(14):
        write(tmp_path / "images" / f"img{i}.png", np.random.default_rng(i).integers(0, 255, (12, 12), np.uint8))
    return tmp_path / "images"


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


@pytest.fixture
def screens(monkeypatch):
    """The engine's 8-bit screens, also on a processor that does not gain by them."""
    monkeypatch.setattr(ladder, "integers_pay", lambda: True)


@pytest.fixture(scope="module")
def refused() -> Iterator[Refused]:
    """The one line that bad input ends in. One process answers every time: a start of Python costs seconds."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def ask(*arguments: object) -> str:
            code, out, err = pool.submit(answer, [str(a) for a in arguments]).result(300)
            lines = err.strip().splitlines()
            assert code == 2 and len(lines) == 1 and not out, err
            return lines[0]

        yield ask


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", "digits[:40]", "--out", out, *TINY, "--quiet")
    return out
