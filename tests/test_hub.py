import json
from functools import cache

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from torch import nn

from temperance.atomic import is_complete
from temperance.denoiser import PREDICTIONS
from temperance.hub import Model, load, new_denoiser, new_network, process_of, save
from temperance.sample import FRESH
from temperance.schedule import Edm, Flow, Ve, Vp, levels

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


# ---- processes and predictions ----


def native_model(schedule, predicts, kind="unet", told=True):
    network = new_network(kind, SHAPE, told=told, seed=0, unit=1000.0)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=g))
    denoiser = new_denoiser(network, POINTS, told=told, schedule=schedule, predicts=predicts).eval()
    return Model(denoiser, schedule, SHAPE, {})


PROCESSES = [Edm(0.05, 9.0), Ve(0.05, 9.0), Vp(), Vp("cosine", 100), Vp((0.01, 0.02, 0.5)), Flow(), Flow(0.01, 0.9)]


@torch.no_grad()
@pytest.mark.parametrize("schedule", PROCESSES, ids=str)
@pytest.mark.parametrize("predicts", PREDICTIONS)
@either
def test_every_process_and_prediction_comes_back(tmp_path, schedule, predicts, told):
    model = native_model(schedule, predicts, "mlp", told)
    save(tmp_path / "model", model)
    back = load(tmp_path)
    assert back.schedule == schedule and back.told
    assert (back.denoiser.predicts, back.denoiser.told) == (predicts, told)
    assert torch.equal(back.denoiser(X, SIGMA), model.denoiser(X, SIGMA))


@torch.no_grad()
@pytest.mark.parametrize("predicts", ["eps", "v", "denoised"])
@pytest.mark.parametrize("schedule", [Vp(), Vp("scaled_linear"), Vp("cosine"), Vp((0.01, 0.02, 0.5))], ids=str)
def test_the_stock_scheduler_reads_a_vp_model_as_we_do(tmp_path, schedule, predicts):
    """diffusers' own step, on the folder that was saved, arrives at the denoised image of our denoiser."""
    model = native_model(schedule, predicts)
    save(tmp_path / "model", model)
    unet = UNet2DModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True).eval()
    for kind in (DDPMScheduler, DDIMScheduler):
        scheduler = kind.from_pretrained(tmp_path / "model" / "scheduler")
        t = len(scheduler.alphas_cumprod) // 2
        bar = scheduler.alphas_cumprod[t]
        y = bar.sqrt() * X
        scheduler.set_timesteps(len(scheduler.alphas_cumprod))
        want = scheduler.step(unet(y, torch.full((3,), t)).sample, t, y)
        got = model.denoiser(X, ((1 - bar) / bar).sqrt().expand(3))
        scale = float(want.pred_original_sample.abs().max())
        torch.testing.assert_close(got / scale, want.pred_original_sample / scale, rtol=0, atol=2e-4)


@torch.no_grad()
@either
def test_the_stock_scheduler_walks_a_flow_model_as_we_do(tmp_path, told):
    model = native_model(Flow(), "velocity", told=told)
    save(tmp_path / "model", model)
    unet = UNet2DModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True).eval()
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    with pytest.raises(ValueError, match="num_train_timesteps of FlowMatch.* must be 1000, got 500"):
        process_of({**scheduler.config, "num_train_timesteps": 500})
    scheduler.set_timesteps(20)
    t, (now, then) = scheduler.timesteps[7], scheduler.sigmas[7:9].tolist()
    y = (1 - now) * X
    level = torch.full((3,), now / (1 - now))
    denoised = model.denoiser(X, level)
    want = (1 - then) * denoised + then * (X - denoised) / level[:, None, None, None]
    got = scheduler.step(unet(y, t).sample, t, y).prev_sample
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_pair_that_no_stock_scheduler_runs_is_saved_without_one(tmp_path):
    for i, (schedule, predicts) in enumerate([(Vp(), "velocity"), (Flow(), "eps"), (Edm(), "v")]):
        save(tmp_path / str(i), native_model(schedule, predicts))
        assert not (tmp_path / str(i) / "scheduler").exists()
        assert load(tmp_path / str(i)).schedule == schedule


@torch.no_grad()
@pytest.mark.parametrize("schedule", [Vp("cosine"), Flow(), Edm(0.05, 9.0)], ids=str)
def test_without_our_file_the_folder_still_opens_as_the_same_model(tmp_path, schedule):
    model = (
        make("unet", True, schedule)
        if isinstance(schedule, Edm)
        else native_model(schedule, "velocity" if isinstance(schedule, Flow) else "v")
    )
    save(tmp_path / "model", model)
    (tmp_path / "model" / "temperance.json").unlink()
    back = load(tmp_path / "model")
    torch.testing.assert_close(back.denoiser(X, SIGMA), model.denoiser(X, SIGMA), rtol=1e-4, atol=1e-4)


