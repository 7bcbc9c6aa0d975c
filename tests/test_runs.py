"""Runs from settings to folders, in this process: configurations that reproduce a run, and what is told."""

import errno
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from runs import DEFAULTS, IMAGES, UNSEEN, run, weights
from temperance.data import Images, load
from temperance.recipe import Recipe
from temperance.run.labels import labels_of
from temperance.run.settings import Given, settings_from
from temperance.run.training import _warn, train_run
from temperance.train import Settings


def test_a_saved_configuration_reproduces_the_run_bit_for_bit(tmp_path):
    changed = ("lr_schedule=cosine", "weight=min-snr", "ema=0.9", "accumulate=3", "noise_groups=2", "lr=5e-3")
    first = run(tmp_path / "one", *changed, "seed=5", shaped={"size": None, "channels": 1})
    again = run(tmp_path / "two", config=tmp_path / "one" / "config.yaml")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert first is not None and again is not None and first["lr"] == again["lr"] == 5e-3
    run(tmp_path / "other", *changed, "seed=6")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert config["channels"] == 1 and "size" not in config and config["data"].startswith("digits")


def test_a_resumed_run_takes_from_a_file_what_it_says_and_the_rest_from_itself(tmp_path):
    run(tmp_path / "run", "seed=7", "objective=conditional", "on_copying=stop", "checkpoint_every=6")
    (tmp_path / "rate.yaml").write_text("lr: 5e-4\nsteps: 18")
    found = train_run(
        IMAGES, tmp_path / "run", Given(DEFAULTS, tmp_path / "rate.yaml", assignments=["keep=5"]),
        resume=True, progress=False, device="cpu",
    )  # fmt: skip
    assert found is not None
    names = ("lr", "steps", "keep", "seed", "objective", "on_copying", "checkpoint_every")
    assert [found[name] for name in names] == [5e-4, 18, 5, 7, "conditional", "stop", 6]


def test_model_folders_are_named_so_that_a_run_can_be_resumed_from_anywhere(tmp_path, monkeypatch):
    run(tmp_path / "first", "steps=2")
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "second", "steps=2", "network=first")
    run(tmp_path / "third", "steps=2", "init=first")
    for name, key in (("second", "network"), ("third", "init")):
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert config[key] == str(tmp_path / "first")


def test_a_model_to_start_from_brings_its_process_and_its_network(tmp_path):
    run(tmp_path / "first", "steps=2", "process=flow")
    start = f"init={tmp_path / 'first'}"
    for told, word in (
        ("process=vp", "is a model of process flow; leave out"),
        ("network=unet", "brings its own network"),
    ):
        with pytest.raises(ValueError, match=word):
            run(tmp_path / "refused", start, told)
    run(tmp_path / "cosine", "steps=2", "process=vp", "betas=cosine")
    with pytest.raises(ValueError, match="is a model of betas cosine; leave out betas linear"):
        run(tmp_path / "refused", f"init={tmp_path / 'cosine'}", "betas=linear")
    run(tmp_path / "tuned", "steps=2", f"init={tmp_path / 'cosine'}")
    assert yaml.safe_load((tmp_path / "tuned" / "config.yaml").read_text())["betas"] == "cosine"
    (tmp_path / "vp.yaml").write_text("process: vp")
    with pytest.raises(ValueError, match="is a model of process flow; leave out"):
        run(tmp_path / "refused", start, config=tmp_path / "vp.yaml")
    assert not (tmp_path / "refused").exists()
    run(tmp_path / "second", start, "steps=2")
    assert yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())["process"] == "flow"
    about = json.loads((tmp_path / "second" / "model" / "temperance.json").read_text())
    assert (about["recipe"]["process"], about["recipe"]["network"]) == ("flow", "mlp")


def test_whose_places_classes_take_in_a_model_of_other_ones_is_told(tmp_path, capsys):
    def named(*classes):
        return replace(IMAGES, labels=np.arange(len(IMAGES)) % 2, classes=classes)

    def train(images, out, start=""):
        given = Given(DEFAULTS | {"steps": 2, "class_conditional": True, "init": start})
        train_run(images, tmp_path / out, given, resume=False, progress=False, device="cpu")
        return capsys.readouterr().err

    first = str(tmp_path / "first")
    assert train(named("cats", "dogs"), "first") == train(named("cats", "dogs"), "same", first) == ""
    assert "has other classes: dogs becomes owls, and so on" in train(named("cats", "owls"), "second", first)


