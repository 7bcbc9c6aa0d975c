"""Models that diffusers wrote, read as models of this package."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from temperance.hub import Unet, load, process_of
from temperance.network import Parameterized
from temperance.schedule import levels

SHAPE = (1, 8, 8)
SIGMA = torch.tensor([0.1, 1.0, 10.0])
X = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
X += SIGMA[:, None, None, None] * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


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
    assert model.told and model.shape == SHAPE and isinstance(model.denoiser, Parameterized)
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
    denoiser = Parameterized(Unet(unet, told=True), process_of(dict(scheduler.config))[0], "denoised")
    bar = scheduler.alphas_cumprod.double()
    table = ((1 - bar) / bar).log() / 2
    between = (0.75 * table[41] + 0.25 * table[42]).exp()
    denoiser(X, torch.stack([between, table[0].exp() / 9, table[-1].exp() * 9]).float())
    assert seen[0].tolist() == pytest.approx([41.25, 0, 999], abs=1e-2)


def test_the_levels_of_a_diffusers_model_are_its_own(tmp_path):
    unet, scheduler = foreign("epsilon")
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    bar = scheduler.alphas_cumprod.double()
    sigma = ((1 - bar) / bar).sqrt()
    ends = levels(load(tmp_path).schedule, 2).tolist()
    assert ends == pytest.approx([float(sigma[-1]), float(sigma[0])], rel=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("_class_name", "UNet2DConditionModel", "only a UNet2DModel"),
        ("sample_size", None, "no sample_size"),
        ("out_channels", 2, "a learned variance cannot be used"),
    ],
)
def test_a_diffusers_folder_that_is_of_no_use_says_why(tmp_path, key, value, said):
    unet, scheduler = foreign("epsilon")
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=said):
        load(tmp_path)


def test_a_latent_model_is_refused(tmp_path):
    unet, scheduler = foreign("epsilon")
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    load(tmp_path)
    (tmp_path / "vqvae").mkdir()
    with pytest.raises(ValueError, match="has a vqvae"):
        load(tmp_path)
