"""The study: its grid, and what it keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from pictures import write
from temperance.cli.input import same
from temperance.cli.study import small
from temperance.data import load
from temperance.demo import Plan as Demo
from temperance.demo import _command as demo_command
from temperance.distance import neighbors
from temperance.features import Classifier, Pixels
from temperance.objective import NoiseConditional, TangentSmoothed, TemperatureSmoothed
from temperance.recipe import OBJECTIVES, Recipe, prepare
from temperance.schedule import Edm
from temperance.scorecard import score, yardstick
from temperance.study import METHODS, QUICK, Cell, Plan, cells, run, study
from temperance.study.cell import Split, _drawn, _with_mirrors, check
from temperance.study.methods import add_dropout
from temperance.study.objectives import Band, Displaced, Floored, Literal, Mixing, Tangents
from temperance.study.page import command
from temperance.study.plan import looks
from temperance.study.sweep import _read, keep
from temperance.trial import encoder_from

PLAN = Plan("digits", "digits", methods=("conditional", "tangent"), n_train=30, n_heldout=40, n_samples=20, steps=8)
POINTS = torch.randn(40, 1, 4, 4, generator=Generator().manual_seed(0)).clamp(-1, 1)
TABLE = neighbors(POINTS.flatten(1), 6)
SCHEDULE = Edm(sigma_min=0.05, sigma_max=5.0)
INDEX = torch.arange(24)


def timeless(rows: list[dict], *without: str) -> list[dict]:
    return [{k: v for k, v in r.items() if not k.endswith("seconds") and k not in without} for r in rows]


def test_looks_end_at_the_last_step_and_grow_geometrically():
    assert looks(6000)[-1] == 6000
    assert all(1.3 < b / a < 1.5 for a, b in zip(looks(6000), looks(6000)[1:]))


def test_over_n_takes_nested_sizes_of_one_draw():
    found = cells(replace(PLAN, over="n", n_train=160, seeds=(0,), methods=()))
    assert {c.n_train for c in found} == {20, 40, 80, 160}
    assert {c.n_drawn for c in found} == {160}


def test_cells_with_different_settings_are_kept_apart():
    cell = cells(PLAN)[0]
    others = [
        replace(cell, seed=9),
        replace(cell, steps=9),
        replace(cell, n_samples=21),
        replace(cell, method="tangent"),
    ]
    assert len({c.key for c in (cell, *others)}) == 5


@pytest.mark.parametrize("bad", [{"over": "time"}, {"methods": ("tangant",)}, {"steps": 2}, {"seeds": ()}])
def test_a_plan_names_what_is_wrong(bad):
    with pytest.raises(ValueError, match=r"--over|unknown method|steps|seed"):
        replace(PLAN, **bad)


def test_mixing_stays_on_the_segment_to_a_neighbor():
    moved = Mixing(POINTS, TABLE)(POINTS[INDEX], INDEX, Generator().manual_seed(1))
    for i, x in zip(INDEX.tolist(), moved):
        others = POINTS[TABLE.index[i]]
        direct = (others - POINTS[i]).flatten(1).norm(dim=1)
        around = (x - POINTS[i]).flatten().norm() + (others - x).flatten(1).norm(dim=1)
        assert float((around - direct).min()) < 1e-5


def test_a_band_keeps_training_images_below_and_moves_them_above():
    tangents = Tangents(TangentSmoothed(SCHEDULE, POINTS, TABLE, 0.7))
    target = Band(tangents, NoiseConditional(SCHEDULE), 0.5)(POINTS[INDEX], INDEX, Generator().manual_seed(1))
    still = (target.denoised == POINTS[INDEX]).flatten(1).all(1)
    assert torch.equal(still, target.sigma <= 0.5)
    assert 0 < int(still.sum()) < len(INDEX)
    spread = ((target.x - target.denoised).flatten(1).square().mean(1).sqrt() / target.sigma).mean()
    assert float(spread) == pytest.approx(1, abs=0.1)


def test_a_floor_is_the_posterior_mean_at_the_floor():
    base = TemperatureSmoothed(SCHEDULE, POINTS, TABLE, 1.0)
    target = Floored(base, 0.8)(POINTS[INDEX], INDEX, Generator().manual_seed(1))
    low = (target.sigma <= 0.8).nonzero()[:, 0]
    i = int(low[0])
    group = torch.cat([INDEX[i : i + 1], TABLE.index[INDEX[i]]])
    r2 = (POINTS[group].double() - target.x[i].double()).flatten(1).square().sum(1)
    weights = (-r2 / (2 * 0.8**2)).softmax(0)
    expected = torch.einsum("k,kchw->chw", weights, POINTS[group].double())
    assert torch.allclose(target.denoised[i].double(), expected, atol=1e-5)
    high = target.sigma > 0.8
    assert torch.equal(target.denoised[high], POINTS[INDEX][high])


def test_the_literal_form_is_not_told_the_noise():
    base = TemperatureSmoothed(SCHEDULE, POINTS, TABLE, 1.0)
    target = Literal(base, 0.05, 5.0)(POINTS[INDEX], INDEX, Generator().manual_seed(1))
    assert target.condition is None
    assert bool(target.denoised.isfinite().all())


def test_a_displacement_goes_before_the_objective():
    moved = Displaced(Mixing(POINTS, TABLE), NoiseConditional(SCHEDULE))(
        POINTS[INDEX], INDEX, Generator().manual_seed(1)
    )
    again = Mixing(POINTS, TABLE)(POINTS[INDEX], INDEX, Generator().manual_seed(1))
    assert torch.equal(moved.denoised, again)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.objective is not None])
def test_every_changed_objective_can_be_built_and_called(name):
    method = METHODS[name]
    ready = prepare(Recipe(network="mlp", **method.recipe), POINTS)
    assert method.objective is not None
    target = method.objective(ready, POINTS)(POINTS[INDEX], INDEX, Generator().manual_seed(0))
    assert (target.condition is None) == (method.recipe["objective"] == "unconditional")
    assert bool(target.denoised.isfinite().all())


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_dropout_reaches_the_network(kind):
    points = torch.randn(20, 1, 8, 8, generator=Generator().manual_seed(0)).clamp(-1, 1)
    ready = prepare(Recipe(objective="conditional", network=kind), points)
    for weight in ready.denoiser.parameters():
        weight.data.normal_(0, 0.1, generator=Generator().manual_seed(weight.numel()))
    add_dropout(ready.denoiser.train(), 0.5)
    x, sigma = points[:4], torch.ones(4)
    assert not torch.equal(ready.denoiser(x, sigma), ready.denoiser(x, sigma))
    ready.denoiser.eval()
    assert torch.equal(ready.denoiser(x, sigma), ready.denoiser(x, sigma))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_train": 1500, "n_heldout": 700}, "1797 images"),
        ({"data": "digits[:20]"}, "20 images"),
        ({"heldout": "mnist5k"}, "8x8x1 and mnist5k is 28x28x1"),
        ({"size": 10, "network": "unet"}, "divisible by 4"),
        ({"data": "nowhere"}, "no file, folder or built-in"),
    ],
)
def test_data_that_cannot_be_used_are_refused_before_anything_starts(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        study(replace(PLAN, **change), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_resumes_and_repeats_itself(tmp_path, monkeypatch):
    plan = replace(PLAN, seeds=(0,), n_samples=12)
    first = study(plan, tmp_path, progress=False)
    assert [r["steps"] for r in first["rows"] if r["method"] == "tangent"] == list(looks(8))
    assert all(r["drawn_on"].endswith(f", {torch.backends.cpu.get_cpu_capability()}") for r in first["rows"])
    assert (tmp_path / "report.html").read_text().count("<h1") == 1
    kept = sorted((tmp_path / "cells").iterdir())
    kept[0].write_text("{")  # damaged: run again; the other one is read
    second = study(plan, tmp_path, progress=False)
    assert second["provenance"]["reused"] == 1
    assert timeless(first["rows"]) == timeless(second["rows"])
    assert json.loads((tmp_path / "study.json").read_text())["schema"] == 1


@pytest.mark.slow
def test_methods_that_train_alike_train_once_and_draw_what_they_would_alone(tmp_path, one_thread):
    methods = ("tangent/guided-by-half", "tangent", "conditional", "tangent/guided")
    plan = replace(PLAN, methods=methods, seeds=(0,), n_samples=12)
    guided, *_ = wanted = cells(plan)
    alike = [cell for cell in wanted if cell.training == guided.training]
    assert [cell.method for cell in alike] == [name for name in methods if name != "conditional"]
    assert guided.training.method == "tangent"
    together = study(plan, tmp_path, progress=False)["rows"]
    for cell in alike:
        (alone,) = run([cell])
        mine = [r for r in together if r["method"] == cell.method]
        assert timeless(alone, "drawn_on") == timeless(mine, "drawn_on")
    with pytest.raises(ValueError, match="one training"):
        run(wanted)


@pytest.mark.slow
def test_a_cell_of_two_sets_never_trains_on_held_out_images():
    base = cells(replace(PLAN, heldout="digits[1000:1100]", data="digits[:60]", seeds=(0,)))[0]
    assert isinstance(base, Cell)
    (rows,) = run([replace(base, n_train=30, n_drawn=30, n_heldout=40, n_samples=12, looks=(8,))])
    assert len(rows) == 1
    assert rows[0]["heldout_memorized_fraction"] < 0.5


def test_the_command_of_a_page_repeats_its_plan():
    plain = Plan(data="digits", heldout="digits")
    assert command(plain) == "temperance study digits --heldout digits --out out"
    other = replace(plain, data="my pictures", methods=("tangent",), n_samples=50, size=16, seeds=(4,))
    told = "temperance study 'my pictures' --heldout digits --method tangent --samples 50 --size 16 --seed 4 --seeds 1"
    assert command(other) == f"{told} --out out"


def test_the_command_of_a_demo_repeats_its_plan():
    told = demo_command(Demo(data="my pictures", size=16, steps=50, n_samples=20, seeds=(4, 5)))
    assert told == "temperance demo --data 'my pictures' --size 16 --steps 50 --samples 20 --seed 4 --seeds 2"


def test_the_same_images_under_another_name_are_not_held_out():
    sets = _drawn(Split("digits[:200]", "digits", 100, 700, None, None, "error", 0))
    train, heldout, rest = ({row.tobytes() for row in part.pixels} for part in sets)
    assert (len(sets[0]), len(sets[1])) == (100, 700) and 0 < len(sets[2]) < 100
    assert not train & heldout and not heldout & rest


def test_a_folder_is_read_as_asked(tmp_path):
    """A broken file is left out, and color becomes gray; without the options both are refused in a line."""
    for i, image in enumerate(load("digits[:40]", progress=False).pixels):
        Image.fromarray(image[..., 0]).convert("RGB" if i % 2 else "L").save(tmp_path / f"{i}.png")
    (tmp_path / "40.png").write_bytes(b"no image")
    plan = replace(PLAN, data=str(tmp_path), heldout=str(tmp_path), n_train=20, n_heldout=20, seeds=(0,))
    (cell, *_) = cells(replace(plan, channels=1, on_bad="skip"))
    assert len(check(cell)) == 2 and "--channels 1 --on-bad skip" in command(replace(plan, channels=1, on_bad="skip"))
    with pytest.raises(ValueError, match="40.png"):
        check(replace(cell, on_bad="error"))


def test_nothing_left_to_hold_out_is_told(tmp_path):
    with pytest.raises(ValueError, match="leaves 5 images that are not trained on"):
        study(replace(PLAN, data="digits[:40]", heldout="digits[25:45]", n_train=40), tmp_path, progress=False)


def test_cells_of_another_network_in_the_same_folder_are_not_reused(tmp_path):
    """Asked for by its folder, whose model may have been trained anew."""
    from temperance import hub

    (cell,) = cells(replace(PLAN, methods=("conditional",), seeds=(0,), network=str(tmp_path / "model")))
    points = load("digits[:40]", progress=False).tensor()
    told = []
    for kind in ("mlp", "unet"):
        denoiser = hub.new_denoiser(hub.new_network(kind, (1, 8, 8), told=True, seed=0), points, told=True)
        hub.save(tmp_path / "model", hub.Model(denoiser, SCHEDULE, (1, 8, 8), {}))
        told.append(check(cell))
    assert told[0] != told[1] and told[0][:2] == told[1][:2] == check(replace(cell, network="auto"))


def test_cells_of_other_images_under_the_same_name_are_not_reused(tmp_path):
    (cell,) = cells(replace(PLAN, methods=("closed-form-tangent", "closed-form-tangent"), seeds=(0,)))
    images = check(cell)
    assert list(keep([cell], tmp_path, images, "cpu", lambda steps: None)) == [cell.key]
    assert _read(tmp_path, cell, images) is not None
    assert _read(tmp_path, cell, ["other", images[1]]) is None
    for foreign in ("[]", "3", '{"rows": []}'):
        (tmp_path / "cells" / f"{cell.key}.json").write_text(foreign)
        assert _read(tmp_path, cell, images) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the same code runs on the CPU above")
@pytest.mark.parametrize("method", ["tangent", "tangent/exact-guided-by-eighth", "unconditional"])
def test_a_cell_on_a_gpu_is_the_cell_on_the_processor(method):
    cell = cells(replace(PLAN, methods=(method,), seeds=(0,), n_samples=12))[0]
    (here,), (there,) = run([cell]), run([cell], device="cuda")
    assert [r["steps"] for r in here] == [r["steps"] for r in there]
    for a, b in zip(here, there):
        for key in ("fd_heldout", "copy_auc", "ratio_median"):
            assert b[key] == pytest.approx(a[key], rel=0.02), key


def test_labels_of_one_class_train_no_classifier():
    images = load("digits", progress=False)
    alike = replace(images, labels=0 * images.labels)
    assert not isinstance(encoder_from(alike), Classifier)


@pytest.mark.parametrize(("other", "so"), [("./a/", True), ("a", True), ("a[:5]", False), ("b", False)])
def test_one_folder_under_two_names_is_one_set(other, so):
    assert same("a", other) is so and same("a[:5]", "./a/[:5]")


def test_a_folder_that_is_called_as_a_built_in_set_is_another_set():
    assert same("digits", "digits") and same("./digits", "./digits/")
    assert not same("digits", "./digits") and not same("./digits[:5]", "digits[:5]")


def test_a_training_image_left_out_is_as_far_as_an_unseen_one():
    """So a row says from training images alone whether samples are too near; training images themselves are."""
    digits = load("digits", progress=False).tensor()
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:400]]
    against = yardstick(digits[:150], digits[150:280], Pixels())
    for images, spacing, slack in ((digits[280:], 0.5, 0.08), (digits[:150], 1.0, 0.0), (1 - digits[280:], 0.0, 0.1)):
        row = score(images, against)[0]
        assert row["spacing_auc"] == pytest.approx(spacing, abs=slack)
        assert row["spacing_auc"] == pytest.approx(row["copy_auc"], abs=0.08)
    alike = torch.cdist(digits[:150].flatten(1), digits[:150].flatten(1)) + 99 * torch.eye(150)
    assert against.spacing == pytest.approx(alike.min(1).values, abs=1e-4)
    assert (_with_mirrors(against).spacing <= against.spacing + 1e-4).all()


def test_training_on_mirror_images_is_judged_by_them():
    """A mirrored copy is a copy there, and its original is not what hides it."""
    train, unseen = load("digits[:40]", progress=False).tensor(), load("digits[40:90]", progress=False).tensor()
    against = yardstick(train, unseen, Pixels())
    (plain, _), (both, near) = (score(train.flip(3), of) for of in (against, _with_mirrors(against)))
    assert plain["memorized_fraction"] < 0.2 and plain["copy_auc"] < 0.6
    assert both["memorized_fraction"] == both["copy_auc"] == 1 and near.index.tolist() == list(range(40, 80))
    assert both["heldout_memorized_fraction"] <= 0.1
    assert {k: v for k, v in both.items() if k.startswith("fd_")} == {
        k: v for k, v in plain.items() if k.startswith("fd_")
    }


def test_a_method_with_more_neighbors_than_images_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="tangent/k=20 needs more than 20 images, got 12; give more, or leave it out"):
        study(Plan("digits", "digits", over="n", methods=("conditional", "tangent/k=20"), n_train=40), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quick_study_of_strengths_is_of_several():
    assert not any("augmented" in name for name in QUICK["strength"])
    assert QUICK["steps"] == OBJECTIVES and set(QUICK["strength"]) > {
        "temperature/T=2",
        "temperature/T=8",
        "tangent/h=1",
    }


def test_a_quick_study_is_of_small_images(tmp_path):
    for name, shape in {"same": (16, 16, 1), "tall": (17, 16, 1), "color": (16, 16, 3), "tiny": (9, 9, 3)}.items():
        np.save(tmp_path / f"{name}.npy", np.zeros((20, *shape), np.uint8))
    sides = {name: small(str(tmp_path / f"{name}.npy"), None, "error") for name in ("same", "tall", "color", "tiny")}
    assert sides == {"same": None, "tall": 16, "color": 9, "tiny": None} and small("digits", None, "error") is None
    for i, shape in enumerate([(20, 20, 3), (30, 20, 3)]):
        write(tmp_path / "mixed" / f"{i}.png", np.zeros(shape, np.uint8))
    assert small(str(tmp_path / "mixed"), None, "error") == 9
    with pytest.raises(ValueError, match="nowhere"):
        small(str(tmp_path / "nowhere"), None, "error")
