"""Samples that begin at displaced training images and noise."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from temperance.data import Images, load, split
from temperance.diagnostics import collapse_sigma, suggest_h
from temperance.distance import neighbors
from temperance.empirical import Tangent
from temperance.engine import EmpiricalDenoiser
from temperance.features import Pixels
from temperance.guard import Guard
from temperance.hub import Model, new_denoiser, new_network
from temperance.metrics import proximity
from temperance.run.sampling import sample_run
from temperance.run.sources import ClosedForm, open_start
from temperance.sample import Noise, heun, integrate
from temperance.schedule import Edm, edm_for, levels
from temperance.start import SmoothedStart, smoothed_start
from temperance.study import Plan, cells, study
from verbs import Refused, run

POINTS = load("digits[:100]").tensor()


def toy(h: float, sigma: float) -> SmoothedStart:
    """Three points on a line in two dimensions, each the neighbor of the two others."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]).reshape(3, 1, 1, 2)
    return SmoothedStart(points, neighbors(points.flatten(1), 2), h, sigma)


def test_draws_have_the_moments_of_the_closed_form():
    """Of the mixture: mean of the points; their covariance, the mean one of the neighbors, and the noise."""
    h, sigma = 0.7, 0.3
    start = toy(h, sigma)
    x = start(Noise(0, range(20_000))).flatten(1).double()
    mu = start.flat.double()
    apart = [mu[near] - mu[i] for i, near in enumerate(start.neighbors.index)]
    spread = torch.stack([difference.T @ difference / 2 for difference in apart])
    want = torch.cov(mu.T, correction=0) + h**2 * spread.mean(0) + sigma**2 * torch.eye(2)
    assert torch.allclose(x.mean(0), mu.mean(0), atol=0.05)
    assert torch.allclose(torch.cov(x.T), want, atol=0.1)


def test_a_draw_is_as_likely_as_the_closed_form_says():
    """The score of the closed form, averaged over draws of its own density, is zero (Fisher)."""
    h, sigma = 0.7, 0.5
    start = toy(h, sigma)
    x = start(Noise(1, range(20_000))).flatten(1)
    mixture = Tangent(start.flat, start.neighbors, h)
    score = (mixture(x, torch.full((len(x),), sigma)) - x) / sigma**2
    assert torch.allclose(score.mean(0), torch.zeros(2).to(score), atol=0.05)
    far = start(Noise(1, range(20_000))).flatten(1) * 1.5  # and of another density it is not
    other = (mixture(far, torch.full((len(far),), sigma)) - far) / sigma**2
    assert float(other.mean(0).abs().max()) > 0.1


def test_a_start_depends_on_seed_and_index_alone():
    start = smoothed_start(POINTS)
    whole = start(Noise(3, range(8)))
    assert torch.equal(whole[2:5], start(Noise(3, range(2, 5))))
    assert not torch.equal(whole, start(Noise(4, range(8))))


def test_everything_is_chosen_from_the_training_images():
    start = smoothed_start(POINTS)
    table = neighbors(POINTS.flatten(1), 10)
    cut = suggest_h(POINTS.flatten(1), table, span=(-1.0, 1.0))
    assert start.sigma == collapse_sigma(POINTS.flatten(1))
    assert start.h == pytest.approx(cut.at(0.5))
    assert smoothed_start(POINTS, "halved").h == pytest.approx(cut.at(0.75))
    assert smoothed_start(POINTS, "auto").h == pytest.approx(suggest_h(POINTS.flatten(1), table).h)
    assert smoothed_start(POINTS, 0.4).h == 0.4
    with pytest.raises(ValueError, match="h must be a number, auto, halved or matched, got 'wide'"):
        smoothed_start(POINTS, "wide")
    with pytest.raises(ValueError):
        smoothed_start(POINTS[:1].repeat(5, 1, 1, 1))