def test_what_the_objective_ignores_is_told(tmp_path, capsys):
    run(tmp_path / "told", "objective=conditional", "h=.5")
    assert "h is of the tangent objective: conditional ignores it" in capsys.readouterr().err
    run(tmp_path / "default", "objective=conditional", "h=auto")
    run(tmp_path / "used", "objective=tangent", "h=.5")
    assert capsys.readouterr().err == ""


def test_near_duplicates_among_the_training_images_are_told(tmp_path, capsys):
    shades = IMAGES.pixels.copy()
    shades[:, 0, 0] += 1
    doubled = Images(np.concatenate([IMAGES.pixels, shades]))
    train_run(
        doubled, tmp_path, Given(DEFAULTS | {"k": 10, "steps": 2}), resume=False, progress=False, device="cpu",
    )  # fmt: skip
    assert "100% of the images have a near-duplicate" in capsys.readouterr().err


def test_one_image_in_ten_with_a_near_duplicate_is_worth_a_word_and_one_in_forty_is_not(capsys):
    points = load("digits[:78]").tensor()
    for pairs, told in ((1, ""), (4, "10% of the images have a near-duplicate")):
        twice = torch.cat([points, points[:pairs] * 0.99 - 0.005])[: 78 + pairs]
        _warn(Recipe(), set(), twice)
        assert told in (said := capsys.readouterr().err) and bool(said) == bool(told)


def test_classes_are_those_that_images_have():
    labeled = Images(IMAGES.pixels[:4], labels=np.array([7, 3, 7, 3]))
    found, names = labels_of(labeled)
    assert found.tolist() == [1, 0, 1, 0] and names == ("3", "7")
    found, names = labels_of(Images(IMAGES.pixels[:2], labels=np.array([2, 0]), classes=("a", "b", "c")))
    assert found.tolist() == [1, 0] and names == ("a", "c")


def test_every_setting_can_be_set_and_the_nearest_name_is_told(tmp_path):
    for name, value in vars(Settings()).items():
        text = {"on_copying": "stop", "lr_schedule": "linear", "precision": "bf16", "weight": "edm"}.get(name, value)
        _, settings, _ = settings_from(Given({}, assignments=[f"{name}={text}"]))
        assert getattr(settings, name) == text
    (tmp_path / "rate.yaml").write_text("lr: 1e-3\n")  # text to YAML
    assert settings_from(Given({}, tmp_path / "rate.yaml"))[1].lr == 1e-3
    with pytest.raises(ValueError, match="did you mean noise_groups"):
        settings_from(Given({}, assignments=["noise_group=2"]))


def test_a_run_that_was_stopped_as_it_began_can_be_started_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("temperance.run.training.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(tmp_path, "steps=2")
    assert [file.name for file in tmp_path.iterdir()] == ["env.json"]  # no `config.yaml`: no run yet
    run(tmp_path, "steps=2")


def test_heldout_images_are_named_from_anywhere_and_others_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("unseen.npy", UNSEEN.pixels)
    train_run(
        load("digits[:30]"), tmp_path / "run", Given(DEFAULTS | {"steps": 2, "monitor_every": 9}), resume=False,
        progress=False, device="cpu", heldout=load("unseen.npy[:40]"),
    )  # fmt: skip
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["data"], config["heldout"]) == ("digits[:30]", f"{tmp_path}/unseen.npy[:40]")
    capsys.readouterr()
    for heldout, told in ((load(config["heldout"]), False), (UNSEEN, True)):
        train_run(
            IMAGES, tmp_path / "run", Given(DEFAULTS), resume=True, progress=False, device="cpu", heldout=heldout,
        )  # fmt: skip
        assert ("held-out images are not those" in capsys.readouterr().err) == told


@pytest.mark.parametrize(("every", "left"), [(1, "checkpoint-1 is intact: make"), (12, "make room, and")])
def test_a_model_that_finds_no_room_is_one_line_that_says_what_is_left(tmp_path, monkeypatch, every, left):
    def full(folder, model):
        raise OSError(errno.ENOSPC, "No space left on device", f"{folder.parent}/.1.a1b2c3d4/temperance.json")

    monkeypatch.setattr("temperance.run.training.hub.save", full)
    with pytest.raises(OSError, match=rf"cannot save {tmp_path}/earlier/1: No space left on device; {left}"):
        run(tmp_path, f"checkpoint_every={every}")
