"""Noise schedules as diffusers' schedulers, in both directions."""

from typing import Any

from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

from temperance.hub.model import Model
from temperance.network import TIME_UNITS, Blind, Parameterized, Preconditioned
from temperance.schedule import Edm, Flow, Schedule, Vp, levels

DIFFUSERS_PREDICTION = {"eps": "epsilon", "v": "v_prediction", "denoised": "sample"}
DIFFUSERS_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def stock_scheduler(model: Model) -> SchedulerMixin | None:
    """The diffusers scheduler that samples from the model's network as it is; None if there is none."""
    denoiser, schedule = model.denoiser, model.schedule
    if isinstance(denoiser, Preconditioned | Blind):
        high, low = levels(schedule, 2).tolist()
        return EDMEulerScheduler(sigma_max=high, sigma_min=low, sigma_data=denoiser.sigma_data)
    assert isinstance(denoiser, Parameterized)
    if isinstance(schedule, Flow) and denoiser.predicts == "velocity":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=int(TIME_UNITS))
    if isinstance(schedule, Vp) and denoiser.predicts in DIFFUSERS_PREDICTION:
        given = not isinstance(schedule.betas, str)
        return DDPMScheduler(
            num_train_timesteps=schedule.steps,
            beta_start=schedule.first,
            beta_end=schedule.last,
            beta_schedule="linear" if given else DIFFUSERS_BETAS[str(schedule.betas)],  # pyright: ignore[reportArgumentType]
            trained_betas=list(schedule.betas) if given else None,  # pyright: ignore[reportArgumentType]
            prediction_type=DIFFUSERS_PREDICTION[denoiser.predicts],  # pyright: ignore[reportArgumentType]
            clip_sample=False,
        )
    return None


def process_of(config: dict[str, Any]) -> tuple[Schedule, str]:
    """The schedule that a diffusers scheduler's configuration stands for, and what its networks predict.

    Raises:
        ValueError: for a scheduler, a prediction or a table of betas that is not known here.
    """
    name = config.get("_class_name", "DDPMScheduler")
    if name.startswith("FlowMatch"):
        if config.get("num_train_timesteps", TIME_UNITS) != TIME_UNITS:
            raise ValueError(f"num_train_timesteps of {name} must be 1000, got {config['num_train_timesteps']}")
        return Flow(), "velocity"
    if name.startswith("EDM"):
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"prediction_type of {name} must be epsilon, got {config['prediction_type']!r}")
        return Edm(config["sigma_min"], config["sigma_max"], sigma_data=config["sigma_data"]), "preconditioned"
    if "beta_start" not in config and name != "DDPMScheduler":  # no table of betas: another process
        raise ValueError(f"a model with {name} cannot be used; DDPM and its relatives, EDM and flow matching can")
    asked = config.get("prediction_type", "epsilon")
    known = {theirs: ours for ours, theirs in DIFFUSERS_PREDICTION.items()}
    if asked not in known:
        raise ValueError(f"prediction_type must be epsilon, sample or v_prediction, got {asked!r}")
    scheduler = DDPMScheduler.from_config(config)
    assert isinstance(scheduler, DDPMScheduler)
    kinds = {theirs: ours for ours, theirs in DIFFUSERS_BETAS.items()}
    kind = kinds.get(scheduler.config["beta_schedule"])
    own = scheduler.config["trained_betas"] is not None or scheduler.config["rescale_betas_zero_snr"]
    if kind is None or own:
        return Vp(tuple(scheduler.betas.tolist())), known[asked]
    first, last = scheduler.config["beta_start"], scheduler.config["beta_end"]
    return Vp(kind, scheduler.config["num_train_timesteps"], first, last), known[asked]
