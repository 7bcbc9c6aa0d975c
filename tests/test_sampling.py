"""Sampling runs on disk: which options fit together, closed forms, several processes, what `resume` brings back."""

import errno
import os
import time

import numpy as np
import pytest
import torch

from temperance.data import Images, load, split
from temperance.features import by_name, train_classifier
from temperance.guard import Guard
from temperance.hub import Model, new_denoiser, new_network
from temperance.run.pictures import write_array, write_sheet
from temperance.run.sampling import WHOLE, _where, sample_run
from temperance.run.shards import Shard, Shards
from temperance.run.sources import closed_form_model, open_guard
from temperance.sample import Noise, Walker, heun, integrate
from temperance.schedule import Edm
from temperance.workers import Place

IMAGES = load("digits[:20]")


def sampled(out, model=None, **changes):
    chosen = {"sampler": "auto", "steps": 4, "batch_size": 2, "guard": None, "seed": 0, "device": "auto"} | changes
    model = closed_form_model(IMAGES, "tangent") if model is None else model
    return sample_run(model, out, 5, progress=False, **chosen)


def test_a_closed_form_walks_by_itself(tmp_path, monkeypatch):
    model = closed_form_model(IMAGES, "tangent")
    inner = model.denoiser.denoiser
    expected, _, left, _ = integrate(heun, inner, model.shape, model.schedule.grid(4), Noise(0, range(5)))
    walked, own = [], inner.trajectory

    def trajectory(x, sigmas, *, last=False):
        walked.append(len(x))
        return own(x, sigmas, last=last)

    assert isinstance(model.denoiser, Walker)
    monkeypatch.setattr(model.denoiser, "trajectory", trajectory)
    found = sampled(tmp_path, model)
    assert found["nfe"] == 7 and walked == [2, 2, 1]
    assert found["final_sigma"] == pytest.approx(float(left.mean()), rel=1e-3)
    pixels = load(str(tmp_path / "samples.npz")).tensor()
    assert float((pixels - expected.clamp(-1, 1)).abs().max()) < 1.01 / 127.5


def test_a_closed_form_stays_on_the_cpu_where_there_is_a_gpu(tmp_path, monkeypatch):
    sampled(tmp_path / "a")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sampled(tmp_path / "b")
    one, two = (tmp_path / name / "samples.npz" for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(ValueError, match="leave out --device cuda"):
        sampled(tmp_path / "c", device="cuda")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("guard", [None, Guard(IMAGES)])
def test_guiding_without_a_threshold_is_refused_before_anything_is_drawn(tmp_path, guard):
    with pytest.raises(ValueError, match="--guide needs a calibrated guard"):
        sampled(tmp_path / "out", guard=guard, guide=True)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        sampled(tmp_path / "out", steps=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("train", "given", "word"),
    [
        (None, {"encoder": "efficientnet"}, "--guard-encoder is for a guard"),
        (None, {"rate": 0.1}, "--guard-rate is for a guard"),
        (None, {"heldout": IMAGES}, "--heldout is for a guard"),
        (IMAGES, {"rate": 0.1}, "give --heldout"),
    ],
)
def test_options_without_their_guard_are_refused(train, given, word):
    given = {"heldout": None, "encoder": None, "rate": None} | given
    with pytest.raises(ValueError, match=word):
        open_guard(train, index=None, progress=False, **given)


def test_a_guard_fits_small_images_and_its_pixels_are_not_kept(tmp_path):
    small, unseen = (Images(load(part).pixels[:, :6, :6]) for part in ("digits[:20]", "digits[20:40]"))
    asked = {"encoder": None, "rate": 0.2, "progress": False}
    guard = open_guard(small, unseen, index=None, **asked)
    assert guard is not None and guard.index.shift == 1
    with pytest.raises(ValueError, match="pixels would be the images"):
        open_guard(small, unseen, index=tmp_path / "index", **asked)


def test_the_rate_is_that_of_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert sampled(tmp_path) == {}
    monkeypatch.setenv("RANK", "0")
    found = sampled(tmp_path)
    assert found["images_per_second"] * found["seconds"] == pytest.approx(5) and found["processes"] == 2
    assert sampled(tmp_path, resume=True)["images_per_second"] == 0


@pytest.mark.parametrize("place", ["a.jpg", "class/a.png", "images/00000.png", "samples.npz", "sample.json"])
def test_a_folder_of_other_images_is_left_alone(tmp_path, place):
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"somebody's picture")
    with pytest.raises(ValueError, match="holds images that no sampling run has left"):
        sampled(tmp_path)
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [file]


def test_a_guide_without_a_gradient_is_refused_before_anything_is_drawn(tmp_path):
    made = Guard(IMAGES, by_name("phash"), 0.1)
    with pytest.raises(ValueError, match="needs an encoder with a gradient, and phash has none"):
        sampled(tmp_path / "out", guard=made, guide=True)
    assert not (tmp_path / "out").exists()