def test_only_the_levels_below_a_start_are_walked():
    start, schedule = smoothed_start(POINTS), edm_for(POINTS.flatten(1))
    sigmas = levels(schedule, 20)
    denoiser = EmpiricalDenoiser(POINTS, "tangent", neighbors=start.neighbors, h=start.h)

    def plain(x, sigma):  # a denoiser that does not walk by itself
        return denoiser(x, sigma)

    drawn = integrate(heun, plain, POINTS.shape[1:], sigmas, Noise(0, range(4)), start=start)
    assert drawn.nfe == 2 * int((sigmas < 0.95 * start.sigma).sum()) + 1 < 20
    assert bool(drawn.converged.all())
    near = SmoothedStart(POINTS, start.neighbors, start.h, 1.02 * float(sigmas[-1]))  # no level is well below it
    assert integrate(heun, plain, POINTS.shape[1:], sigmas, Noise(0, range(4)), start=near).nfe == 3
    with pytest.raises(ValueError, match="cannot start at level .* the schedule ends at"):
        low = SmoothedStart(POINTS, start.neighbors, start.h, 1e-4)
        integrate(heun, plain, POINTS.shape[1:], sigmas, Noise(0, range(4)), start=low)


def test_matched_starts_keep_the_distance_of_unseen_images():
    """With the closed form below, which leaves the distribution as it is; a narrow width is nearer."""
    train, heldout, _ = split(load("digits"), (100, 700, 997), 10)
    points = train.tensor()
    unseen = proximity(heldout.tensor().flatten(1), points.flatten(1)).distance
    schedule = edm_for(points.flatten(1))

    def nearer(h):
        start = smoothed_start(points, h)
        denoiser = EmpiricalDenoiser(points, "tangent", neighbors=start.neighbors, h=start.h)
        x = integrate(heun, denoiser, points.shape[1:], levels(schedule, 20), Noise(0, range(300)), start=start).x
        own = proximity(x.clamp(-1, 1).flatten(1), points.flatten(1)).distance
        return float((own[:, None] < unseen).float().mean())

    assert abs(nearer("matched") - 0.5) < 0.08
    assert abs(nearer("halved") - 0.75) < 0.08
    assert nearer(0.2) > 0.95


def test_a_study_starts_the_samples_of_plain_training(tmp_path):
    plan = Plan(
        "digits", "digits", methods=("conditional", "conditional/started"), n_train=60, n_heldout=60, n_samples=30,
        steps=40, batch_size=16, seeds=(0,),
    )  # fmt: skip
    plain, started = cells(plan)
    assert started.training == plain.training
    rows = {
        name: [r for r in study(plan, tmp_path, progress=False)["rows"] if r["method"] == name] for name in plan.methods
    }
    assert [r["steps"] for r in rows["conditional"]] == [r["steps"] for r in rows["conditional/started"]]
    for alone, from_start in zip(*rows.values()):
        assert from_start["nfe"] < alone["nfe"]
        assert from_start["fd_heldout"] < alone["fd_heldout"]  # nearly untrained networks draw nothing by themselves


def test_a_start_is_refused_where_it_does_not_fit(tmp_path):
    start = smoothed_start(POINTS)
    network = new_network("mlp", (1, 8, 8), told=True, seed=0, classes=2)
    by_class = Model(
        new_denoiser(network, POINTS, told=True), edm_for(POINTS.flatten(1)), (1, 8, 8), {"classes": ["a", "b"]}
    )
    ends = {
        "sampler": "heun",
        "steps": 4,
        "batch_size": 2,
        "guard": None,
        "seed": 0,
        "device": "cpu",
        "progress": False,
    }
    with pytest.raises(ValueError, match="--start needs images with classes"):
        sample_run(by_class, tmp_path / "out", 2, start=start, **ends)
    network = new_network("mlp", (1, 8, 8), told=True, seed=0)
    high = Model(new_denoiser(network, POINTS, told=True), Edm(2.0, 9.0), (1, 8, 8), {})
    with pytest.raises(
        ValueError, match="its images collapse at a noise level of .* ends at 2: look for near-duplicates"
    ):
        sample_run(high, tmp_path / "out", 2, start=start, **ends)
    assert not (tmp_path / "out").exists()


