"""From a recipe to a trained model: every process with every objective, classes, flips, starting from a model."""

import warnings

import pytest
import torch

from temperance.data import load
from temperance.denoiser import PREDICTIONS
from temperance.diagnostics import suggest_h
from temperance.distance import neighbors
from temperance.empirical import tangent
from temperance.features import Dct
from temperance.hub import load as load_model
from temperance.hub import save
from temperance.network import Blind, Parameterized
from temperance.objective import Labeled, Weighted
from temperance.recipe import (
    CLOSED_FORMS,
    OBJECTIVES,
    PROCESSES,
    Recipe,
    closed_form,
    fit,
    mirror_groups,
    prepare,
    with_mirrors,
)
from temperance.sample import Noise, adaptive, heun, integrate
from temperance.schedule import levels
from temperance.train import Settings

IMAGES = load("digits[:120]")
POINTS = IMAGES.tensor()
LABELS = torch.from_numpy(IMAGES.labels)
SHORT = Settings(steps=3, batch_size=16)


def trained(recipe, settings=SHORT, **given):
    ready = prepare(recipe, POINTS, **given)
    classes = [str(i) for i in range(given.get("classes", 0))]
    return ready, fit(ready, POINTS, settings, progress=False, device="cpu", classes=classes)


def drawn(model, n=8):
    sampler = heun if model.told else adaptive
    noise = Noise(0, range(n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = model.labels(range(n))
        return integrate(
            sampler, lambda x, s: model.denoiser(x, s, *labels), model.shape, levels(model.schedule, 12), noise
        )


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_process_trains_with_every_objective(tmp_path, process, objective):
    ready, model = trained(Recipe(objective, process, h=0.5, sigma_collapse=1.0, temperature=3.0))
    assert (ready.recipe.process, ready.recipe.prediction) == (process, PROCESSES[process])
    assert drawn(model).x.isfinite().all()
    save(tmp_path / "model", model)
    assert torch.equal(drawn(load_model(tmp_path)).x, drawn(model).x)
    blind = objective == "unconditional"
    assert isinstance(model.denoiser, Blind) == (blind and process in ("edm", "ve"))
    if isinstance(model.denoiser, Parameterized):
        assert model.denoiser.told != blind


@pytest.mark.slow
@pytest.mark.parametrize("process", ["vp", "flow"])
def test_a_longer_run_samples_images_of_the_right_size(process):
    _, model = trained(Recipe("conditional", process), Settings(steps=400, batch_size=64))
    found = drawn(model, 32)
    rms = float(POINTS.square().mean().sqrt())
    assert bool(found.converged.all())
    assert 0.7 * rms < float(found.x.square().mean().sqrt()) < 1.3 * rms


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_prediction_has_its_own_weight(process, predicts):
    ready, model = trained(Recipe("conditional", process, predicts))
    assert model.denoiser.predicts == predicts and drawn(model).x.isfinite().all()
    index = torch.arange(20)
    target = ready.objective(POINTS[index], index, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.weight, PREDICTIONS[predicts].weight(target.sigma))
    assert isinstance(ready.objective, Weighted) == (predicts != PROCESSES[process])


@pytest.mark.parametrize("objective", ["tangent", "temperature"])
def test_a_class_conditional_recipe_keeps_neighbors_in_the_class(objective):
    recipe = Recipe(objective, k=4, h=0.5, sigma_collapse=1.0, temperature=3.0, class_conditional=True)
    ready, model = trained(recipe, labels=LABELS, classes=10)
    assert isinstance(ready.objective, Labeled)
    table = ready.objective.objective.neighbors
    assert bool((LABELS[table.index] == LABELS[:, None]).all())
    assert model.classes == tuple("0123456789")
    assert drawn(model).x.isfinite().all()


def test_flips_double_the_rows_and_their_labels():
    recipe = Recipe(k=4, h=0.5, class_conditional=True, flips=True)
    ready, _ = trained(recipe, labels=LABELS, classes=10)
    index = torch.arange(240)
    rows = torch.cat([POINTS, POINTS.flip(3)])
    target = ready.objective(rows[index], index, torch.Generator().manual_seed(0))
    assert torch.equal(target.label, LABELS.repeat(2))
    assert torch.equal(ready.objective.objective.points, rows)


def test_an_image_and_its_mirror_image_are_one_group():
    points = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    points[2] = points[0].flip(2)  # a mirror image that is in the set
    points[3] = points[1]  # and a copy
    assert mirror_groups(with_mirrors(points)).tolist() == [0, 1, 0, 1] * 2


@pytest.mark.parametrize("flips", [False, True])
def test_exact_targets_change_what_is_regressed_on_and_nothing_else(flips):
    plain, exact = (trained(Recipe(k=4, targets=name, flips=flips)) for name in ("drawn", "exact"))
    assert exact[0].chosen == plain[0].chosen and exact[0].recipe.targets == "exact"
    rows = torch.cat([POINTS, POINTS.flip(3)])[: 240 if flips else 120]
    index = torch.arange(len(rows))
    one, other = (t[0].objective(rows, index, torch.Generator().manual_seed(0)) for t in (plain, exact))
    assert torch.equal(one.x, other.x) and torch.equal(one.sigma, other.sigma)
    assert not torch.allclose(one.denoised, other.denoised)
    told = exact[0].objective.tangent
    closed = tangent(rows.flatten(1), told.neighbors, told.h)
    torch.testing.assert_close(other.denoised, closed(other.x, other.sigma))
    assert drawn(exact[1]).x.isfinite().all()


def test_widths_by_name_are_read_off_the_training_images_and_written_back():
    ready = [prepare(Recipe("tangent", h=h), POINTS) for h in ("auto", "halved", "matched")]
    auto, halved, matched = (r.objective.h for r in ready)
    assert auto < matched and halved < matched
    assert [r.chosen["h"] for r in ready] == [r.recipe.h for r in ready] == [auto, halved, matched]


def test_halved_and_matched_are_read_where_samples_are_cut():
    flat = POINTS.flatten(1)
    width = suggest_h(flat, neighbors(flat, 10), span=(-1.0, 1.0))
    found = [prepare(Recipe("tangent", h=name), POINTS).recipe.h for name in ("halved", "matched")]
    assert found == [width.at(0.75), width.at(0.5)] != [suggest_h(flat, neighbors(flat, 10)).at(s) for s in (0.75, 0.5)]


def test_images_of_twelve_pixels_get_a_unet_and_smaller_ones_an_mlp():
    kinds = [prepare(Recipe("conditional"), torch.nn.functional.pad(POINTS, (0, n) * 2)).recipe.network for n in (0, 4)]
    assert kinds == ["mlp", "unet"]


@pytest.mark.parametrize("objective", ["tangent", "temperature"])
def test_neighbors_are_those_of_the_space_that_is_asked_for(objective):
    """In an encoder's features, around their mean and of unit length; not in pixels."""
    given = {"k": 3, "h": 0.5, "sigma_collapse": 1.0, "temperature": 2.0}
    found = prepare(Recipe(objective, space="dct", **given), POINTS).objective.neighbors
    x = Dct()(POINTS).double()
    x = x - x.mean(0)
    x = x / x.norm(dim=1, keepdim=True)
    expected = torch.cdist(x, x).fill_diagonal_(9).sort(1)
    assert torch.equal(found.index, expected.indices[:, :3])


def test_a_temperature_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="sigma_collapse 0.005 is not above the lowest noise level, 0.01"):
        prepare(Recipe("temperature", "ve", sigma_collapse=0.005), POINTS)


def test_the_closed_form_has_the_settings_of_the_recipe():
    ready, closed = prepare(Recipe("temperature"), POINTS).recipe, closed_form(POINTS, "temperature")
    assert (closed.sigma_collapse, closed.temperature) == (ready.sigma_collapse, ready.temperature)
    width = prepare(Recipe("tangent"), POINTS).recipe.h
    assert closed_form(POINTS, "tangent").tangent.scale == pytest.approx(width**2 / 10)


def test_a_seed_decides_the_first_weights():
    one, again, other = (prepare(Recipe("conditional"), POINTS, seed=s).denoiser.state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], again[k]) for k in one) and not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("process", PROCESSES)