def test_a_guard_of_small_pictures_is_not_kept(tmp_path):
    for encoder in ("lowres", "dct", "pixels"):
        with pytest.raises(ValueError, match=f"{encoder} would be the images or small versions"):
            open_guard(IMAGES, IMAGES, encoder=encoder, rate=0.1, index=tmp_path / "g", progress=False)


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path, monkeypatch):
    sampled(tmp_path)
    assert all((tmp_path / name).exists() for name in WHOLE)
    monkeypatch.setattr("temperance.run.sampling._draw", lambda *_: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception, match="interrupted"):
        sampled(tmp_path)
    assert not any((tmp_path / name).exists() for name in WHOLE) and not list((tmp_path / "images").glob("*"))


def test_a_sheet_of_no_images_is_no_sheet(tmp_path):
    write_sheet(tmp_path / "grid.png", np.zeros((3, 4, 4, 1), np.uint8))
    assert (tmp_path / "grid.png").exists()
    write_sheet(tmp_path / "grid.png", np.zeros((0, 4, 4, 1), np.uint8))
    assert not (tmp_path / "grid.png").exists()


def test_resuming_brings_back_pictures(tmp_path):
    sampled(tmp_path)
    files = sorted((tmp_path / "images").glob("*.png"))
    before = [file.read_bytes() for file in files]
    files[0].unlink()
    files[3].write_bytes(b"")
    sampled(tmp_path, resume=True)
    assert len(files) == 5 and [file.read_bytes() for file in files] == before


TWO = (Guard(IMAGES, threshold=0.1), Guard(IMAGES, threshold=0.2))


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ({}, {"seed": 1}, "seed"),
        ({}, {"steps": 5}, "steps"),
        ({}, {"sampler": "dpm"}, "sampler"),
        ({}, {"batch_size": 3}, "batch_size"),
        ({}, {"guard": TWO[0]}, "guard"),
        ({"guard": TWO[0]}, {"guard": TWO[1]}, "guard"),
        ({"guard": TWO[0]}, {"guard": TWO[0], "guide": True}, "guard"),
        ({"guard": TWO[0]}, {"guard": Guard(load("digits[20:40]"), threshold=0.1)}, "guard"),
        ({}, {"model": closed_form_model(IMAGES, "empirical")}, "model"),
    ],
)
def test_parts_of_other_samples_are_not_gone_on_with(tmp_path, before, after, word):
    sampled(tmp_path, **before)
    kept = (tmp_path / "samples.npz").read_bytes()
    with pytest.raises(ValueError, match=f"was made with another {word}$"):
        sampled(tmp_path, resume=True, **after)
    assert (tmp_path / "samples.npz").read_bytes() == kept


def test_a_network_of_other_weights_is_another_model(tmp_path):
    one, other = (new_network("mlp", (1, 8, 8), told=True, seed=seed) for seed in (0, 1))
    made = [Model(new_denoiser(n, IMAGES.tensor(), told=True), Edm(), (1, 8, 8), {}) for n in (one, other)]
    sampled(tmp_path, made[0])
    with pytest.raises(ValueError, match="another model"):
        sampled(tmp_path, made[1], resume=True)


def test_samples_that_have_not_converged_are_counted_and_told(tmp_path):
    found = sampled(tmp_path, sampler="adaptive", steps=2)
    assert found["converged"] == 0 and found["final_sigma"] > 2 * found["sigma_min"]
    assert found["warnings"] == ["5 of 5 samples have not converged; use more --steps"]
    assert sampled(tmp_path, sampler="adaptive", steps=400)["warnings"] == []


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_processes_share_all_batches_between_them(tmp_path, world):
    shards = Shards(tmp_path, {}, 15, 2)
    shares = [shards.mine(Place(rank, world)) for rank in range(world)]
    assert sorted(sum(shares, [])) == list(range(0, 15, 2))
    assert [i for start in shards.starts for i in shards.indices(start)] == list(range(15))


def test_a_part_that_is_not_of_the_plan_or_not_whole_is_drawn_again(tmp_path):
    one, other = (Shards(tmp_path, {"seed": seed}, 5, 2) for seed in (0, 1))
    shard = Shard(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), np.zeros(2), np.ones(2, bool), np.array([2, 0, 7]))
    one.write(0, shard)
    one.write(4, shard)
    assert one.done(0) and not other.done(0)
    assert not one.done(4)  # the last batch has one image


