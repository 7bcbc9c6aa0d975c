"""The monitor of a run: what it sees, tells, ends and hands over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import binom

from runs import DEFAULTS, IMAGES, UNSEEN, run, weights
from temperance.data import Images, load
from temperance.hub import Model
from temperance.metrics import Proximity, proximity, wilson
from temperance.recipe import mirror_groups, with_mirrors
from temperance.run.monitor import TOLERATED, Monitor, _figures, usual_share
from temperance.run.settings import Given
from temperance.run.training import _end, _monitor, _unseen, _watched, train_run
from temperance.schedule import Edm
from temperance.train import Settings, read_metrics, stopped_at


class Copier(torch.nn.Module):
    """Returns the nearest of some images, whatever the noise."""

    def __init__(self, points):
        super().__init__()
        self.points = torch.nn.Parameter(points.flatten(1))

    def forward(self, x, sigma):
        return self.points[torch.cdist(x.flatten(1), self.points).argmin(1)].reshape(x.shape)


@pytest.mark.parametrize(
    ("heldout", "on_copying"), [(True, "stop"), (True, "advise"), (False, "stop"), (True, "halve"), (False, "prevent")]
)
def test_copying_is_seen_told_and_stopped(tmp_path, monkeypatch, capsys, heldout, on_copying):
    points, unseen = IMAGES.tensor(), UNSEEN.tensor()
    monkeypatch.setattr(Model, "told", property(lambda self: True))
    settings = Settings(monitor_samples=20, on_copying=on_copying)
    monitor = Monitor(points, unseen if heldout else None, settings, tmp_path)
    found = monitor(100, Model(Copier(points), Edm(), (1, 8, 8), {}))
    assert found["memorized_fraction"] == 1 and found["copying"]
    assert found["stop"] == (on_copying != "advise")
    assert ("copy_auc" in found) == heldout
    told = capsys.readouterr().err
    assert "step 100: 100% of samples are copies" in told and ("stopped" in told) == found["stop"]
    with Image.open(tmp_path / "samples" / "step-0000100.png") as sheet, Image.open(tmp_path / "monitor.png") as plot:
        assert sheet.size == (45, 36) and plot.width > 300  # 5 columns, 4 rows, gaps


def test_looks_share_their_noise_and_the_plot_its_history(tmp_path, monkeypatch):
    """One set of images as it develops, another for another seed."""
    monkeypatch.setattr(Model, "told", property(lambda self: True))
    model, found = Model(Copier(IMAGES.tensor()), Edm(), (1, 8, 8), {}), {}
    for seed, before in ((0, ""), (1, ""), (0, '{"step": 4, "memorized_fraction": 0.1, "memorized_ci": [0.0, 0.2]}')):
        out = tmp_path / f"{seed}{len(before)}"
        out.mkdir()
        (out / "metrics.jsonl").write_text(before)
        for step in (8, 9):
            Monitor(IMAGES.tensor(), None, Settings(monitor_samples=9, seed=seed), out)(step, model)
        sheets = [(out / "samples" / f"step-000000{step}.png").read_bytes() for step in (8, 9)]
        assert sheets[0] == sheets[1]
        found[out.name] = sheets[0], (out / "monitor.png").read_bytes()
    first, other, later = found.values()
    assert first[0] == later[0] != other[0] and first[1] != later[1]


def test_copies_of_nearly_symmetric_images_are_seen_beside_their_mirror_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "told", property(lambda self: True))
    images = IMAGES.tensor()
    alike = images + images.flip(3) + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    rows = with_mirrors(alike / 2)
    copier = Model(Copier(rows + 0.005 * torch.randn(rows.shape)), Edm(), (1, 8, 8), {})

    def share(*groups):
        return Monitor(rows, None, Settings(monitor_samples=20), tmp_path, *groups)(100, copier)["memorized_fraction"]

    assert share() < 0.9 and share(mirror_groups(rows)) == 1


def test_training_on_mirror_images_is_watched_with_them_as_one(tmp_path):
    plain, both = (_monitor(IMAGES.tensor(), flips, None, Settings(), tmp_path) for flips in (False, True))
    assert len(plain.train) == len(plain.group) == len(IMAGES)
    assert len(both.train) == 2 * len(IMAGES) and torch.equal(both.group, mirror_groups(both.train))


def test_samples_that_are_unseen_images_raise_no_alarm(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Model, "told", property(lambda self: True))
    monitor = Monitor(IMAGES.tensor(), UNSEEN.tensor(), Settings(monitor_samples=20, on_copying="stop"), tmp_path)
    found = monitor(100, Model(Copier(load("digits[300:340]").tensor()), Edm(), (1, 8, 8), {}))
    assert found["memorized_fraction"] < 0.2 and not found["copying"] and not found["stop"]
    assert 0.2 < found["copy_auc"] < 0.8
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("share", "stop"), [(0.3, True), (-0.5, False)])
def test_a_run_can_end_where_samples_are_as_near_as_unseen_images(tmp_path, monkeypatch, capsys, share, stop):
    """Unseen images, moved towards the nearest training image or away from it; none of them is a copy."""
    monkeypatch.setattr(Model, "told", property(lambda self: True))
    train, unseen = load("digits[:300]").tensor(), load("digits[300:400]").tensor()
    near = train[proximity(unseen.flatten(1), train.flatten(1)).index]
    model = Model(Copier(unseen + share * (near - unseen)), Edm(), (1, 8, 8), {})
    found = Monitor(train, None, Settings(monitor_samples=200, on_copying="prevent"), tmp_path)(100, model)
    assert not found["copying"] and found["stop"] == (found["spacing_auc"] >= 0.5) == stop
    assert ("step 100: samples lie as near to the images as these" in capsys.readouterr().err) == stop
    asked = Settings(monitor_samples=200, on_copying="halve")
    assert not Monitor(train, None, asked, tmp_path)(100, model)["stop"]


def test_a_watched_run_records_plots_and_shows_samples(tmp_path):
    settings = ("monitor_every=6", "monitor_samples=9", "checkpoint_every=12")
    run(tmp_path / "run", *settings, heldout=UNSEEN)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "memorized_fraction" in row]
    assert [row["step"] for row in rows] == [6, 12]
    for key in ("memorized_ci", "heldout_memorized_fraction", "ratio_median", "heldout_ratio_median", "copy_auc"):
        assert all(key in row for row in rows)
    shown = sorted(p.name for p in (tmp_path / "run" / "samples").iterdir())
    assert shown == ["step-0000006.png", "step-0000012.png"]
    assert (tmp_path / "run" / "monitor.png").exists()
    run(tmp_path / "plain", "checkpoint_every=12")
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")  # looking changes nothing


def test_a_run_that_copies_are_to_end_is_looked_at_without_being_told_when(tmp_path):
    run(tmp_path, "monitor_samples=4", "checkpoint_every=6", "on_copying=stop")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "copying" in row] == [6, 12]


@pytest.mark.parametrize(
    ("on_copying", "heldout", "every"),
    [("advise", False, 0), ("advise", True, 6), ("stop", False, 6), ("halve", False, 0), ("prevent", True, 0)],
)
def test_looks_are_at_checkpoints_unless_landmarks_are_looked_at(on_copying, heldout, every):
    asked = Settings(on_copying=on_copying, checkpoint_every=6)
    assert _watched(asked, heldout).monitor_every == every
    assert _watched(replace(asked, monitor_every=4), heldout).monitor_every == 4


def test_heldout_images_alone_ask_for_a_look_at_every_checkpoint(tmp_path):
    run(tmp_path, "monitor_samples=4", "checkpoint_every=12", heldout=UNSEEN)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["monitor_every"] == 12


@pytest.mark.slow
def test_a_run_goes_back_to_half_of_the_steps_that_copies_came_after(tmp_path):
    """Twelve digits, learned by heart within some hundred steps."""
    few, config = load("digits[:12]"), {"objective": "conditional", "steps": 2000, "batch_size": 32, "lr": 2e-3}

    def trained(out, *assignments, resume=False):
        found = train_run(
            few, out, Given(DEFAULTS | config, assignments=["monitor_samples=40", *assignments]),
            resume=resume, progress=False, device="cpu",
        )  # fmt: skip
        assert found is not None
        return found["model_step"], found["stopped_after"]

    half, came = trained(tmp_path / "run", "on_copying=halve")
    looks = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "stop" in row]
    *quiet, last = looks
    assert [row["step"] for row in looks][:3] == [64, 91, 128] and quiet
    assert not any(row["copying"] for row in quiet) and last["copying"] and last["step"] < 2000
    assert abs(half - last["step"] / 2) < 1 and came == stopped_at(tmp_path / "run") == last["step"]
    trained(tmp_path / "plain", f"steps={half}")
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
    assert trained(tmp_path / "run", "on_copying=halve", resume=True) == (half, came)  # it had ended
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
    near, ended = trained(tmp_path / "near", "on_copying=prevent")
    *before, at = [row for row in read_metrics(tmp_path / "near" / "metrics.jsonl") if "stop" in row]
    assert near == ended == at["step"] < came and all(row["spacing_auc"] < 0.5 for row in before)
    trained(tmp_path / "as long", f"steps={near}")
    assert weights(tmp_path / "near") == weights(tmp_path / "as long")
    assert trained(tmp_path / "near", "on_copying=prevent", resume=True) == (near, ended)
    further, _ = trained(tmp_path / "run", "on_copying=advise", f"steps={last['step'] + 9}", resume=True)
    assert further == last["step"] + 9


@pytest.mark.parametrize(("heldout", "copies"), [(0, 7), (12, 7), (200, 4), (1000, 2)])
def test_an_alarm_takes_as_many_copies_as_the_page_on_training_says(heldout, copies):
    limit = usual_share(apart(heldout) if heldout else None)
    assert wilson((copies - 1) / 64, 64)[0] <= limit < wilson(copies / 64, 64)[0]


def test_an_alarm_is_as_rare_without_copies_as_the_page_on_training_says():
    unseen = apart(1000, copies=43)  # as emoji
    takes = next(k for k in range(65) if wilson(k / 64, 64)[0] > usual_share(unseen))
    chance = float(binom.sf(takes - 1, 64, 0.043))
    assert 1 / 60 < chance < 1 / 45 and 1 - (1 - chance) ** 20 < 1 / 3


def test_two_copies_of_twenty_may_be_chance():
    x = torch.cat([UNSEEN.tensor()[:18], IMAGES.tensor()[:2]])
    found = _figures(proximity(x.flatten(1), IMAGES.tensor().flatten(1)), None)
    assert found["memorized_fraction"] == 0.1 > TOLERATED > found["memorized_ci"][0] and not found["copying"]


def test_mirror_images_are_training_images_of_a_run_with_flips(tmp_path):
    held = Images(np.concatenate([IMAGES.pixels[:5, :, ::-1], UNSEEN.pixels[:9]]))
    kept = [len(_unseen(held, IMAGES, flips, told=False)) for flips in (True, False)]
    assert kept == [9, 14]


def test_unseen_images_that_look_like_copies_are_usual_however_few():
    assert 0.4 < usual_share(apart(12, copies=3)) == pytest.approx(wilson(3 / 12, 12)[1])
    assert usual_share(apart(1000, copies=50)) == TOLERATED < usual_share(apart(1000, copies=51))


def apart(n, copies=0):
    """Distances of n images, some of which look like copies."""
    second = torch.cat([torch.full((copies,), 9.0), torch.full((n - copies,), 1.1)])
    return Proximity(torch.zeros(n, dtype=torch.long), torch.ones(n), second)


def test_held_out_images_that_are_training_images_do_not_hide_copies(tmp_path, capsys):
    """As unseen ones they would make copies usual."""
    with pytest.raises(ValueError, match="all of it are training images"):
        run(tmp_path / "all", "monitor_every=6", heldout=IMAGES[:9])
    assert not (tmp_path / "all").exists()
    images, unseen = (np.concatenate([IMAGES.pixels[: 5 * i], UNSEEN.pixels]) for i in (1, 0))
    run(tmp_path / "some", "monitor_every=6", "monitor_samples=4", heldout=Images(images))
    assert "5 of 85 held-out images are training images and are left out" in capsys.readouterr().err
    run(tmp_path / "none", "monitor_every=6", "monitor_samples=4", heldout=Images(unseen))
    looks = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("some", "none")]
    ratios = [[row["heldout_ratio_median"] for row in rows if "copy_auc" in row] for rows in looks]
    assert ratios[0] == ratios[1] and len(ratios[0]) == 2


def test_heldout_images_of_another_size_are_refused(tmp_path):
    other = load("digits[:9]", size=16)
    with pytest.raises(ValueError, match="--heldout images are 16x16x1, .*set --size"):
        run(tmp_path, "monitor_every=6", heldout=other)
    assert not np.any([p.name == "model" for p in tmp_path.iterdir()])


def test_copies_before_any_earlier_model_leave_the_last_one(tmp_path, capsys):
    """As of a run that starts from a model that copies already."""
    model = Model(torch.nn.Identity(), Edm(), (1, 8, 8), {})
    for step in (4, 8):
        (tmp_path / "earlier" / str(step)).mkdir(parents=True)
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("temperance.run.training.stopped_at", lambda _: 4)
        patch.setattr("temperance.run.training.listed", lambda _: [tmp_path / "checkpoint-4"])
        assert _end(tmp_path, model, Settings(on_copying="halve")) == (4, model)
    assert "copies came before any earlier model" in capsys.readouterr().err


def test_images_that_are_all_the_same_are_not_watched(tmp_path):
    with pytest.raises(ValueError, match="all images are the same"):
        _monitor(IMAGES.tensor()[:1].repeat(4, 1, 1, 1), True, None, Settings(), tmp_path)
