"""One file at a time: depth, color, transparency, size; and files that are broken."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pictures import fails, pixels, write
from temperance import data
from temperance.data import InputError, InputWarning, load

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


def test_scans_of_twelve_bits_are_told_of(tmp_path):
    scans = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    with pytest.warns(InputWarning, match="brightest pixel of .* is 16 of 255"):
        one(tmp_path / "scans" / "a.png", scans)
    with pytest.warns(InputWarning, match="brightest pixel of .* is 64 of 255"):
        one(tmp_path / "deep" / "a.png", (scans.astype(float) / 4095 * 16383).round().astype(np.uint16))
    write(tmp_path / "scans" / "b.png", 16 * scans)
    assert len(load(tmp_path / "scans")) == 2  # one dark image among others is nothing to tell of


def test_stacks_and_animations_are_told_of(tmp_path):
    first, *others = (Image.fromarray(one) for one in pixels(3, c=1)[..., 0])
    folder = tmp_path / "stacks"
    folder.mkdir()
    first.save(folder / "a.tif", save_all=True, append_images=others)
    with pytest.warns(InputWarning, match=r"a\.tif holds several pictures \(a\.tif: 3\), and only the first"):
        assert np.array_equal(load(folder).pixels[0, ..., 0], np.asarray(first))
    first.save(folder / "b.png", save_all=True, append_images=others)
    with pytest.warns(InputWarning, match=r"a\.tif and 1 more files hold several pictures"):
        load(folder, channels=1)
    phone = tmp_path / "phone" / "a.jpg"
    phone.parent.mkdir()
    first.save(phone, "MPO", save_all=True, append_images=others)  # what telephones write: one picture, twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(phone.parent)) == 1


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
    stored = np.array([[100, 2, 3], [4, 5, 6]], np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert one(tmp_path / "a.png")[..., 0].tolist() == [[4, 100], [5, 2], [6, 3]]


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
    data.record_skipped(replace(images, source="another set"), tmp_path / "skipped.jsonl")
    data.record_skipped(images, tmp_path / "skipped.jsonl")  # once more: its lines once, the other set's kept
    assert sorted(json.loads(n)["source"] for n in (tmp_path / "skipped.jsonl").read_text().splitlines()) == sorted(
        [str(path), "another set"]
    )
    with pytest.raises(InputError, match="cannot write"):
        data.record_skipped(images, path / "img1.png" / "skipped.jsonl")
    with pytest.raises(InputError, match="not a list of left-out files"):
        data.record_skipped(images, path / "img1.png")
    assert load(path, on_bad="skip").names == images.names  # and the image is still there
