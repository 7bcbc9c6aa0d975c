"""Changed images, the objective that tells a network of them, and that samples show none."""

import pytest
import torch
from diffusers import UNet2DModel
from torch import Generator

from temperance.augmentation import CHANGES, SPREAD, changed, draw_changes
from temperance.data import load
from temperance.distance import neighbors
from temperance.hub import load as load_model
from temperance.hub import save
from temperance.objective import (
    Augmented,
    ExactTangent,
    NoiseConditional,
    NoiseUnconditional,
    TangentSmoothed,
    TemperatureSmoothed,
)
from temperance.recipe import Recipe, fit, prepare
from temperance.schedule import Edm
from temperance.train import Settings

POINTS = load("digits[:60]").tensor()
TABLE = neighbors(POINTS.flatten(1), 5)
SIGMA = torch.tensor([0.05, 0.5, 5.0])


def one(number, value):
    """One change only, in units of what it does: radians, octaves, half sides."""
    changes = torch.zeros(1, CHANGES)
    changes[0, number] = value / SPREAD[number]
    return changes


def blob(y, x, side=32):
    """A round spot at a place of a square image, from -1 to 1."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (2 * torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8.0) - 1)[None, None]


def place(image):
    """Row and column of a spot."""
    weight = (image[0, 0] + 1) / (image[0, 0] + 1).sum()
    return [float((weight.sum(1 - axis) * torch.arange(weight.shape[axis])).sum()) for axis in (0, 1)]


# ---- the change of an image


@pytest.mark.parametrize(
    ("number", "value", "there"),
    [
        (0, torch.pi / 2, (15.5, 9.5)),  # a quarter turn about the middle
        (1, 1.0, (12.5, 15.5)),  # half as large
        (2, 0.5, (7.0, 15.5)),  # narrower and higher
        (3, 0.25, (9.5, 11.5)),  # an eighth of a side
        (4, 0.25, (5.5, 15.5)),
    ],
)
def test_a_number_does_what_it_says(number, value, there):
    moved = changed(blob(9.5, 15.5), one(number, value))
    # The spot's round shape is stretched as well, its middle is what counts.
    assert place(moved) == pytest.approx(there, abs=0.35)


def test_a_turn_of_an_oblong_image_is_a_turn():
    wide = torch.nn.functional.pad(blob(9.5, 15.5), (8, 8), value=-1.0)
    assert place(changed(wide, one(0, torch.pi / 2))) == pytest.approx((15.5, 17.5), abs=0.35)


def test_an_image_that_is_not_changed_stays_as_it_is_to_the_last_bit():
    changes = draw_changes(len(POINTS), 0.5, Generator().manual_seed(0))
    same = (changes == 0).all(1)
    assert 15 < same.sum() < 45
    moved = changed(POINTS, changes)
    assert torch.equal(moved[same], POINTS[same])
    assert (moved[~same] != POINTS[~same]).flatten(1).any(1).all()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 1000)])
def test_the_share_of_changed_images(share, count):
    drawn = draw_changes(1000, share, Generator().manual_seed(1))
    assert (drawn != 0).any(1).sum() == count


def test_a_change_stays_within_the_range_of_its_image():
    images = POINTS * torch.linspace(0.1, 3, len(POINTS))[:, None, None, None]
    moved = changed(images, draw_changes(len(images), 1.0, Generator().manual_seed(2)))
    assert (moved.amax((1, 2, 3)) <= images.amax((1, 2, 3))).all()
    assert (moved.amin((1, 2, 3)) >= images.amin((1, 2, 3))).all()


# ---- the objective


@pytest.mark.parametrize(
    "inner", [NoiseConditional(Edm()), NoiseUnconditional(Edm()), TangentSmoothed(Edm(), POINTS, TABLE, 0.7)]
)
def test_only_the_image_below_the_noise_is_changed(inner):
    index = torch.arange(len(POINTS))
    plain = inner(POINTS, index, Generator().manual_seed(3))
    target = Augmented(inner, 0.6)(POINTS, index, Generator().manual_seed(3))
    told = (target.label != 0).any(1)
    assert 0.4 < told.float().mean() < 0.8
    assert torch.equal(target.denoised, changed(plain.denoised, target.label))
    assert torch.equal(target.x[~told], plain.x[~told])
    noise = (target.x - target.denoised) - (plain.x - plain.denoised)
    assert (noise.flatten(1).abs().amax(1) <= 1e-5 * (1 + target.sigma)).all()
    assert torch.equal(target.sigma, plain.sigma)


def test_means_are_not_changed():
    tangent = TangentSmoothed(Edm(), POINTS, TABLE, 0.7)
    for inner in (ExactTangent(tangent), TemperatureSmoothed(Edm(), POINTS, TABLE, 0.8)):
        with pytest.raises(ValueError, match="its targets are means"):
            Augmented(inner, 0.5)


@pytest.mark.parametrize("also", [{"objective": "temperature"}, {"targets": "exact"}, {"class_conditional": True}])
def test_a_recipe_refuses_what_cannot_go_with_it(also):
    with pytest.raises(ValueError, match="augment is not for"):
        Recipe(augment=0.5, **also)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="augment must be a share"):
        Recipe(augment=share)


@pytest.mark.parametrize("size", [0.0, -1.0, float("inf"), float("nan")])
def test_a_size_is_a_size(size):
    with pytest.raises(ValueError, match="augment_size must be a number > 0"):
        Recipe(augment=0.5, augment_size=size)


def test_smaller_changes_are_told_by_the_same_numbers():
    index = torch.arange(len(POINTS))
    whole, third = (
        Augmented(NoiseConditional(Edm()), 1.0, size)(POINTS, index, Generator().manual_seed(7))
        for size in (1.0, 1 / 3)
    )
    assert torch.equal(third.label, whole.label)
    assert torch.equal(third.denoised, changed(POINTS, 1 / 3 * third.label))
    assert (third.denoised - POINTS).norm() < 0.6 * (whole.denoised - POINTS).norm()
    assert prepare(Recipe("conditional", augment=1.0, augment_size=0.25), POINTS).objective == Augmented(
        prepare(Recipe("conditional"), POINTS).objective, 1.0, 0.25
    )


# ---- networks


@pytest.mark.parametrize("objective", ["conditional", "unconditional", "tangent"])
@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_a_network_hears_and_is_saved_as_if_it_had_not(tmp_path, network, objective):
    ready = prepare(Recipe(objective, network=network, augment=0.5), POINTS)
    x, changes = torch.randn(3, 1, 8, 8), draw_changes(3, 1.0, Generator().manual_seed(4))
    sigma = None if objective == "unconditional" else SIGMA
    silent = ready.denoiser(x, sigma)
    assert torch.equal(ready.denoiser(x, sigma, changes), silent)  # before it has learned what they mean
    model = fit(ready, POINTS, Settings(steps=6, batch_size=16), progress=False, device="cpu")
    denoise = model.denoiser
    assert torch.equal(denoise(x, sigma, torch.zeros(3, CHANGES)), denoise(x, sigma))
    assert not torch.equal(denoise(x, sigma, changes), denoise(x, sigma))
    save(tmp_path / "model", model)
    again = load_model(tmp_path)
    again.denoiser.requires_grad_(False)  # as an average is; convolutions may be rounded otherwise for others
    assert torch.equal(again.denoiser(x, sigma), denoise(x, sigma))
    assert again.about["recipe"]["augment"] == 0.5 and again.classes == ()
    if network == "unet":
        stock = UNet2DModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True)
        assert stock.class_embedding is None and stock.config["class_embed_type"] is None


def test_a_model_that_was_saved_can_be_trained_on(tmp_path):
    steps = Settings(steps=3, batch_size=8)
    model = fit(prepare(Recipe(network="unet"), POINTS), POINTS, steps, progress=False, device="cpu")
    save(tmp_path / "model", model)
    ready = prepare(Recipe(init=str(tmp_path), augment=0.5), POINTS)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(ready.denoiser.eval()(x, SIGMA), model.denoiser(x, SIGMA))  # begins where it was
    fit(ready, POINTS, steps, progress=False, device="cpu")


def test_a_run_that_was_stopped_goes_on_bit_by_bit(tmp_path):
    def run(steps, **how):
        ready = prepare(Recipe(network="mlp", augment=0.5), POINTS)
        settings = Settings(steps=steps, batch_size=16, checkpoint_every=4)
        return fit(ready, POINTS, settings, out=tmp_path, progress=False, device="cpu", **how).denoiser.state_dict()

    run(4)
    resumed = run(8, resume=True)
    for folder in tmp_path.glob("checkpoint-*"):
        folder.rename(tmp_path / f"old-{folder.name}")
    whole = run(8)
    assert "network.change.weight" in whole
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_samples_show_no_change():
    """Trained on one image only, three of four times a changed one: told nothing, the network puts that image out."""
    image = POINTS[:1]
    rows = image.expand(8, -1, -1, -1)
    ready = prepare(Recipe("conditional", network="mlp", augment=0.75), rows)
    model = fit(ready, rows, Settings(steps=400, batch_size=64), progress=False, device="cpu")
    changes = draw_changes(200, 1.0, Generator().manual_seed(5))
    moved = changed(image.expand(200, -1, -1, -1), changes)
    far = (moved - image).square().mean()
    noise = image + 3 * torch.randn(200, 1, 8, 8, generator=Generator().manual_seed(6))
    with torch.no_grad():
        silent = model.denoiser(noise, torch.full((200,), 3.0))
        told = model.denoiser(noise - image + moved, torch.full((200,), 3.0), changes)
    assert (silent - image).square().mean() < 0.2 * far  # leaking, it would be the mean of all
    assert (told - moved).square().mean() < 0.5 * far
