"""Everything diffusers: its UNet as a denoiser, and models as folders that diffusers can open.

A model folder holds `unet/` and `scheduler/` exactly as diffusers writes them (or `mlp/` for the small network) and
`temperance.json`, which says how the network becomes a denoiser.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from temperance.atomic import new_folder, write_json
from temperance.network import Blind, Preconditioned, ResidualMlp
from temperance.schedule import Edm, Schedule, Ve

ABOUT = "temperance.json"
SCHEDULES = {"edm": Edm, "ve": Ve}


class Unet(nn.Module):
    """diffusers' `UNet2DModel` called like every network here: images and one number per row in, images out.

    With `told=False` it is exactly noise-unconditional: the second layer of its time embedding has zero, frozen
    weights, so only a learned constant is left of the time, and the model stays a stock `UNet2DModel`.
    """

    def __init__(self, unet: UNet2DModel, *, told: bool):
        super().__init__()
        self.unet = unet
        if not told:
            assert unet.time_embedding is not None
            nn.init.zeros_(unet.time_embedding.linear_2.weight)
            unet.time_embedding.linear_2.weight.requires_grad_(False)

    def forward(self, x: Float[Tensor, "batch c h w"], noise: Float[Tensor, " batch"]) -> Tensor:
        """Predict an image-sized output."""
        return self.unet(x, noise).sample


@dataclass(frozen=True)
class Model:
    """A denoiser with what a sampler has to know about it."""

    denoiser: nn.Module
    schedule: Schedule
    shape: tuple[int, int, int]
    about: dict[str, Any]

    @property
    def told(self) -> bool:
        """Whether the denoiser is noise-conditional."""
        return isinstance(self.denoiser, Preconditioned | FromDiffusers)


def new_network(kind: str, shape: tuple[int, int, int], *, told: bool, seed: int) -> nn.Module:
    """A freshly initialized `mlp` or `unet` for images of `shape` (channels, height, width).

    Raises:
        ValueError: for another kind, or a size that the UNet cannot halve twice.
    """
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return ResidualMlp(channels * height * width)
        if kind != "unet":
            raise ValueError(f"network must be mlp, unet or a model folder, got {kind!r}")
        if height % 4 or width % 4 or height < 8:
            raise ValueError(f"the unet needs sides of 8 or more divisible by 4, got {height}x{width}; try --size 16")
        unet = UNet2DModel(
            sample_size=height,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
        return Unet(unet, told=told)


def new_denoiser(network: nn.Module, points: Float[Tensor, "n c h w"], *, told: bool) -> nn.Module:
    """Precondition a network with the constants of the data it will be trained on."""
    mean_square = float(points.square().mean())
    if told:
        return Preconditioned(network, mean_square**0.5)
    return Blind(network, mean_square**0.5, mean_square)


def save(folder: Path, model: Model) -> None:
    """Write a model folder atomically: complete or not at all."""
    denoiser = model.denoiser
    assert isinstance(denoiser, Preconditioned | Blind)
    about = dict(model.about)
    about["denoiser"] = {"told": model.told, "sigma_data": denoiser.sigma_data}
    if isinstance(denoiser, Blind):
        about["denoiser"] |= {"mean_square": denoiser.mean_square, "floor": denoiser.floor}
    name = next(k for k, v in SCHEDULES.items() if isinstance(model.schedule, v))
    about["schedule"] = {"process": name, **asdict(model.schedule)}  # pyright: ignore[reportArgumentType]
    about["shape"] = list(model.shape)
    with new_folder(folder) as scratch:
        if isinstance(denoiser.network, Unet):
            _save_unet(scratch, denoiser.network.unet, model.schedule, denoiser.sigma_data)
        else:
            _save_mlp(scratch, denoiser.network)
        write_json(scratch / ABOUT, about)


def _save_unet(folder: Path, unet: UNet2DModel, schedule: Schedule, sigma_data: float) -> None:
    unet.save_pretrained(folder / "unet")
    ends = schedule.grid(2).tolist()
    scheduler = EDMEulerScheduler(sigma_max=ends[0], sigma_min=ends[1], sigma_data=sigma_data)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiffusionPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "EDMEulerScheduler"],
    }
    write_json(folder / "model_index.json", index)


def _save_mlp(folder: Path, network: nn.Module) -> None:
    assert isinstance(network, ResidualMlp)
    (folder / "mlp").mkdir()
    config = {
        "dim": network.inward.in_features,
        "width": network.inward.out_features,
        "depth": len(network.blocks),
    }
    write_json(folder / "mlp" / "config.json", config)
    save_file(network.state_dict(), folder / "mlp" / "model.safetensors")


def load(folder: Path) -> Model:
    """Open a run (`RUN/model/`), a model folder, or a diffusers folder with a UNet2DModel trained on noise or v.

    Raises:
        ValueError: in one line, if the folder holds none of these.
    """
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / ABOUT).exists():
        return _load_foreign(folder)
    about = json.loads((folder / ABOUT).read_text())
    settings = dict(about["denoiser"])
    told = settings.pop("told")
    if (folder / "mlp").is_dir():
        network: nn.Module = ResidualMlp(**json.loads((folder / "mlp" / "config.json").read_text()))
        network.load_state_dict(load_file(folder / "mlp" / "model.safetensors"))
    else:
        network = Unet(UNet2DModel.from_pretrained(folder / "unet", local_files_only=True), told=told)
    denoiser = Preconditioned(network, **settings) if told else Blind(network, **settings)
    levels = dict(about["schedule"])
    schedule = SCHEDULES[levels.pop("process")](**levels)
    channels, height, width = about["shape"]
    return Model(denoiser.eval(), schedule, (channels, height, width), about)


class FromDiffusers(nn.Module):
    """A variance-preserving diffusers model as a denoiser: x_t = alpha mu + s eps read as x = x_t / alpha."""

    def __init__(self, unet: UNet2DModel, alphas_cumprod: Float[Tensor, " steps"], prediction: str):
        super().__init__()
        if prediction not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(f"prediction_type must be epsilon, sample or v_prediction, got {prediction!r}")
        self.unet, self.prediction = unet, prediction
        self.log_sigma: Tensor
        self.register_buffer("log_sigma", ((1 - alphas_cumprod) / alphas_cumprod).double().log() / 2)

    def forward(self, x: Float[Tensor, "batch c h w"], sigma: Float[Tensor, " batch"]) -> Tensor:
        """E[mu | x] for x = mu + sigma eps; the time is interpolated between the model's own."""
        table = self.log_sigma
        wanted = sigma.double().log()
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        t = above - 1 + ((wanted - table[above - 1]) / (table[above] - table[above - 1])).clamp(0, 1)
        s = sigma.to(x)[:, None, None, None]
        alpha = (1 + s**2).rsqrt()
        out = self.unet(alpha * x, t.to(x)).sample
        if self.prediction == "sample":
            return out
        return x - s * out if self.prediction == "epsilon" else alpha**2 * x - alpha * s * out


def _load_foreign(folder: Path) -> Model:
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    config = folder / "scheduler" / "scheduler_config.json"
    if not (unet / "config.json").exists() or not config.exists():
        raise ValueError(
            f"{folder} holds no model: expected a temperance run or a diffusers folder with unet/ and scheduler/"
        )
    from diffusers import DDPMScheduler

    network = UNet2DModel.from_pretrained(unet, local_files_only=True)
    scheduler = DDPMScheduler.from_pretrained(config.parent)
    assert isinstance(scheduler, DDPMScheduler)
    denoiser = FromDiffusers(network, scheduler.alphas_cumprod, scheduler.config["prediction_type"])
    ends = denoiser.log_sigma[[0, -1]].exp().tolist()
    size = network.config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    shape = (network.config["in_channels"], height, width)
    return Model(denoiser.eval(), Ve(max(ends[0], 0.01), ends[1]), shape, {"source": "diffusers"})
