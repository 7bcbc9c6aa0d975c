import json
from functools import cache

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel
from torch import nn

from temperance.atomic import is_complete
from temperance.hub import FromDiffusers, Model, Unet, load, new_denoiser, new_network, save
from temperance.schedule import Edm, Ve

SHAPE = (1, 8, 8)
POINTS = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
SIGMA = torch.tensor([0.1, 1.0, 10.0])
X = POINTS[:3] + SIGMA[:, None, None, None] * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


@cache
def make(kind, told, schedule=None):
    """A model with random weights everywhere, also where an untrained one has zeros."""
    network = new_network(kind, SHAPE, told=told, seed=0)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=g))
    denoiser = new_denoiser(network, POINTS, told=told).eval()
    return Model(denoiser, schedule or Edm(0.05, 9.0, sigma_data=0.6), SHAPE, {"recipe": {"k": 10}})


every = pytest.mark.parametrize("kind", ["mlp", "unet"])
either = pytest.mark.parametrize("told", [True, False])


@torch.no_grad()
@every
@either
def test_a_saved_model_comes_back_bit_equal(tmp_path, kind, told):
    model = make(kind, told)
    save(tmp_path / "model", model)
    assert is_complete(tmp_path / "model")
    for place in (tmp_path / "model", tmp_path):  # the folder itself, and the run around it
        back = load(place)
        assert torch.equal(back.denoiser(X, SIGMA), model.denoiser(X, SIGMA))
        assert back.schedule == model.schedule and back.shape == SHAPE
        assert back.told == model.told == told
        assert back.about["recipe"] == {"k": 10}
        assert not back.denoiser.training
    again = tmp_path / "again"
    save(again, back)
    assert torch.equal(load(again).denoiser(X, SIGMA), model.denoiser(X, SIGMA))


def test_the_other_schedule_comes_back_too(tmp_path):
    save(tmp_path / "model", make("mlp", True, Ve(0.02, 30.0)))
    assert load(tmp_path).schedule == Ve(0.02, 30.0)


@torch.no_grad()
def test_an_untold_unet_ignores_the_noise_exactly(tmp_path):
    model = make("unet", False)
    network = model.denoiser.network
    assert torch.equal(network(X, SIGMA), network(X, 3 * SIGMA - 7))
    save(tmp_path / "model", model)
    network = load(tmp_path).denoiser.network
    assert torch.equal(network(X, SIGMA), network(X, 3 * SIGMA - 7))
    told = make("unet", True).denoiser.network
    assert not torch.equal(told(X, SIGMA), told(X, 3 * SIGMA - 7))


def test_an_untold_unet_stays_untold_when_trained():
    network = new_network("unet", SHAPE, told=False, seed=0)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(X, SIGMA).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(network(X, SIGMA), network(X, 3 * SIGMA - 7))


@torch.no_grad()
@either
def test_diffusers_opens_the_folder(tmp_path, told):
    model = make("unet", told)
    save(tmp_path / "model", model)
    stock = UNet2DModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True).eval()
    assert torch.equal(stock(X, SIGMA.log()).sample, model.denoiser.network(X, SIGMA.log()))
    scheduler = EDMEulerScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    assert scheduler.config["sigma_max"] == pytest.approx(9.0)
    assert scheduler.config["sigma_min"] == pytest.approx(0.05)
    assert scheduler.config["sigma_data"] == pytest.approx(model.denoiser.sigma_data)
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]


@torch.no_grad()
def test_diffusers_preconditioning_agrees_with_the_saved_model(tmp_path):
    """The stock scheduler around the stock UNet computes the same denoised image."""
    model = make("unet", True)
    save(tmp_path / "model", model)
    stock = UNet2DModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True).eval()
    scheduler = EDMEulerScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    x, sigma = X[1:2], SIGMA[1:2]
    out = stock(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
    got = scheduler.precondition_outputs(x, out, sigma)
    torch.testing.assert_close(got, model.denoiser(x, sigma), rtol=1e-4, atol=1e-5)


def test_the_constants_are_those_of_the_data():
    rms = float(POINTS.square().mean().sqrt())
    told, blind = (new_denoiser(nn.Identity(), POINTS, told=t) for t in (True, False))
    assert told.sigma_data == blind.sigma_data == pytest.approx(rms)
    assert blind.mean_square == pytest.approx(rms**2)


@every
def test_seed_decides_the_first_weights_and_nothing_else(kind):
    before = torch.get_rng_state()
    one, two, other = (new_network(kind, SHAPE, told=True, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


# ---- models of others ----


def foreign(prediction):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()
    return unet, DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction, clip_sample=False)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("t", [0, 7, 500, 999])
def test_a_diffusers_model_denoises_as_its_scheduler_says(tmp_path, prediction, t):
    unet, scheduler = foreign(prediction)
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    model = load(tmp_path)
    assert model.told and model.shape == SHAPE and isinstance(model.denoiser, FromDiffusers)
    bar = scheduler.alphas_cumprod[t]
    sigma = ((1 - bar) / bar).sqrt()
    y = bar.sqrt() * X  # the variance-preserving image of x = mu + sigma eps
    out = unet(y, torch.full((3,), t)).sample
    want = scheduler.step(out, t, y).pred_original_sample
    got = model.denoiser(X, sigma.expand(3))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * (1 + float(sigma)))


@torch.no_grad()
def test_times_between_the_models_own_are_interpolated():
    unet, scheduler = foreign("sample")
    seen = []
    unet.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    denoiser = FromDiffusers(unet, scheduler.alphas_cumprod, "sample")
    table = denoiser.log_sigma
    between = (0.75 * table[41] + 0.25 * table[42]).exp()
    denoiser(X, torch.stack([between, table[0].exp() / 9, table[-1].exp() * 9]).float())
    assert seen[0].tolist() == pytest.approx([41.25, 0, 999], abs=1e-2)


def test_the_levels_of_a_diffusers_model_are_its_own(tmp_path):
    unet, scheduler = foreign("epsilon")
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    bar = scheduler.alphas_cumprod.double()
    sigma = ((1 - bar) / bar).sqrt()
    schedule = load(tmp_path).schedule
    assert schedule.sigma_max == pytest.approx(float(sigma[-1]), rel=1e-5)
    assert schedule.sigma_min == pytest.approx(max(0.01, float(sigma[0])), rel=1e-5)


# ---- errors ----


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        load(tmp_path)
    with pytest.raises(ValueError, match="holds no model"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="prediction_type"):
        FromDiffusers(foreign("epsilon")[0], torch.linspace(0.9, 0.1, 5), "flow")


def test_networks_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="mlp, unet"):
        new_network("resnet", SHAPE, told=True, seed=0)
    for shape in ((1, 4, 4), (1, 10, 8), (3, 8, 30)):
        with pytest.raises(ValueError, match="divisible by 4"):
            new_network("unet", shape, told=True, seed=0)


def test_a_failing_save_leaves_the_old_model(tmp_path, monkeypatch):
    model = make("mlp", True)
    save(tmp_path / "model", model)
    monkeypatch.setattr("temperance.hub.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "model", make("mlp", False))
    assert load(tmp_path).told
    assert isinstance(make("unet", True).denoiser.network, Unet)
