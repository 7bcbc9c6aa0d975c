"""From images and the name of a method to a trained model: every `auto` is decided here, on training data alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.augmentation import CHANGES, mirrored
from temperance.denoiser import PREDICTIONS
from temperance.diagnostics import PIXELS, WHEN_CUT, collapse_sigma, suggest_h, suggest_k, suggest_temperature
from temperance.distance import Neighbors, duplicates
from temperance.engine import EmpiricalDenoiser, neighbor_table
from temperance.features import by_name, encode
from temperance.hub import Model, kind_of, load, new_denoiser, new_network
from temperance.network import TIME_UNITS, Blind, Parameterized
from temperance.objective import (
    Augmented,
    ExactTangent,
    Labeled,
    NoiseConditional,
    NoiseUnconditional,
    Objective,
    TangentSmoothed,
    TemperatureSmoothed,
    Weighted,
)
from temperance.schedule import Flow, Schedule, Ve, Vp, edm_for, levels
from temperance.train import Settings, train

OBJECTIVES = ("conditional", "unconditional", "temperature", "tangent")
PROCESSES = {"edm": "preconditioned", "ve": "preconditioned", "vp": "v", "flow": "velocity"}  # and what they predict
TARGETS = ("drawn", "exact")
USED_BY = {  # settings that other objectives ignore
    "h": ("tangent",),
    "temperature": ("temperature",),
    "sigma_collapse": ("temperature",),
    "k": ("temperature", "tangent"),
    "space": ("temperature", "tangent"),
}
CLOSED_FORMS = ("empirical", "temperature", "tangent")
Auto = float | Literal["auto"]


@dataclass(frozen=True)
class Recipe:
    """What to train. `auto` values are chosen from the training data and written back by `prepare`.

    Attributes:
        prediction: what the network puts out: `preconditioned` (edm and ve), denoised, eps, v or velocity. `auto`:
            preconditioned for edm and ve, v for vp, velocity for flow.
        betas: of vp: linear, scaled_linear or cosine.
        network: mlp, unet, or a model folder whose architecture is taken, not its weights.
        init: a model folder to start from, with its weights, process and prediction. Empty: none.
        class_conditional: tell the network each image's class; neighbors then come from the same class.
        flips: train on every image and its mirror image.
        h: width of the tangent objective: a number, `auto` (`suggest_h`), or what the same curve says once displaced
            images are cut to the range of pixels, as samples are: `halved`, where they are the nearer ones three times
            out of four, half of a copy's excess over one half, or `matched`, where they are half of the time.
        augment: the share of images that are turned, stretched and shifted a little; the network is told how, and
            samples are drawn as unchanged (`Augmented`). Not with temperature, exact targets or classes.
        augment_size: how much they are changed: times 12 degrees, 9 % and 3 % of a side.
        targets: of the tangent objective: drawn, or exact (`ExactTangent`), not for class-conditional recipes.
    """

    objective: str = "tangent"
    process: str = "edm"
    prediction: str = "auto"
    betas: str = "linear"
    network: str = "auto"
    init: str = ""
    class_conditional: bool = False
    flips: bool = False
    k: int | Literal["auto"] = "auto"
    temperature: Auto = "auto"
    sigma_collapse: Auto = "auto"
    h: Auto | Literal["halved", "matched"] = "auto"
    space: str = "pixels"
    targets: str = "drawn"
    augment: float = 0.0
    augment_size: float = 1.0

    def __post_init__(self) -> None:
        self._check_kinds()
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("process", self.process, tuple(PROCESSES))
        _one_of("prediction", self.prediction, ("auto", "preconditioned", *PREDICTIONS))
        if self.prediction == "preconditioned" and PROCESSES[self.process] != self.prediction and not self.init:
            raise ValueError(f"prediction preconditioned is for edm and ve, not {self.process}; try auto")
        if self.objective == "unconditional" and PROCESSES[self.process] == "preconditioned" and not self.init:
            _one_of("prediction of a noise-unconditional edm or ve", self.prediction, ("auto", "preconditioned"))
        _one_of("targets", self.targets, TARGETS)
        if self.targets == "exact" and (self.objective != "tangent" or self.class_conditional):
            raise ValueError("targets exact is for the tangent objective, and not for class-conditional runs")
        self._check_augment()
        if self.k != "auto" and (not isinstance(self.k, int) or self.k < 1):
            raise ValueError(f"k must be a whole number of at least 1 or auto, got {self.k!r}")
        for name in ("temperature", "sigma_collapse", "h"):
            value = getattr(self, name)
            words = ("auto", *WHEN_CUT) if name == "h" else ("auto",)
            if isinstance(value, str) and value not in words:
                raise ValueError(f"{name} must be a number or {' or '.join(words)}, got {value!r}")
            if not isinstance(value, str) and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a number > 0 or {' or '.join(words)}, got {value!r}")

    def _check_augment(self) -> None:
        if not _is_number(self.augment) or not 0 <= self.augment <= 1:
            raise ValueError(f"augment must be a share from 0 to 1, got {self.augment!r}")
        if not _is_number(self.augment_size) or not 0 < self.augment_size < math.inf:
            raise ValueError(f"augment_size must be a number > 0, got {self.augment_size!r}")
        if self.augment and (self.objective == "temperature" or self.targets == "exact" or self.class_conditional):
            raise ValueError("augment is not for the temperature objective, exact targets or class-conditional runs")

    def _check_kinds(self) -> None:
        for kind, what in ((str, "text"), (bool, "true or false")):
            for name in (f.name for f in fields(self) if f.type is kind):
                if not isinstance(getattr(self, name), kind):
                    raise ValueError(f"{name} must be {what}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Prepared:
    """A recipe with every `auto` resolved, and the objects it stands for."""

    recipe: Recipe
    schedule: Schedule
    objective: Objective
    denoiser: nn.Module
    chosen: dict[str, Any]  # what `auto` came to


def prepare(
    recipe: Recipe,
    points: Float[Tensor, "n c h w"],
    *,
    seed: int = 0,
    labels: Int[Tensor, " n"] | None = None,
    classes: int = 0,
) -> Prepared:
    """Resolve a recipe on its training images and build schedule, objective and network.

    `labels` and the number of `classes` are needed, and used, by a class-conditional recipe only. With flips, rows n to
    2n of the objective are the mirror images (see `with_mirrors`).

    Cost: the neighbor table, 2 n^2 d flops, for the smoothed objectives; some seconds for `auto` values.

    Raises:
        ValueError: in one line, if the data cannot be used: fewer than k + 1 images, all alike, an odd size.
    """
    if recipe.class_conditional and (labels is None or not classes):
        raise ValueError("class_conditional needs labels; give class folders, a .npz with labels, or a labeled set")
    known = labels if recipe.class_conditional else None
    shape = (points.shape[1], points.shape[2], points.shape[3])
    count = classes if recipe.class_conditional else 0
    start = _start(recipe, shape, count)
    if start is not None:
        schedule, denoiser, predicts = start
        process, kind = type(schedule).__name__.lower(), kind_of(denoiser.network)  # pyright: ignore[reportArgumentType]
    else:
        schedule, process, told = _schedule(recipe, points), recipe.process, recipe.objective != "unconditional"
        predicts = PROCESSES[process] if recipe.prediction == "auto" else recipe.prediction
        kind = ("unet" if min(shape[1:]) >= 12 else "mlp") if recipe.network == "auto" else recipe.network
        unit = 1.0 if predicts == "preconditioned" or not isinstance(schedule, Vp | Flow) else TIME_UNITS
        network = new_network(kind, shape, told=told, seed=seed, classes=count, unit=unit)
        denoiser = new_denoiser(network, points, told=told, schedule=schedule, predicts=predicts)
    objective, chosen = _objective(recipe, schedule, points, known, told=not isinstance(denoiser, Blind))
    if recipe.augment:
        denoiser.network.hear(CHANGES)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        objective = Augmented(objective, recipe.augment, recipe.augment_size)
    if predicts != PROCESSES[process]:
        objective = Weighted(objective, PREDICTIONS[predicts].weight)
    if known is not None:
        objective = Labeled(objective, known.repeat(2) if recipe.flips else known)
    betas = schedule.betas if isinstance(schedule, Vp) and isinstance(schedule.betas, str) else recipe.betas
    resolved = replace(recipe, network=kind, process=process, prediction=predicts, betas=betas, **chosen)
    decided = {name: value for name, value in chosen.items() if isinstance(getattr(recipe, name), str)}
    return Prepared(resolved, schedule, objective, denoiser, decided)


def _schedule(recipe: Recipe, points: Tensor) -> Schedule:
    if recipe.process == "edm":
        return edm_for(points.flatten(1))
    return {"ve": Ve, "vp": lambda: Vp(recipe.betas), "flow": Flow}[recipe.process]()


def _start(recipe: Recipe, shape: tuple[int, int, int], classes: int) -> tuple[Schedule, nn.Module, str] | None:
    """The model that `init` names: its schedule, its denoiser ready to be trained, and what its network predicts.

    Raises:
        ValueError: if it does not fit the images, the classes or the objective.
    """
    if not recipe.init:
        return None
    if recipe.network != "auto":
        raise ValueError(f"init {recipe.init} brings its own network; leave out --network {recipe.network}")
    model = load(Path(recipe.init))
    if model.shape != shape:
        raise ValueError(f"init {recipe.init} makes images {model.shape}, the data are {shape}; set --size, --channels")
    if len(model.classes) != classes:
        raise ValueError(
            f"init {recipe.init} knows {len(model.classes)} classes, this run has {classes}; "
            f"{'leave out' if classes else 'add'} --class-conditional, or use the data it was trained on"
        )
    denoiser = model.denoiser
    blind = isinstance(denoiser, Blind) or (isinstance(denoiser, Parameterized) and not denoiser.told)
    if blind != (recipe.objective == "unconditional"):
        is_, needs = ("unconditional", "unconditional") if blind else ("conditional", "any other than unconditional")
        raise ValueError(f"init {recipe.init} is noise-{is_}: its objective must be {needs}, got {recipe.objective}")
    predicts = denoiser.predicts if isinstance(denoiser, Parameterized) else "preconditioned"
    if recipe.prediction not in ("auto", predicts):
        raise ValueError(f"init {recipe.init} predicts {predicts}, not {recipe.prediction}; leave out prediction")
    return model.schedule, denoiser.train(), predicts


def _objective(
    recipe: Recipe, schedule: Schedule, points: Tensor, labels: Tensor | None, *, told: bool
) -> tuple[Objective, dict[str, Any]]:
    if recipe.objective in ("conditional", "unconditional"):
        # A noise-unconditional network of vp or flow sits in a denoiser that is told sigma (decision 0007).
        return (NoiseConditional if told else NoiseUnconditional)(schedule), {}
    flat = points.flatten(1)
    k = _count(recipe.k, flat, labels)
    table = neighbor_table(flat, k, labels=labels, space=feature_space(recipe.space, points))
    rows, mirror = (with_mirrors(points), mirrored_table(table)) if recipe.flips else (points, table)
    if recipe.objective == "tangent":
        h = _width(recipe.h, flat, table)
        tangent = TangentSmoothed(schedule, rows, mirror, h)
        return ExactTangent(tangent) if recipe.targets == "exact" else tangent, {"k": k, "h": h}
    sigma = collapse_sigma(flat) if recipe.sigma_collapse == "auto" else float(recipe.sigma_collapse)
    lowest = float(levels(schedule, 2)[-1])
    if sigma <= lowest:
        raise ValueError(
            f"sigma_collapse {sigma:.2g} is not above the lowest noise level, {lowest:.2g}: temperature would change"
            " nothing; give a larger --sigma-collapse, and look for near-duplicates with temperance analyze"
        )
    auto = recipe.temperature == "auto"
    strength = suggest_temperature(flat, table, sigma) if auto else float(recipe.temperature)
    chosen = {"k": k, "sigma_collapse": sigma, "temperature": strength}
    return TemperatureSmoothed(schedule, rows, mirror, sigma, strength), chosen


def _count(k: int | Literal["auto"], points: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None) -> int:
    """The number of neighbors.

    Raises:
        ValueError: if there are not so many distinct images.
    """
    least = _fewest(points, labels)
    count = max(1, suggest_k(least)) if k == "auto" else k
    if least <= count:
        where = "" if labels is None else " in every class"
        way = "give more images" if k == "auto" else "lower --k"
        raise ValueError(f"k={count} neighbors need at least {count + 1} images{where}, got {least} distinct; {way}")
    return count


def _width(h: float | str, flat: Tensor, table: Neighbors) -> float:
    if isinstance(h, str):
        return suggest_h(flat, table).h if h == "auto" else suggest_h(flat, table, span=PIXELS).at(WHEN_CUT[h])
    return float(h)


def with_mirrors(points: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c h w"]:
    """The images, then their mirror images: row n + i is row i flipped left to right."""
    return torch.cat([points, mirrored(points)])


def mirror_groups(points: Float[Tensor, "m c h w"]) -> Int[Tensor, " m"]:
    """Duplicate groups of images `with_mirrors`: an image and its mirror image are one, however alike they look.

    Else a symmetric image's own mirror image would be the second nearest to a copy of it, and d1/d2 no sign of copying.
    """
    one, other = duplicates(points.flatten(1)).chunk(2)
    return torch.minimum(one, other).repeat(2)  # of images that are mirror images of each other, both have the same two


def mirrored_table(table: Neighbors) -> Neighbors:
    """The neighbor table of images `with_mirrors`: those of a mirror image are the mirror images of the neighbors.

    Distances do not change when both images are flipped, so nothing is computed again, and the target of a flipped
    image is the flipped target. Mirror images are neighbors of each other only: smoothing never blends an image with a
    mirror image.
    """
    n = len(table.index)
    return Neighbors(torch.cat([table.index, table.index + n]), table.distance.repeat(2, 1))


def _fewest(points: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None) -> int:
    """The number of distinct images, of the label that has fewest."""
    group = duplicates(points)
    label = torch.zeros_like(group) if labels is None else labels
    return int(torch.stack([label, group], 1).unique(dim=0)[:, 0].unique(return_counts=True)[1].min())


def feature_space(name: str, points: Float[Tensor, "n c h w"]) -> Float[Tensor, "n e"] | None:
    """Where neighbors are sought: an encoder's centered, unit features; None: pixels."""
    if name == "pixels":
        return None
    features = encode(by_name(name), points)
    return torch.nn.functional.normalize(features - features.mean(0), dim=1)


