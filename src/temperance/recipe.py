"""From images and the name of a method to a trained model: every `auto` is decided here, on training data alone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.diagnostics import collapse_sigma, suggest_h, suggest_temperature
from temperance.distance import Neighbors, neighbors
from temperance.engine import EmpiricalDenoiser
from temperance.features import by_name, encode
from temperance.hub import Model, new_denoiser, new_network
from temperance.objective import (
    NoiseConditional,
    NoiseUnconditional,
    Objective,
    TangentSmoothed,
    TemperatureSmoothed,
)
from temperance.schedule import Schedule, Ve, edm_for
from temperance.train import Settings, train

OBJECTIVES = ("conditional", "unconditional", "temperature", "tangent")
PROCESSES = ("edm", "ve")
CLOSED_FORMS = ("empirical", "temperature", "tangent")
Auto = float | Literal["auto"]


@dataclass(frozen=True)
class Recipe:
    """What to train. `auto` values are chosen from the training data and written back by `prepare`."""

    objective: str = "tangent"
    process: str = "edm"
    network: str = "auto"
    k: int = 10
    temperature: Auto = "auto"
    sigma_collapse: Auto = "auto"
    h: Auto = "auto"
    space: str = "pixels"

    def __post_init__(self) -> None:
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("process", self.process, PROCESSES)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        for name in ("temperature", "sigma_collapse", "h"):
            value = getattr(self, name)
            if isinstance(value, str) and value != "auto":
                raise ValueError(f"{name} must be a number or auto, got {value!r}")
            if not isinstance(value, str) and not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")


@dataclass(frozen=True)
class Prepared:
    """A recipe with every `auto` resolved, and the objects it stands for."""

    recipe: Recipe
    schedule: Schedule
    objective: Objective
    denoiser: nn.Module
    chosen: dict[str, Any]  # what `auto` came to


def prepare(recipe: Recipe, points: Float[Tensor, "n c h w"], *, seed: int = 0) -> Prepared:
    """Resolve a recipe on its training images and build schedule, objective and network.

    Cost: the neighbor table, 2 n^2 d flops, for the smoothed objectives; some seconds for `auto` values.

    Raises:
        ValueError: in one line, if the data cannot be used: fewer than k + 1 images, all alike, an odd size.
    """
    flat = points.flatten(1)
    told = recipe.objective != "unconditional"
    schedule = edm_for(flat) if recipe.process == "edm" else Ve()
    shape = (points.shape[1], points.shape[2], points.shape[3])
    kind = ("unet" if min(shape[1:]) >= 12 else "mlp") if recipe.network == "auto" else recipe.network
    objective, chosen = _objective(recipe, schedule, points)
    network = new_network(kind, shape, told=told, seed=seed)
    resolved = replace(recipe, network=kind, **chosen)
    return Prepared(resolved, schedule, objective, new_denoiser(network, points, told=told), chosen)


def _objective(recipe: Recipe, schedule: Schedule, points: Tensor) -> tuple[Objective, dict[str, Any]]:
    if recipe.objective == "conditional":
        return NoiseConditional(schedule), {}
    if recipe.objective == "unconditional":
        return NoiseUnconditional(schedule), {}
    if len(points) <= recipe.k:
        raise ValueError(f"k={recipe.k} neighbors need at least {recipe.k + 1} images, got {len(points)}; lower --k")
    flat = points.flatten(1)
    table = neighbor_table(points, recipe.k, recipe.space)
    if recipe.objective == "tangent":
        h = suggest_h(flat, recipe.k).h if recipe.h == "auto" else float(recipe.h)
        return TangentSmoothed(schedule, points, table, h), {"h": h}
    sigma = collapse_sigma(flat) if recipe.sigma_collapse == "auto" else float(recipe.sigma_collapse)
    auto = recipe.temperature == "auto"
    strength = suggest_temperature(flat, table, sigma) if auto else float(recipe.temperature)
    chosen = {"sigma_collapse": sigma, "temperature": strength}
    return TemperatureSmoothed(schedule, points, table, sigma, strength), chosen


def neighbor_table(points: Float[Tensor, "n c h w"], k: int, space: str) -> Neighbors:
    """The k nearest other images, in pixels or in an encoder's centered, normalized features."""
    if space == "pixels":
        return neighbors(points.flatten(1), k)
    features = encode(by_name(space), points)
    return neighbors(torch.nn.functional.normalize(features - features.mean(0), dim=1), k)


def fit(
    ready: Prepared,
    points: Float[Tensor, "n c h w"],
    settings: Settings,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    device: str = "auto",
    visit: Callable[[int, Model], None] | None = None,
) -> Model:
    """Train what was prepared on images in [-1, 1]; `visit` sees the averaged model at every checkpoint."""
    shape = (points.shape[1], points.shape[2], points.shape[3])
    about = {"recipe": asdict(ready.recipe), "settings": asdict(settings), "n_train": len(points)}

    def as_model(denoiser: nn.Module) -> Model:
        return Model(denoiser, ready.schedule, shape, about)

    average = train(
        ready.denoiser,
        ready.objective,
        points,
        settings,
        out=out,
        resume=resume,
        progress=progress,
        device=device,
        visit=None if visit is None else lambda step, denoiser: visit(step, as_model(denoiser)),
    )
    return as_model(average.cpu())


def closed_form(points: Float[Tensor, "n c h w"], name: str, k: int = 10) -> EmpiricalDenoiser:
    """The denoiser that `name` converges to, with settings chosen from the points themselves."""
    _one_of("closed form", name, CLOSED_FORMS)
    flat = points.flatten(1)
    if name == "empirical":
        return EmpiricalDenoiser(points, "conditional")
    table = neighbors(flat, k)
    if name == "tangent":
        return EmpiricalDenoiser(points, "tangent", neighbors=table, h=suggest_h(flat, k).h)
    sigma = collapse_sigma(flat)
    strength = suggest_temperature(flat, table, sigma)
    return EmpiricalDenoiser(points, "temperature", sigma_collapse=sigma, temperature=strength)


def names() -> tuple[str, ...]:
    """Every key that a configuration file or `--set` may hold."""
    return tuple(f.name for f in (*fields(Recipe), *fields(Settings)))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