def test_init_goes_on_from_a_models_weights(tmp_path, process):
    _, model = trained(Recipe("conditional", process))
    save(tmp_path / "model", model)
    ready = prepare(Recipe("tangent", h=0.5, init=str(tmp_path)), POINTS)
    assert ready.recipe.process == process and ready.schedule == model.schedule and ready.denoiser.training
    old, new = model.denoiser.state_dict(), ready.denoiser.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)
    tuned = fit(ready, POINTS, SHORT, progress=False, device="cpu")
    assert any(not torch.equal(old[key], value) for key, value in tuned.denoiser.state_dict().items())


def test_a_model_that_does_not_fit_is_refused(tmp_path):
    _, model = trained(Recipe("conditional", "vp"))
    save(tmp_path / "model", model)
    path = str(tmp_path)
    with pytest.raises(ValueError, match="noise-conditional"):
        prepare(Recipe("unconditional", init=path), POINTS)
    with pytest.raises(ValueError, match="predicts v, not eps"):
        prepare(Recipe("conditional", "vp", "eps", init=path), POINTS)
    with pytest.raises(ValueError, match="knows 0 classes"):
        prepare(Recipe("conditional", init=path, class_conditional=True), POINTS, labels=LABELS, classes=10)
    with pytest.raises(ValueError, match="set --size"):
        prepare(Recipe("conditional", init=path), POINTS[:, :, :4])


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"process": "ddpm"}, "process must be one of edm, ve, vp, flow"),
        ({"prediction": "score"}, "prediction must be one of"),
        ({"process": "vp", "prediction": "preconditioned"}, "edm and ve"),
        ({"objective": "unconditional", "prediction": "eps"}, "noise-unconditional"),
        ({"targets": "mean"}, "targets must be one of drawn, exact"),
        ({"objective": "conditional", "targets": "exact"}, "exact is for the tangent objective"),
        ({"class_conditional": True, "targets": "exact"}, "not for class-conditional"),
    ],
)
def test_bad_recipes_are_refused(given, word):
    with pytest.raises(ValueError, match=word):
        Recipe(**given)


