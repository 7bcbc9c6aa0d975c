"""Sets of images: known pixels in, the same pixels out, in order, with labels; folders, zips and slices."""

import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pictures import fails, pixels, png, write
from temperance import data
from temperance.data import Images, InputError, decode, load, split, to_uint8

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


def test_pictures_that_are_not_read_are_told_of(folder):
    path, _ = folder
    for name in ("scan.dcm", "photo.HEIC", "more/photo2.heic", ".hidden.heic"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"something")
    with pytest.warns(data.InputWarning, match=r"3 files of .* are not read \(\.dcm \.heic\): export them first"):
        assert len(load(path)) == 3


def test_a_folder_that_may_not_be_listed_is_no_empty_one(folder, monkeypatch):
    def walk(path, onerror, **options):
        yield str(path), ["closed"], ["img1.png"]
        onerror(PermissionError(13, "Permission denied", f"{path}/closed"))

    monkeypatch.setattr("os.walk", walk)
    fails("cannot read", "Permission denied", "closed", spec=folder[0])


def test_every_name_of_a_jpeg_is_read(folder):
    path, stored = folder
    for name in ("a.jfif", "b.jpe"):
        Image.fromarray(stored[0]).save(path / name, "JPEG")
    Image.fromarray(stored[0]).save(path / "c.apng", "PNG")
    assert len(load(path)) == 6


def test_the_folder_of_a_sampling_run_is_its_images(folder, tmp_path):
    path, stored = folder
    drawn = tmp_path / "samples"
    drawn.mkdir()
    path.rename(drawn / "images")
    write(drawn / "grid.png", np.zeros((32, 32, 3), np.uint8))
    (drawn / "sample.json").write_text("{}")
    assert (load(str(drawn)).pixels == load(str(drawn / "images")).pixels).all() and len(stored) == 3


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
    with zipfile.ZipFile(tmp_path / "dotted.zip", "w") as archive:  # as some programs write them
        archive.writestr("./0/1.png", png(pixels(1)[0]))
        archive.writestr("./dataset.json", '{"labels": [["0/1.png", 3]]}')
    images = load(tmp_path / "dotted.zip")
    assert images.names == ("0/1.png",) and images.labels.tolist() == [3]
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:200])
    fails("b.zip", "cannot read", spec=tmp_path / "b.zip")


def test_slices_never_open_other_files(tmp_path):
    for i in range(12):
        if i in (3, 5, 7):
            write(tmp_path / f"{i}.png", np.full((2, 2), 30 * i, np.uint8))
        else:
            (tmp_path / f"{i}.png").write_bytes(b"broken")
    images = load(f"{tmp_path}[3:8:2]")
    assert images.names == ("3.png", "5.png", "7.png") and images.pixels[:, 0, 0, 0].tolist() == [90, 150, 210]
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
        write(tmp_path / f"{i}.png", np.full((2, 2), 50 * i, np.uint8))
    assert load(tmp_path).pixels[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]
    out, err = capsys.readouterr()
    assert out == "" and "decoding" in err
    load(tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_linked_folders_count_once_and_loops_end(tmp_path):
    for name in ("a", "real/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").symlink_to(tmp_path / "a")
    (data / "b").symlink_to(tmp_path / "real" / "b")
    (data / "b" / "loop").symlink_to(data)
    found = load(data, progress=False)
    assert len(found) == 2 and found.classes == ("a", "b")


def test_floats_may_miss_their_range_by_a_rounding(tmp_path):
    x = np.linspace(-1e-7, 1 + 1e-7, 64, dtype=np.float32).reshape(4, 4, 4, 1)
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(load(tmp_path / "x.npy", progress=False).pixels, np.rint(x.clip(0, 1) * 255).astype(np.uint8))
