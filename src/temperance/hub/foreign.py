"""Models as diffusers writes them: a UNet2DModel and its scheduler, stock or `TemperanceScheduler`."""

from pathlib import Path
from typing import Any

from torch import nn

from temperance.atomic import read_json
from temperance.hub.about import described
from temperance.hub.model import Model
from temperance.hub.scheduler import process_of
from temperance.hub.unet import Unet, read_unet
from temperance.network import Parameterized, Preconditioned
from temperance.schedule import Schedule


def load_foreign(folder: Path) -> Model:
    """Open a folder without `temperance.json`.

    Raises:
        ValueError: if it holds no UNet of images with a scheduler whose process is known here.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    config = folder / "scheduler" / "scheduler_config.json"
    if not (unet / "config.json").exists() or not config.exists():
        raise ValueError(
            f"{folder} holds no model: expected a temperance run or a diffusers folder with unet/ and scheduler/"
        )
    _check(folder, unet)
    told = read_json(config)
    about = told.get("about") or {}  # of a TemperanceScheduler
    network = Unet(read_unet(unet), told=about.get("denoiser", {}).get("told", True))
    denoiser, schedule = described(about, network) if about else _stock(told, network)
    size = network.unet.config["sample_size"]
    if not size:
        raise ValueError(f"{unet}/config.json has no sample_size: the side of its images is not known; add it")
    height, width = (size, size) if isinstance(size, int) else size
    shape = (network.unet.config["in_channels"], height, width)
    count = network.unet.config.get("num_class_embeds") or 0
    classes = {"classes": [str(i) for i in range(count)]} if count else {}
    return Model(denoiser.eval(), schedule, shape, {"source": "diffusers", **classes})


def _check(folder: Path, unet: Path) -> None:
    """Refuse what makes no images, or more than images."""
    made = read_json(unet / "config.json")
    kind, inward = made.get("_class_name", "UNet2DModel"), made.get("in_channels", 3)
    if kind != "UNet2DModel":
        raise ValueError(f"{unet} holds a {kind}; only a UNet2DModel can be used")
    if made.get("out_channels", 3) != inward:
        raise ValueError(f"{unet} makes {made['out_channels']} channels of {inward}: a learned variance cannot be used")
    coder = next((name for name in ("vae", "vqvae") if (folder / name).is_dir()), None)
    if coder:
        raise ValueError(f"{folder} has a {coder}: its UNet makes latents; only models of pixels can be used")


def _stock(config: dict[str, Any], network: Unet) -> tuple[nn.Module, Schedule]:
    """The denoiser that a stock scheduler's configuration stands for."""
    schedule, predicts = process_of(config)
    if predicts == "preconditioned":
        return Preconditioned(network, config["sigma_data"]), schedule
    return Parameterized(network, schedule, predicts), schedule