def test_tables_of_other_schedulers_are_taken_as_they_are():
    zero = DDPMScheduler(rescale_betas_zero_snr=True)
    schedule, predicts = process_of(dict(zero.config))
    assert predicts == "eps" and len(schedule.betas) == 1000
    assert float(levels(schedule, 2)[0]) < 1e5  # the step without any signal is left out
    sigmoid = DDPMScheduler(beta_schedule="sigmoid")
    bar = sigmoid.alphas_cumprod[[0, 400, 999]].double()
    alpha, sigma = process_of(dict(sigmoid.config))[0].kernel(torch.tensor([0.0, 400.0, 999.0]).double())
    torch.testing.assert_close(alpha**2, bar, rtol=1e-4, atol=1e-7)


# ---- classes ----


@torch.no_grad()
@every
def test_a_class_conditional_model_comes_back(tmp_path, kind):
    network = new_network(kind, SHAPE, told=True, seed=0, classes=3)
    nn.init.normal_((network.outward[1] if kind == "mlp" else network.unet.conv_out).weight)
    model = Model(new_denoiser(network, POINTS, told=True).eval(), Edm(), SHAPE, {"classes": ["a", "b", "7"]})
    save(tmp_path / "model", model)
    back = load(tmp_path)
    one, other = (back.denoiser(X, SIGMA, torch.full((3,), k)) for k in (0, 1))
    assert torch.equal(one, model.denoiser(X, SIGMA, torch.zeros(3, dtype=torch.long)))
    assert not torch.equal(one, other)
    assert [back.label(name) for name in ("a", "7", "0", "1")] == [0, 2, 0, 1]
    with pytest.raises(ValueError, match="expected one of a, b, 7"):
        back.label("c")
    with pytest.raises(ValueError, match="class"):
        back.denoiser(X, SIGMA)
    (drawn,) = back.labels([0, 1, 2, 3, 4 + FRESH, 4 + 2 * FRESH])
    assert drawn.tolist() == [0, 1, 2, 0, 1, 1]  # a redraw keeps the class
    assert make(kind, True).labels([0, 1]) == ()
    with pytest.raises(ValueError, match="--class-conditional"):
        make(kind, True).label("a")


@every
def test_a_network_is_built_again_from_a_folder_with_fresh_weights(tmp_path, kind):
    save(tmp_path / "model", make(kind, True))
    again = new_network(str(tmp_path), SHAPE, told=True, seed=0, classes=2).state_dict()
    fresh = new_network(kind, SHAPE, told=True, seed=0, classes=2).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in fresh.items()}
    old = make(kind, True).denoiser.network.state_dict()
    name = next(k for k, v in old.items() if v.ndim > 1)
    assert not torch.equal(again[name], old[name])
    with pytest.raises(ValueError, match="--network"):
        new_network(str(tmp_path), (3, 16, 16), told=True, seed=0)


# ---- errors ----


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        load(tmp_path)
    with pytest.raises(ValueError, match="holds no model"):
        load(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="prediction_type"):
        process_of({"prediction_type": "flow"})
    for scheduler in (ScoreSdeVeScheduler(), CMStochasticIterativeScheduler()):
        with pytest.raises(ValueError, match="cannot be used"):
            process_of(dict(scheduler.config) | {"_class_name": type(scheduler).__name__})
    v = EDMEulerScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction_type of EDMEulerScheduler must be epsilon"):
        process_of(dict(v.config) | {"_class_name": "EDMEulerScheduler"})


def test_networks_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="mlp, unet"):
        new_network("resnet", SHAPE, told=True, seed=0)
    for shape in ((1, 4, 4), (1, 10, 8), (3, 8, 30)):
        with pytest.raises(ValueError, match="divisible by 4"):
            new_network("unet", shape, told=True, seed=0)


@pytest.mark.parametrize(
    ("denoiser", "said"),
    [
        (nn.Identity(), "a Identity cannot be saved; save the models"),
        (new_denoiser(nn.Identity(), POINTS, told=True), "a Identity cannot be saved; only a Unet"),
    ],
)
def test_what_others_made_is_not_saved(tmp_path, denoiser, said):
    model = Model(denoiser, Edm(), SHAPE, {})
    with pytest.raises(ValueError, match=said):
        save(tmp_path / "model", model)
    assert not (tmp_path / "model").exists()


class Linear:
    """A schedule of one's own: sigma = t."""

    kernel = time = draw = grid = weight = staticmethod(lambda *given: (torch.ones(2), torch.ones(2)))


def test_a_schedule_of_ones_own_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="a Linear cannot be saved; only Edm, Ve, Vp and Flow"):
        save(tmp_path / "model", Model(make("mlp", True).denoiser, Linear(), SHAPE, {}))


def test_a_failing_save_leaves_the_old_model(tmp_path, monkeypatch):
    model = make("mlp", True)
    save(tmp_path / "model", model)
    monkeypatch.setattr("temperance.hub.folder.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "model", make("mlp", False))
    assert load(tmp_path).told


def test_an_mlp_can_pass_on_as_many_numbers_as_its_image_has():
    wide = new_network("mlp", (1, 16, 16), told=True, seed=0)
    assert wide.inward.out_features == 512
    assert new_network("mlp", (1, 8, 8), told=True, seed=0).inward.out_features == 192