def fit(
    ready: Prepared,
    points: Float[Tensor, "n c h w"],
    settings: Settings,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    device: str = "auto",
    begin: Callable[[], None] | None = None,
    visit: Callable[[int, Model], None] | None = None,
    earlier: Callable[[int, Model], None] | None = None,
    monitor: Callable[[int, Model], dict[str, Any]] | None = None,
    classes: Sequence[str] = (),
) -> Model:
    """Train what was prepared on images in [-1, 1]; `visit` sees the averaged model at every checkpoint,
    `earlier` at every landmark.

    `monitor` sees it every `settings.monitor_every` steps; see `temperance.train`.

    `classes`: the names of a class-conditional recipe's classes.
    """
    shape = (points.shape[1], points.shape[2], points.shape[3])
    about = {"recipe": asdict(ready.recipe), "settings": asdict(settings), "n_train": len(points)}
    if ready.recipe.class_conditional:
        about["classes"] = list(classes)

    def as_model(denoiser: nn.Module) -> Model:
        return Model(denoiser, ready.schedule, shape, about)

    average = train(
        ready.denoiser,
        ready.objective,
        with_mirrors(points) if ready.recipe.flips else points,
        settings,
        out=out,
        resume=resume,
        progress=progress,
        device=device,
        begin=begin,
        visit=None if visit is None else lambda step, denoiser: visit(step, as_model(denoiser)),
        earlier=None if earlier is None else lambda step, denoiser: earlier(step, as_model(denoiser)),
        monitor=None if monitor is None else lambda step, denoiser: monitor(step, as_model(denoiser)),
    )
    return as_model(average.cpu())