def test_samples_of_a_class_begin_at_images_of_it():
    images = load("digits[:300]")
    points, labels = images.tensor(), torch.from_numpy(images.labels)
    start = smoothed_start(points, labels=labels)
    assert (labels[start.neighbors.index] == labels[:, None]).all()  # displaced along the class alone
    wanted = torch.tensor([3, 7, 3, 0, 7, 7])
    still = replace(start, h=1e-6, sigma=0.0).of(wanted)
    nearest = torch.cdist(still(Noise(0, range(6))).flatten(1), start.flat).argmin(1)
    assert labels[nearest].tolist() == wanted.tolist() and len(nearest.unique()) == 6
    alone = start.of(wanted[2:3])(Noise(0, [2]))
    assert torch.equal(alone, start.of(wanted)(Noise(0, range(6)))[2:3])  # whatever it is drawn with
    assert (
        start.describe()["labels_sha256"] != smoothed_start(points, labels=labels.flip(0)).describe()["labels_sha256"]
    )
    assert start.of(wanted[:0])(Noise(0, [])).shape == (0, 1, 8, 8)
    for other in (smoothed_start(points), replace(start, labels=labels.clamp(max=6))):
        with pytest.raises(ValueError, match="a smoothed start has no images of class [37]"):
            other.of(wanted)
    with pytest.raises(ValueError, match="needs 2 distinct images of every class"):
        smoothed_start(points[:12], labels=labels[:12])


def test_images_of_a_start_are_told_to_classes_by_name():
    images = load("digits[:300]")
    shape = (1, 8, 8)
    network = new_network("mlp", shape, told=True, seed=0, classes=2)
    about = {"classes": ["7", "3"]}
    model = Model(new_denoiser(network, POINTS, told=True), edm_for(POINTS.flatten(1)), shape, about)
    start = open_start(images, "matched", model)
    assert start.labels is not None and start.labels.unique().tolist() == [0, 1]
    assert int((start.labels == 0).sum()) == int((images.labels == 7).sum())
    of_threes = images[np.flatnonzero(images.labels == 3)]
    with pytest.raises(ValueError, match="has no images of class 7, which the model draws"):
        open_start(of_threes, "matched", model)
    one = replace(model, about={**about, "label": 1})
    assert open_start(of_threes, "matched", one).labels.tolist() == [1] * len(of_threes)
    unnamed = Images(of_threes.pixels)
    assert open_start(unnamed, "matched", one).labels.tolist() == [1] * len(unnamed)
    with pytest.raises(ValueError, match="--start: .* has no labels"):
        open_start(unnamed, "matched", model)


@pytest.mark.slow
def test_a_class_conditional_run_starts_from_its_classes(tmp_path: Path):
    images, out = load("digits[:120]"), tmp_path / "run"
    np.savez(tmp_path / "a.npz", arr_0=images.pixels, arr_1=images.labels)
    run("train", tmp_path / "a.npz", "--out", out, "--class-conditional", "--objective", "conditional", "--steps", 20)
    given = ("sample", out, "-n", 4, "--start", tmp_path / "a.npz")
    run(*given, "--out", tmp_path / "all")
    run(*given, "--out", tmp_path / "one", "--label", 3)
    drawn = [np.load(tmp_path / name / "samples.npz")["arr_0"].astype(int) for name in ("all", "one")]
    assert np.abs(drawn[0][:3] - drawn[1][:3]).max() > 20 and (drawn[0][3] == drawn[1][3]).all()


