"""Autoguidance: the formula, the earlier models that a run keeps, and sampling and studies that use it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from temperance import hub
from temperance.autoguidance import WEIGHT, Autoguided
from temperance.data import load
from temperance.denoiser import expand
from temperance.run.earlier import FOLDER, keep, kept, nearest
from temperance.run.sampling import sample_run
from temperance.run.settings import Given
from temperance.run.sources import autoguided, open_model
from temperance.run.training import train_run
from temperance.sample import Noise, heun, integrate
from temperance.study import METHODS, Plan, cells, run

IMAGES = load("digits[:40]")
GUIDED = ("conditional/guided", "conditional/guided-by-half")
DEFAULTS = {"objective": "conditional", "steps": 12, "batch_size": 8, "checkpoint_every": 5, "warmup": 2}


class Towards(nn.Module):
    """A denoiser whose answer is known: mu shrunk by the noise, moved by the label."""

    def __init__(self, mu: float):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu))

    def forward(self, x, sigma, label=None):
        found = self.mu.expand_as(x) if sigma is None else self.mu / (1 + expand(sigma, x))
        return found if label is None else found + expand(label, x)


def trained(out, **changes):
    train_run(IMAGES, out, Given(DEFAULTS | changes), resume=False, progress=False, device="cpu")
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    return trained(tmp_path_factory.mktemp("guided") / "run")


def drawn(model, out, **changes):
    chosen = {"sampler": "auto", "steps": 0, "batch_size": 4, "guard": None, "seed": 3, "device": "cpu"} | changes
    found = sample_run(model, out, 5, progress=False, **chosen)
    return found, (out / "samples.npz").read_bytes()


@pytest.mark.parametrize("label", [None, torch.tensor([0.0, 2.0])])
@pytest.mark.parametrize("sigma", [None, torch.tensor([0.5, 3.0])])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, 3.5])
def test_a_step_of_training_is_taken_several_times(weight, sigma, label):
    x, ours, weaker = torch.randn(2, 1, 3, 3), Towards(0.9), Towards(0.4)
    labels = () if label is None else (label,)
    found = Autoguided(ours, weaker, weight)(x, sigma, *labels)
    assert torch.allclose(found, weight * ours(x, sigma, *labels) + (1 - weight) * weaker(x, sigma, *labels))


def test_a_run_keeps_what_a_run_of_about_a_quarter_of_the_steps_ends_with(folder, tmp_path):
    """Checkpoints come every 5 steps here, so step 3 is kept for guidance alone."""
    quarter = trained(tmp_path / "quarter", steps=3)
    found, expected = hub.load(nearest(folder, 12)), hub.load(quarter)
    assert found.about["step"] == 3 and hub.load(folder).about["step"] == 12
    for name, value in expected.denoiser.state_dict().items():
        assert torch.equal(found.denoiser.state_dict()[name], value)


@pytest.mark.parametrize(
    ("step", "share", "taken"), [(88, 1 / 4, 40), (76, 1 / 4, 10), (88, 1 / 2, 40), (40, 1 / 4, 10)]
)
def test_the_nearest_earlier_model_is_so_as_a_ratio(tmp_path, step, share, taken):
    """Of 10 and 40 steps the middle is 20, not 25."""
    for kept_step in (10, 40, 88):
        (tmp_path / FOLDER / str(kept_step)).mkdir(parents=True)
    assert nearest(tmp_path, step, share).name == str(taken)


def test_a_run_that_copying_ends_is_guided_by_a_quarter_of_what_it_came_to(folder, tmp_path):
    """Of 12 steps those from an eighth on are kept: one is within 1.34 times a quarter of any end from 8 to 15."""
    assert kept(folder) == [1, 2, 3, 4, 6, 8, 11]
    for end in range(8, 16):
        share = int(nearest(folder, end).name) / end
        assert 0.25 / 1.34 < share < 0.25 * 1.34
    longer = trained(tmp_path / "run", steps=6)
    assert kept(longer) == [1, 2, 3, 4, 6]
    config = {**DEFAULTS, "steps": 24}
    train_run(IMAGES, longer, Given(config, typed={"steps"}), resume=True, progress=False, device="cpu")
    assert kept(longer) == [2, 3, 4, 6, 8, 11, 16, 23] and nearest(longer, 24).name == "6"
    stopped = open_model(str(folder))
    stopped.about["step"] = 8
    assert autoguided(stopped, str(folder), None, 2.0).about["autoguidance"]["weaker"] == str(folder / FOLDER / "2")


def test_samples_are_those_of_the_formula(folder, tmp_path):
    model = autoguided(open_model(str(folder)), str(folder), None, WEIGHT)
    found, _ = drawn(model, tmp_path / "out")
    end, earlier = open_model(str(folder)), open_model(str(folder / FOLDER / "3"))

    def by_hand(x, sigma):
        with torch.no_grad():
            return 2 * end.denoiser(x, sigma) - earlier.denoiser(x, sigma)

    expected = integrate(heun, by_hand, end.shape, end.schedule.grid(20), Noise(3, range(5))).x
    pixels = load(str(tmp_path / "out" / "samples.npz")).tensor()
    assert (pixels - expected.clamp(-1, 1)).abs().max() < 1.01 / 127.5
    assert found["nfe"] == 78  # 39 of each network
    told = json.loads((tmp_path / "out" / "sample.json").read_text())["model"]["autoguidance"]
    assert told == {"weaker": str(folder / FOLDER / "3"), "weight": 2.0}


def test_a_named_model_guides_as_the_earlier_one_does(folder, tmp_path):
    model = open_model(str(folder))
    _, default = drawn(autoguided(model, str(folder), None, 2.0), tmp_path / "a")
    _, named = drawn(autoguided(model, "elsewhere", str(folder / FOLDER / "3"), 2.0), tmp_path / "b")
    _, alone = drawn(autoguided(model, str(folder), None, 1.0), tmp_path / "c")
    _, plain = drawn(model, tmp_path / "d")
    assert default == named != plain == alone


def test_a_noise_unconditional_model_is_guided_without_being_told_the_noise(tmp_path):
    folder = trained(tmp_path / "run", objective="unconditional")
    model = autoguided(open_model(str(folder)), str(folder), None, 1.5)
    assert not model.told
    found, _ = drawn(model, tmp_path / "out", steps=20)
    assert found["sampler"] == "adaptive"


def test_a_class_conditional_model_is_guided_within_the_class(tmp_path):
    folder = trained(tmp_path / "run", class_conditional=True)
    model = autoguided(open_model(str(folder), "3"), str(folder), None, 2.0)
    _, three = drawn(model, tmp_path / "three")
    _, four = drawn(autoguided(open_model(str(folder), "4"), str(folder), None, 2.0), tmp_path / "four")
    assert three != four
    with pytest.raises(ValueError, match="does not fit the model: classes"):
        autoguided(model, str(folder), str(trained(tmp_path / "other", steps=1)), 2.0)


def test_what_cannot_guide_is_refused(folder, tmp_path):
    model = open_model(str(folder))
    with pytest.raises(ValueError, match="has no earlier/"):
        autoguided(model, str(folder / "model"), None, 2.0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="at least 0"):
            autoguided(model, str(folder), None, weight)
    with pytest.raises(ValueError, match="is not a folder"):
        autoguided(model, str(folder), str(tmp_path / "none"), 2.0)
    blind = trained(tmp_path / "blind", objective="unconditional", steps=1)
    with pytest.raises(ValueError, match="noise-conditional False, not True"):
        autoguided(model, str(folder), str(blind), 2.0)


def test_a_study_guides_every_look_by_the_one_with_its_share_of_the_steps():
    plan = Plan(
        data="digits", heldout="digits", methods=("conditional", *GUIDED), n_train=40, n_heldout=40,
        n_samples=20, steps=16, batch_size=16, seeds=(0,),
    )  # fmt: skip
    plain, guided, by_half = run([replace(cell, looks=(3, 4, 8, 16)) for cell in cells(plan)])
    assert [r["steps"] for r in plain] == [3, 4, 8, 16]
    assert [r["steps"] for r in guided] == [16] and [r["steps"] for r in by_half] == [8, 16]
    assert {r["nfe"] for r in plain} == {39} and {r["nfe"] for r in guided + by_half} == {78}
    assert len({rows[-1]["fd_heldout"] for rows in (plain, guided, by_half)}) == 3
    assert METHODS["tangent/guided"].recipe == METHODS["tangent"].recipe


def test_a_weaker_model_under_another_name_is_resumed_with_and_another_one_is_not(folder, tmp_path, monkeypatch):
    model, weaker = open_model(str(folder)), folder / FOLDER / "3"
    _, before = drawn(autoguided(model, str(folder), str(weaker), 2.0), tmp_path)
    monkeypatch.chdir(folder)
    _, again = drawn(autoguided(model, str(folder), f"{FOLDER}/3", 2.0), tmp_path, resume=True)
    assert again == before
    for other, weight in ((f"{FOLDER}/2", 2.0), (f"{FOLDER}/3", 1.5)):
        with pytest.raises(ValueError, match="made with another model"):
            drawn(autoguided(model, str(folder), other, weight), tmp_path, resume=True)


def test_what_a_killed_process_left_among_earlier_models_is_removed(tmp_path):
    left = tmp_path / FOLDER / ".64.a1b2c3d4"
    left.mkdir(parents=True)
    keep(tmp_path, 90, lambda path: path.mkdir())
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["90"]
