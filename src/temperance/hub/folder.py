"""Models as folders that diffusers can open.

A model folder holds `unet/` and `scheduler/` exactly as diffusers writes them (or `mlp/` for the small network) and
`temperance.json`, which says how the network becomes a denoiser. `scheduler/` is the stock class that samples from the
network as it is: `EDMEulerScheduler` for preconditioned networks, `DDPMScheduler` for `Vp`,
`FlowMatchEulerDiscreteScheduler` for `Flow` and velocity. What no stock scheduler can run is saved without one.
"""

from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, SchedulerMixin, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from temperance.atomic import MANIFEST, damaged, new_folder, read_json, write_json
from temperance.hub.about import ABOUT, described, description
from temperance.hub.foreign import load_foreign
from temperance.hub.model import Model
from temperance.hub.scheduler import stock_scheduler
from temperance.hub.unet import Unet, read_unet
from temperance.network import ResidualMlp


def save(folder: Path | str, model: Model) -> None:
    """Write a model folder atomically: complete or not at all.

    Raises:
        ValueError: for a denoiser, a network or a schedule that is none of the package's; of an `Autoguided` denoiser,
            save its two models.
    """
    about, network = description(model), model.denoiser.network
    if not isinstance(network, Unet | ResidualMlp):
        raise ValueError(f"a {type(network).__name__} cannot be saved; only a Unet and a ResidualMlp can")
    with new_folder(Path(folder)) as scratch:
        if isinstance(network, Unet):
            _save_unet(scratch, network.unet, stock_scheduler(model))
        else:
            _save_mlp(scratch, network)
        write_json(scratch / ABOUT, about)


def _save_unet(folder: Path, unet: UNet2DModel, scheduler: SchedulerMixin | None) -> None:
    unet.save_pretrained(folder / "unet")
    if scheduler is None:
        return
    scheduler.save_pretrained(folder / "scheduler")
    # No stock pipeline draws with the others, whose inputs are to be scaled at every step, or draws by class.
    stock = isinstance(scheduler, DDPMScheduler) and not unet.config.get("num_class_embeds")
    index = {
        "_class_name": "DDPMPipeline" if stock else "DiffusionPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    write_json(folder / "model_index.json", index)


def _save_mlp(folder: Path, network: ResidualMlp) -> None:
    (folder / "mlp").mkdir()
    write_json(folder / "mlp" / "config.json", mlp_config(network))
    weights = {name: w for name, w in network.state_dict().items() if not name.startswith("change.")}
    save_file(weights, folder / "mlp" / "model.safetensors")


def mlp_config(network: ResidualMlp) -> dict[str, Any]:
    """The arguments that make a network of the same architecture."""
    return {
        "dim": network.inward.in_features,
        "width": network.inward.out_features,
        "depth": len(network.blocks),
        "embedding": 2 * len(network.frequencies),
        "unit": network.unit,
        "classes": network.classes,
    }


def load(folder: Path | str) -> Model:
    """Open a run (`RUN/model/`), a model folder, or a diffusers folder with a UNet2DModel and its scheduler.

    Raises:
        ValueError: in one line, if the folder holds none of these, or a file is not what `manifest.json`, where there
            is one, says.
    """
    folder = Path(folder)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        return _load(folder) if (folder / ABOUT).exists() else load_foreign(folder)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: weights that do not fit
        raise ValueError(f"{folder} holds no model that can be read: {error}") from error


def _load(folder: Path) -> Model:
    if (folder / MANIFEST).exists() and (name := damaged(folder)):
        raise ValueError(f"{folder / name} is damaged; if it was changed on purpose, delete {folder / MANIFEST}")
    about = read_json(folder / ABOUT)
    if (folder / "mlp").is_dir():
        network: nn.Module = ResidualMlp(**read_json(folder / "mlp" / "config.json"))
        network.load_state_dict(load_file(folder / "mlp" / "model.safetensors"))
    else:
        network = Unet(read_unet(folder / "unet"), told=about["denoiser"]["told"])
    denoiser, schedule = described(about, network)
    channels, height, width = about["shape"]
    return Model(denoiser.eval(), schedule, (channels, height, width), about)