def test_a_guard_draws_another_start(tmp_path):
    """A refused sample is drawn again from another displaced image, not from the same one."""
    start = smoothed_start(POINTS)
    denoiser = EmpiricalDenoiser(POINTS, "tangent", neighbors=start.neighbors, h=start.h)
    model = Model(ClosedForm(denoiser), edm_for(POINTS.flatten(1)), (1, 8, 8), {"closed_form": "tangent"})
    images = load("digits[:100]")
    guard = Guard.calibrate(images, load("digits[100:700]"), Pixels(), 0.2)
    ends = {"sampler": "heun", "steps": 20, "batch_size": 40, "seed": 0, "device": "cpu", "progress": False}
    found = sample_run(model, tmp_path / "out", 40, guard=guard, start=start, **ends)
    assert found["refused"] > 0 and found["n"] == 40


@pytest.mark.slow
def test_the_command_line_starts_from_images(tmp_path: Path, refused: Refused):
    data, out = "digits[:60]", tmp_path / "run"
    run("train", data, "--out", out, "--objective", "conditional", "--steps", 30)
    whole, started = tmp_path / "whole", tmp_path / "started"
    run("sample", out, "--out", whole, "-n", 4)
    run("sample", out, "--out", started, "-n", 4, "--start", data, "--batch-size", 3)
    first, second = (json.loads((folder / "sample.json").read_text()) for folder in (whole, started))
    assert first["start"] is None and second["start"]["sigma"] > 0 and second["nfe"] < first["nfe"]
    again = tmp_path / "again"
    run("sample", out, "--out", again, "-n", 4, "--start", data)
    arrays = [np.load(folder / "samples.npz")["arr_0"].astype(int) for folder in (started, again, whole)]
    assert np.abs(arrays[0] - arrays[1]).max() <= 1  # batches change the rounding only
    assert np.abs(arrays[0] - arrays[2]).max() > 20
    run("sample", out, "--out", again, "-n", 6, "--start", data, "--resume")
    assert second["start"]["h"] == pytest.approx(smoothed_start(load(data).tensor()).h)
    run("sample", out, "--out", tmp_path / "narrow", "-n", 2, "--start", data, "--h", 0.5)
    assert json.loads((tmp_path / "narrow" / "sample.json").read_text())["start"]["h"] == 0.5
    for given, said in (
        (["--h", "1"], "--h is for --start TRAIN and --closed-form tangent"),
        (["--start", data, "--h", "wide"], "--h must be a number or auto or halved or matched"),
        (["--start", data, "--h", "0"], "--h must be above 0"),
        (["--start", "digits[:60]", "--size", "4"], "--start images are"),
        (["--start", "digits[:1]"], "at least 2"),
    ):
        assert said in refused("sample", str(out), "--out", str(tmp_path / "no"), *given)
    given = ["--closed-form", "tangent", "--start", data]
    assert "--start needs a trained model" in refused("sample", data, "--out", str(tmp_path / "no"), *given)
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_images_are_read_as_the_models_own_were(tmp_path: Path):
    data, out, drawn = "digits[:60]", tmp_path / "run", tmp_path / "drawn"
    run("train", data, "--out", out, "--objective", "conditional", "--steps", 20, "--size", 4, "--channels", 3)
    run("sample", out, "--out", drawn, "-n", 3, "--start", data, "--guard", data, "--heldout", "digits[60:400]")
    assert np.load(drawn / "samples.npz")["arr_0"].shape == (3, 4, 4, 3)
    named = tmp_path / "named"
    run("sample", out, "--out", named, "-n", 3, "--start", data, "--guard", data, "--heldout", "digits[60:400]",
        "--size", 4, "--channels", 3)  # fmt: skip
    assert (drawn / "samples.npz").read_bytes() == (named / "samples.npz").read_bytes()
    plain = tmp_path / "plain"  # was trained on images as they are, which images of another size do not fit
    run("train", data, "--out", plain, "--objective", "conditional", "--steps", 2)
    np.save(tmp_path / "larger.npy", np.random.default_rng(0).integers(0, 255, (9, 9, 9, 1), np.uint8))
    for flag in ("--start", "--guard"):
        refusal = run("sample", plain, "--out", tmp_path / "no", flag, tmp_path / "larger.npy", code=2).stderr
        assert "the model makes (1, 8, 8); set --size" in refusal
