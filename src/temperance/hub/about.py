"""What `temperance.json` says: how a network becomes a denoiser, and its noise levels."""

from dataclasses import asdict
from typing import Any

from torch import nn

from temperance.hub.model import Model
from temperance.network import Blind, Parameterized, Preconditioned
from temperance.schedule import Edm, Flow, Schedule, Ve, Vp

ABOUT = "temperance.json"
SCHEDULES = {"edm": Edm, "ve": Ve, "vp": Vp, "flow": Flow}


def description(model: Model) -> dict[str, Any]:
    """The model's `about` with what `described` needs to make its denoiser of a network again.

    Raises:
        ValueError: for a denoiser or a schedule that is none of the package's; of an `Autoguided` one, save its two
            models.
    """
    denoiser, schedule = model.denoiser, model.schedule
    if not isinstance(denoiser, Preconditioned | Blind | Parameterized):
        raise ValueError(f"a {type(denoiser).__name__} cannot be saved; save the models that it is made of")
    if not isinstance(schedule, Edm | Ve | Vp | Flow):
        raise ValueError(f"a {type(schedule).__name__} cannot be saved; only Edm, Ve, Vp and Flow can")
    settings = {"told": not isinstance(denoiser, Blind), "sigma_data": denoiser.sigma_data}
    if isinstance(denoiser, Blind):
        settings |= {"mean_square": denoiser.mean_square, "floor": denoiser.floor}
    if isinstance(denoiser, Parameterized):
        settings |= {"predicts": denoiser.predicts, "told": denoiser.told}
    name = next(process for process, kind in SCHEDULES.items() if isinstance(schedule, kind))
    levels = {"process": name, **asdict(schedule)}
    return {**model.about, "denoiser": settings, "schedule": levels, "shape": list(model.shape)}


def described(about: dict[str, Any], network: nn.Module) -> tuple[nn.Module, Schedule]:
    """The denoiser around a network, and its schedule, as `temperance.json` describes them."""
    levels_of = dict(about["schedule"])
    schedule = SCHEDULES[levels_of.pop("process")](**levels_of)
    settings = dict(about["denoiser"])
    told = settings.pop("told")
    if "predicts" in settings:
        return Parameterized(network, schedule, **settings, told=told), schedule
    return (Preconditioned(network, **settings) if told else Blind(network, **settings)), schedule
