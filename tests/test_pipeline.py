import json
import subprocess
import sys
import warnings
from functools import cache

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    ImagePipelineOutput,
    UNet2DModel,
)

from temperance.data import Images, to_uint8
from temperance.guard import Guard
from temperance.hub import Model, load, new_denoiser, new_network, save
from temperance.network import Parameterized
from temperance.pipeline import TemperancePipeline, TemperanceScheduler, drawer
from temperance.sample import Noise, NotConverged, adaptive, ancestral, heun, integrate
from temperance.schedule import Edm, Vp

SHAPE = (1, 8, 8)
LEVELS = Edm(0.05, 9.0, sigma_data=0.6)
POINTS = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@cache
def model(told):
    network = new_network("unet", SHAPE, told=told, seed=0)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=g))
    return Model(new_denoiser(network, POINTS, told=told).eval(), LEVELS, SHAPE, {})


@pytest.fixture(params=[True, False], ids=["told", "blind"])
def run(request, tmp_path):
    save(tmp_path / "run" / "model", model(request.param))
    pipe = TemperancePipeline.of(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    return tmp_path, pipe, model(request.param)


def generators(index):
    return Noise(0, index).generators


def images(pipe, index, **options):
    return pipe(len(index), generators(index), output_type="pt", **options).images


def test_the_pipeline_is_the_sampler(run):
    _, pipe, made = run
    sampler, grid = (heun, LEVELS.grid(20)) if made.told else (adaptive, LEVELS.grid(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # random weights need not converge
        want = integrate(sampler, made.denoiser, SHAPE, grid, Noise(0, range(3)))
        got = images(pipe, range(3))
    assert torch.equal(got, (want.x / 2 + 0.5).clamp(0, 1))


@pytest.mark.filterwarnings("ignore::temperance.sample.NotConverged")
def test_diffusers_loads_what_it_saved(run):
    folder, pipe, _ = run
    pipe.save_pretrained(folder / "pipe")
    back = DiffusionPipeline.from_pretrained(folder / "pipe")
    assert isinstance(back, TemperancePipeline)
    back.set_progress_bar_config(disable=True)
    assert torch.equal(images(pipe, range(2)), images(back, range(2)))


@torch.no_grad()
def test_a_saved_pipeline_is_a_model_too(run):
    folder, pipe, made = run
    pipe.save_pretrained(folder / "pipe")
    back = load(folder / "pipe")
    assert (back.told, back.schedule, back.shape) == (made.told, made.schedule, made.shape)
    x, sigma = POINTS[:2], torch.tensor([0.2, 2.0])
    assert torch.equal(back.denoiser(x, sigma), made.denoiser(x, sigma))


@pytest.mark.filterwarnings("ignore::temperance.sample.NotConverged")
def test_a_generator_decides_its_own_image(run):
    _, pipe, _ = run
    whole, part = images(pipe, range(4)), images(pipe, [2])
    torch.testing.assert_close(part[0], whole[2], rtol=0, atol=1e-5)
    assert pipe(2, torch.Generator().manual_seed(1)).images[0].size == (8, 8)
    with pytest.raises(ValueError, match="2 generators for batch_size 3"):
        pipe(3, generators(range(2)))


@pytest.mark.filterwarnings("ignore::temperance.sample.NotConverged")
def test_weights_may_be_of_half_precision(run):
    folder, pipe, _ = run
    whole = images(pipe, range(2))
    half = images(pipe.to(torch.bfloat16), range(2))
    assert half.dtype == torch.float32 and (half - whole).abs().max() < 0.1 < 10 * whole.std()


@torch.no_grad()
def test_a_hand_written_loop_is_the_deterministic_sampler(run):
    _, pipe, made = run
    scheduler = pipe.scheduler
    scheduler.set_timesteps(8)
    x = begin = scheduler.init_noise_sigma * Noise(0, range(2)).normal(SHAPE)
    for t in scheduler.timesteps:
        x = scheduler.step(pipe.unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    grid = LEVELS.grid(8)
    *_, want = ancestral(made.denoiser, begin, grid, Noise(0, range(2)), eta=0.0)
    torch.testing.assert_close(x, made.denoiser(want, grid[-1:].expand(2)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_default_export_is_run_by_stock_classes_to_the_same_image(tmp_path):
    save(tmp_path / "model", model(True))
    stock = EDMEulerScheduler.from_pretrained(tmp_path / "model" / "scheduler")
    assert type(stock).__module__.startswith("diffusers.")
    mine = TemperancePipeline.of(tmp_path / "model")
    stock.set_timesteps(8)
    mine.scheduler.set_timesteps(8)
    x = y = 9.0 * Noise(0, range(2)).normal(SHAPE)
    for t, u in zip(stock.timesteps, mine.scheduler.timesteps):
        x = stock.step(mine.unet(stock.scale_model_input(x, t), t).sample, t, x).prev_sample
        y = mine.scheduler.step(mine.unet(mine.scheduler.scale_model_input(y, u), u).sample, u, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_a_ddpm_run_is_a_stock_pipeline(tmp_path):
    network, schedule = model(True).denoiser.network, Vp(steps=20)
    save(tmp_path, Model(Parameterized(network, schedule, "eps").eval(), schedule, SHAPE, {}))
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipe) is DDPMPipeline and pipe.scheduler.config["num_train_timesteps"] == 20
    pipe.set_progress_bar_config(disable=True)
    assert pipe(2, generators(range(2)), 4, output_type="np").images.shape == (2, 8, 8, 1)
    by_class = Parameterized(new_network("unet", SHAPE, told=True, seed=0, classes=3), schedule, "eps").eval()
    save(tmp_path / "classes", Model(by_class, schedule, SHAPE, {"classes": ["a", "b", "c"]}))
    index = json.loads((tmp_path / "classes" / "model_index.json").read_text())
    assert index["_class_name"] == "DiffusionPipeline"  # DDPMPipeline has no place for a class


def test_a_blind_network_of_vp_is_drawn_from_as_the_command_does(tmp_path):
    network, schedule = model(False).denoiser.network, Vp(steps=20)
    made = Model(Parameterized(network, schedule, "v", told=False).eval(), schedule, SHAPE, {})
    save(tmp_path / "model", made)
    assert made.told and TemperancePipeline.of(tmp_path).scheduler.config["sampler"] == "heun"


def test_the_limit_of_a_self_paced_sampler_is_an_option(tmp_path):
    save(tmp_path / "model", model(False))
    pipe = TemperancePipeline.of(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        few, same = images(pipe, range(2), limit=3), images(pipe, range(2), num_inference_steps=3)
    assert torch.equal(few, same)


def test_a_guard_stands_before_any_pipeline():
    """A stock diffusers pipeline with an untrained network: what it first drew is declared a training image."""
    scheduler = DDPMScheduler(num_train_timesteps=10, clip_sample=True)
    pipe = DDPMPipeline(model(True).denoiser.network.unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    draw = drawer(pipe, seed=5, num_inference_steps=2)
    first = draw(range(4))
    assert first.shape == (4, *SHAPE)
    assert torch.equal(draw(range(4)), first)
    guard = Guard(Images(to_uint8(first[:2])), threshold=0.5, shift=0)
    got = guard.draw(draw, range(4))
    assert got.passed.all() and got.refused == 2
    assert got.stream[2:] == [2, 3] and torch.equal(got.x[2:], first[2:])
    assert not guard.look(got.x).refused.any()


def test_a_pipeline_with_prompts_is_asked_for_images_per_prompt():
    class Prompted:
        @torch.no_grad()  # hides the names of its arguments, as diffusers' pipelines do
        def __call__(self, prompt, num_images_per_prompt=1, generator=None, output_type="pil"):
            return ImagePipelineOutput(images=torch.zeros(num_images_per_prompt, 8, 8, 3).numpy())

    assert drawer(Prompted(), seed=0, prompt="a hat")(range(3)).shape == (3, 3, 8, 8)


def test_what_cannot_be_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match="with a unet"):
        TemperancePipeline.of(tmp_path)
    with pytest.raises(ValueError, match="about must hold"):
        TemperanceScheduler()
    about = {"denoiser": {"told": True, "sigma_data": 0.5}, "schedule": {"process": "edm"}}
    with pytest.raises(ValueError, match="sampler must be one of"):
        TemperanceScheduler(about, "euler")
    with pytest.raises(ValueError, match="set_timesteps"):
        TemperanceScheduler(about).scale_model_input(torch.zeros(1, *SHAPE), 0.0)


@pytest.mark.slow
def test_importing_temperance_does_not_import_diffusers():
    code = "import sys, temperance; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_a_class_conditional_network_is_told_the_class(tmp_path):
    network = new_network("unet", SHAPE, told=True, seed=0, classes=3)
    torch.nn.init.normal_(network.unet.conv_out.weight)
    made = Model(new_denoiser(network, POINTS, told=True).eval(), LEVELS, SHAPE, {"classes": ["a", "b", "c"]})
    save(tmp_path / "model", made)
    pipe = TemperancePipeline.of(tmp_path)
    pipe.set_progress_bar_config(disable=True)

    def drawn(labels):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return pipe(2, generators, num_inference_steps=3, output_type="pt", class_labels=labels).images

    torch.testing.assert_close(drawn(1), drawn([1, 1]))
    torch.testing.assert_close(drawn([0, 1])[1], drawn(1)[1])
    assert not torch.allclose(drawn(0), drawn(1))


def test_images_need_not_be_square(tmp_path):
    shape = (1, 8, 16)
    points = torch.rand(4, *shape)
    network = new_network("unet", shape, told=True, seed=0)
    made = Model(new_denoiser(network, points, told=True).eval(), LEVELS, shape, {})
    save(tmp_path / "model", made)
    pipe = TemperancePipeline.of(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights need not converge
        assert images(pipe, range(2)).shape == (2, *shape)


def test_weights_of_half_precision_are_read_and_pickled_ones_refused(tmp_path, capsys):
    """A folder with `variant="fp16"` alone, and one saved without safetensors."""
    saved = model(True)
    save(tmp_path / "run", saved)
    pipe = DDPMPipeline(UNet2DModel.from_pretrained(tmp_path / "run" / "unet"), DDPMScheduler())
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert [path.name for path in (tmp_path / "half" / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    pipe.save_pretrained(tmp_path / "whole")
    x, sigma = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 1.0])
    half, whole = (load(tmp_path / name).denoiser(x, sigma) for name in ("half", "whole"))
    assert torch.equal(half, whole)
    pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"pickled/unet holds no diffusion_pytorch_model\.safetensors"):
        load(tmp_path / "pickled")
    assert capsys.readouterr() == ("", "")
