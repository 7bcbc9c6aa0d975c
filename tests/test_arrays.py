"""Images from arrays and Hugging Face data sets, and arrays that cannot be images."""

import numpy as np
import pytest

from pictures import fails, pixels, png
from temperance.data import load

# ---- arrays


def test_npy_stays_on_disk(tmp_path):
    stored = pixels(10)
    np.save(tmp_path / "a.npy", stored)
    images = load(f"{tmp_path}/a.npy[2:6]")
    assert isinstance(images.pixels, np.memmap) and (images.pixels == stored[2:6]).all()
    assert images.names is None and images.source.endswith("a.npy[2:6]")
    assert images.tensor().shape == (4, 3, 6, 6)


def test_npy_grey_and_transparent(tmp_path):
    np.save(tmp_path / "a.npy", pixels(5, c=1)[..., 0])
    assert load(tmp_path / "a.npy").pixels.shape == (5, 6, 6, 1)
    np.save(tmp_path / "b.npy", np.array([[[[9, 9, 9, 0], [1, 2, 3, 255]]]], np.uint8))
    assert load(tmp_path / "b.npy").pixels.tolist() == [[[[255, 255, 255], [1, 2, 3]]]]


@pytest.mark.parametrize("key", ["labels", "arr_1"])
def test_npz_with_labels(tmp_path, key):
    stored = pixels(5)
    np.savez(tmp_path / "a.npz", arr_0=stored, **{key: np.array([3, 1, 4, 1, 5], np.int32)})
    images = load(f"{tmp_path}/a.npz[1:]")
    assert (images.pixels == stored[1:]).all() and images.labels.tolist() == [1, 4, 1, 5]
    assert images.labels.dtype == np.int64
    np.savez(tmp_path / "b.npz", arr_0=stored, **{key: np.eye(5)})
    fails("expected 5 integers", key, spec=tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=stored)
    fails("holds images", "arr_0", spec=tmp_path / "c.npz")


def test_float_arrays(tmp_path):
    stored = pixels(5)
    np.save(tmp_path / "sym.npy", (stored / 127.5 - 1).astype(np.float32))
    np.save(tmp_path / "unit.npy", (stored / 255).astype(np.float64))
    np.savez(tmp_path / "half.npz", (stored / 255).astype(np.float32))
    for name in ("sym.npy", "unit.npy", "half.npz"):
        assert (load(tmp_path / name).pixels == stored).all(), name
    # A slice without negative values still reads as part of an array in [-1, 1].
    values = np.concatenate([-np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1))]).astype(np.float32)
    np.save(tmp_path / "two.npy", values)
    assert (load(f"{tmp_path}/two.npy[1:]").pixels == 128).all()


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.full((2, 3, 3, 1), np.nan), ["18 NaN or infinite"]),
        (np.array([0.5, np.inf]).reshape(1, 1, 2, 1), ["1 NaN or infinite"]),
        (np.array([-0.5, 200.0]).reshape(1, 1, 2, 1), ["from -0.5 to 200", "[-1, 1]"]),
        (np.array([-1.5, 0.0]).reshape(1, 1, 2, 1), ["from -1.5 to 0"]),
        (np.zeros((2, 3, 3, 1), np.int64), ["int64 [2, 3, 3, 1]", "uint8"]),
        (np.zeros((2, 3, 3, 1), bool), ["bool", "uint8"]),
        (np.zeros((2, 3, 8, 8), np.uint8), ["uint8 [2, 3, 8, 8]", "transpose(0, 2, 3, 1)"]),
        (np.zeros((8, 8, 3), np.uint8), ["uint8 [8, 8, 3]", "[n, h, w, channels]"]),
        (np.zeros((8, 8), np.uint8), ["uint8 [8, 8]"]),
        (np.zeros((8, 8, 8, 2), np.uint8), ["uint8 [8, 8, 8, 2]"]),
        (np.zeros((3, 0, 8, 3), np.uint8), ["uint8 [3, 0, 8, 3]"]),
        (np.zeros((0, 8, 8, 3), np.uint8), ["0 images"]),
        (np.zeros((0, 8, 8, 3), np.float32), ["0 images"]),
        (np.array([{"code": 1}]), ["cannot read", "plain numeric array"]),
        (np.array(["a"]), ["[1]"]),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_unusable_arrays(tmp_path, array, parts, suffix):
    (np.save if suffix == "npy" else np.savez)(tmp_path / f"a.{suffix}", array)
    fails(*parts, f"a.{suffix}", spec=tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"garbage that is no array", b"\x93NUMPY\x01\x00", b"PK\x03\x04cut"])
def test_broken_arrays(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    fails("cannot read", name, spec=tmp_path / name)


def test_arrays_under_each_others_names(tmp_path):
    np.save(tmp_path / "a.npy", pixels(2))
    np.savez(tmp_path / "b.npz", pixels(2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    fails("cannot read", "a.npz", spec=tmp_path / "a.npz")
    fails("cannot read", "b.npy", spec=tmp_path / "b.npy")


# ---- Hugging Face


def hugging_face(path, stored, labels):
    datasets = pytest.importorskip("datasets", reason="pip install -e '.[datasets]'")
    kinds = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
    rows = {"picture": [{"bytes": one, "path": None} for one in stored], "label": labels}
    saved = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    return datasets, saved


def test_hugging_face(tmp_path, capsys):
    stored = pixels(4)
    datasets, saved = hugging_face(tmp_path, [png(one) for one in stored], [0, 1, 1, 0])
    saved.save_to_disk(str(tmp_path / "hf"))
    images = load(f"{tmp_path}/hf[1:]")
    assert (images.pixels == stored[1:]).all() and images.labels.tolist() == [1, 1, 0]
    assert images.classes == ("no", "yes") and images.names is None
    datasets.DatasetDict(train=saved).save_to_disk(str(tmp_path / "only"))
    assert len(load(tmp_path / "only")) == 4
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(str(tmp_path / "two"))
    fails("train, test", f"{tmp_path}/two/train", spec=tmp_path / "two")
    assert len(load(tmp_path / "two" / "test")) == 4
    saved.remove_columns("picture").save_to_disk(str(tmp_path / "none"))
    fails("no image column", "label", spec=tmp_path / "none")
    assert capsys.readouterr().out == ""


def test_hugging_face_with_a_broken_row(tmp_path):
    _, saved = hugging_face(tmp_path, [png(pixels(1)[0]), b"broken"], [0, 1])
    saved.save_to_disk(str(tmp_path / "hf"))
    fails("row 1", "cannot be decoded", spec=tmp_path / "hf")
    images = load(tmp_path / "hf", on_bad="skip")
    assert len(images) == 1 and images.labels.tolist() == [0] and images.skipped[0].name == "row 1"
    next((tmp_path / "hf").glob("*.arrow")).write_bytes(b"cut")
    fails("Hugging Face", spec=tmp_path / "hf")