def test_classes_need_labels_and_enough_images():
    with pytest.raises(ValueError, match="needs labels"):
        prepare(Recipe(class_conditional=True), POINTS)
    with pytest.raises(ValueError, match="in every class"):
        prepare(Recipe(k=20, class_conditional=True), POINTS, labels=LABELS, classes=10)


@pytest.mark.parametrize("objective", ["tangent", "temperature"])
def test_copies_of_an_image_are_no_neighbors(objective):
    doubled = torch.cat([POINTS[:1].repeat(30, 1, 1, 1), POINTS])
    plain, ready = (prepare(Recipe(objective, k=10, network="mlp"), p) for p in (POINTS, doubled))
    assert bool((ready.objective.neighbors.distance > 0).all())
    torch.testing.assert_close(ready.objective.neighbors.distance[30:], plain.objective.neighbors.distance)
    few = torch.cat([POINTS[:5].repeat(10, 1, 1, 1)])
    assert prepare(Recipe(objective, network="mlp"), few).recipe.k == 4
    with pytest.raises(ValueError, match="need at least 11 images, got 5"):
        prepare(Recipe(objective, k=10, network="mlp"), few)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_closed_form_of_few_images_takes_the_neighbors_there_are(name):
    few = POINTS[:5].repeat(3, 1, 1, 1)
    x = torch.randn(2, 1, 8, 8)
    assert closed_form(few, name)(x, torch.ones(2)).isfinite().all()
    if name == "tangent":
        forms = [closed_form(points, name) for points in (few, POINTS[:11], POINTS)]
        assert [form.tangent.index.shape[1] for form in forms] == [4, 10, 10]
    if name != "empirical":
        with pytest.raises(ValueError, match="at least 2 images, got 1 distinct; give more"):
            closed_form(POINTS[:1].repeat(6, 1, 1, 1), name)
        with pytest.raises(ValueError, match="at least 11 images, got 5 distinct; lower --k"):
            closed_form(few, name, k=10)