def closed_form(
    points: Float[Tensor, "n c h w"], name: str, k: int | Literal["auto"] = "auto", h: float | str = "auto"
) -> EmpiricalDenoiser:
    """The denoiser that `name` stands for, with settings chosen from the points themselves.

    Training by the objective of that name converges to the empirical and the tangent one. That of temperature tempers
    over an image and its neighbors, this one over all images: the formula of arXiv 2601.19285, without training.

    `k` neighbors and, of the tangent one, the width `h`: as in a `Recipe`. The empirical one needs none.

    Raises:
        ValueError: for a name that is none of CLOSED_FORMS, or too few distinct points.
    """
    _one_of("closed form", name, CLOSED_FORMS)
    flat = points.flatten(1)
    if name == "empirical":
        return EmpiricalDenoiser(points, "conditional")
    table = neighbor_table(flat, _count(k, flat, None))
    if name == "tangent":
        return EmpiricalDenoiser(points, "tangent", neighbors=table, h=_width(h, flat, table))
    sigma = collapse_sigma(flat)
    strength = suggest_temperature(flat, table, sigma)
    return EmpiricalDenoiser(points, "temperature", sigma_collapse=sigma, temperature=strength)


def names() -> tuple[str, ...]:
    """Every key that a configuration file or `--set` may hold."""
    return tuple(f.name for f in (*fields(Recipe), *fields(Settings)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