def test_news_from_a_server_whose_clock_is_slow_is_news(tmp_path, monkeypatch):
    """Batches of another process come 400 seconds apart, dated an hour ago; 900 seconds without any are the end."""
    shards, now = Shards(tmp_path, {}, 4, 1), [0.0]

    def sleep(_):
        now[0] += 400
        done = round(now[0] / 400) - 1
        if done < 4:
            shards.write(
                done, Shard(*(np.zeros((1, *shape)) for shape in ((2, 2, 1), (), (), ())), np.array([1, 0, 1]))
            )
            os.utime(shards._path(done), (time.time() - 3600 + done,) * 2)

    monkeypatch.setattr("temperance.run.shards.time.monotonic", lambda: now[0])
    monkeypatch.setattr("temperance.run.shards.time.sleep", sleep)
    assert len(list(shards.all(Place(0, 2)))) == 4 and now[0] == 1600
    (tmp_path / "00000003.npz").unlink()
    with pytest.raises(ValueError, match="images from 3 on are missing"):
        list(shards.all(Place(0, 2)))


def test_processes_take_turns_at_the_gpus_there_are(monkeypatch):
    model = Model(torch.nn.Identity(), Edm(), (1, 8, 8), {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for asked in ("auto", "cuda"):
        assert [_where(asked, Place(i, 4, i), model) for i in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert _where("cuda:1", Place(0, 4, 0), model) == "cuda:1" and _where("cpu", Place(), model) == "cpu"


def test_a_guard_of_parts_too_small_for_its_encoder_does_without_them():
    guard = open_guard(IMAGES, None, encoder="lowres", rate=None, index=None, progress=False)  # 8x8, and 4x4 of it
    assert guard is not None and guard.index.shift == 0 and guard.look(IMAGES[:5].tensor()).refused.all()


def test_a_saved_guard_in_an_encoder_of_ones_own_is_read_back(tmp_path):
    train, heldout = split(load("digits", progress=False), (60, 60), 0)
    train_classifier(train.tensor(), torch.from_numpy(train.labels), steps=1).save(tmp_path / "c.safetensors")
    asked = {"encoder": f"classifier:{tmp_path / 'c.safetensors'}", "index": tmp_path / "guard", "progress": False}
    made = open_guard(train, heldout, rate=0.1, **asked)
    back = open_guard(None, None, rate=None, **asked)
    assert back.threshold == made.threshold and back.look(train[:5].tensor()).refused.all()


def test_resuming_draws_damaged_batches_again(tmp_path):
    sampled(tmp_path)
    before = (tmp_path / "samples.npz").read_bytes()
    for file, shift in zip(sorted((tmp_path / "shards").glob("*.npz")), (0, 1, 8)):
        whole = bytearray(file.read_bytes())
        whole[whole.index(b"pixels.npy") + 30 + shift] ^= 0xFF  # within what is compressed
        file.write_bytes(whole)
    sampled(tmp_path, resume=True)
    assert (tmp_path / "samples.npz").read_bytes() == before


def test_images_under_another_name_are_resumed_with_and_other_images_are_not(tmp_path, monkeypatch):
    for name, images in (("a", IMAGES), ("b", load("digits[1:21]"))):
        np.save(tmp_path / f"{name}.npy", images.pixels)
    monkeypatch.chdir(tmp_path)
    sampled(tmp_path / "out", closed_form_model(load("a.npy"), "tangent"))
    sampled(tmp_path / "out", closed_form_model(load(f"{tmp_path}/a.npy"), "tangent"), resume=True)
    with pytest.raises(ValueError, match="made with another model"):
        sampled(tmp_path / "out", closed_form_model(load("b.npy"), "tangent"), resume=True)


def test_of_several_processes_the_first_shows_a_bar_and_says_whose_share_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("1", ""), ("0", "the share of one of 2 processes")):
        monkeypatch.setenv("RANK", rank)
        model = closed_form_model(IMAGES, "tangent")
        options = {"sampler": "auto", "steps": 4, "batch_size": 2, "guard": None, "seed": 0, "device": "auto"}
        sample_run(model, tmp_path, 5, progress=True, **options)
        said = capsys.readouterr().err
        assert told in said and bool(said) == bool(told)
    assert "0/3" in said  # two batches of three


def test_an_array_that_finds_no_room_leaves_nothing_and_is_named(tmp_path):
    def blocks():
        yield np.zeros((1, 2, 2, 1), np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*/samples\.npz'"):
        write_array(tmp_path / "samples.npz", blocks(), (2, 2, 2, 1))
    assert not list(tmp_path.iterdir())


def test_the_tangent_closed_form_takes_a_width(tmp_path):
    drawn = [
        sampled(tmp_path / str(h), closed_form_model(load("digits[:60]"), "tangent", h))["model"] for h in ("auto", 0.3)
    ]
    assert "h" not in drawn[0] and drawn[1]["h"] == 0.3
    narrow, wide = (np.load(tmp_path / str(h) / "samples.npz")["arr_0"].reshape(-1, 64) / 1.0 for h in (0.3, "auto"))
    train = load("digits[:60]").pixels.reshape(-1, 64) / 1.0
    near = [np.linalg.norm(x[:, None] - train, axis=2).min(1).mean() for x in (narrow, wide)]
    assert near[0] < 0.7 * near[1]
