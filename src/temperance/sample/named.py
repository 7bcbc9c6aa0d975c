"""The samplers by the names that people type, and how far each walks unless told otherwise."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from temperance.sample.adaptive import adaptive
from temperance.sample.ancestral import ancestral
from temperance.sample.annealed import annealed
from temperance.sample.dpm_solver import dpm_solver
from temperance.sample.heun import heun
from temperance.sample.nesterov import nesterov
from temperance.sample.predictor_corrector import predictor_corrector
from temperance.sample.sampler import Sampler
from temperance.schedule import Schedule, levels

PRESET: dict[str, Sampler] = {"heun": heun, "dpm": dpm_solver, "ancestral": ancestral, "pc": predictor_corrector}
SELF_PACED: dict[str, Sampler] = {"adaptive": adaptive, "nesterov": nesterov, "annealed": annealed}
SAMPLERS: dict[str, Sampler] = PRESET | SELF_PACED
# Levels of a preset schedule; for the self-paced, which stop by themselves, their most evaluations.
STEPS = {"heun": 20, "dpm": 40, "ancestral": 100, "pc": 100, "adaptive": 400, "nesterov": 400, "annealed": 400}


def usual(*, told: bool) -> str:
    """The sampler of a network that is told its noise level, or of one that is not and has to find its own way."""
    return "heun" if told else "adaptive"


class Walk(NamedTuple):
    """What `integrate` needs of a sampler that was named."""

    sampler: Sampler
    sigmas: Float[Tensor, " levels"]
    options: dict[str, Any]


def walk(name: str, schedule: Schedule, steps: int | None = None) -> Walk:
    """A sampler by its name, on a schedule: `steps` levels, or for a self-paced one at most `steps` evaluations.

    None and 0 stand for the number in STEPS.

    Raises:
        ValueError: for a name that is none of SAMPLERS, or steps below 0.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be at least 0, which stands for {STEPS[name]}, got {steps}")
    count = steps or STEPS[name]
    if name in SELF_PACED:
        return Walk(SAMPLERS[name], levels(schedule, 2), {"limit": count})
    return Walk(SAMPLERS[name], levels(schedule, max(2, count)), {})
