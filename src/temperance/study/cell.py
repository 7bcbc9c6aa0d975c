"""One cell of a study: one method trained on one split, sampled and scored at every look. The unit that is kept.

Cells whose methods differ only in how they sample have the same `training`, and are run together.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

from torch import nn

from temperance.autoguidance import Autoguided
from temperance.data import Images, load, split, unlike
from temperance.hub import Model
from temperance.metrics import proximity
from temperance.recipe import Prepared, Recipe, closed_form, fit, mirror_groups, prepare, with_mirrors
from temperance.sample import SAMPLERS, Start, usual
from temperance.schedule import edm_for
from temperance.scorecard import Yardstick, yardstick
from temperance.start import smoothed_start
from temperance.study.methods import METHODS, Method, add_dropout, trained_as
from temperance.train import Settings
from temperance.trial import Sets, check_sets, draw, draw_sets, encoder_from, judge

VERSION = 2  # raised when the meaning of a kept cell changes


@dataclass(frozen=True)
class Cell:
    """Everything that decides a cell's rows. `n_drawn` images are set apart for training, the first `n_train` used."""

    data: str
    heldout: str
    method: str
    n_train: int
    n_drawn: int
    n_heldout: int
    n_samples: int
    steps: int
    looks: tuple[int, ...]
    batch_size: int
    grid: int
    size: int | None
    channels: int | None
    on_bad: str
    network: str
    seed: int

    @property
    def split(self) -> "Split":
        """Its images."""
        reading = self.size, self.channels, self.on_bad
        return Split(self.data, self.heldout, self.n_drawn, self.n_heldout, *reading, self.seed)

    @property
    def training(self) -> "Cell":
        """The cell that names this one's training: the same one for all whose network is the same at every step."""
        return replace(self, method=trained_as(self.method))

    @property
    def key(self) -> str:
        """A name for the file that keeps this cell."""
        # `on_bad` may not matter: cells are held against the images that were read.
        fields = {k: v for k, v in asdict(self).items() if k != "on_bad" and (k, v) != ("channels", None)}
        digest = hashlib.sha256(json.dumps([VERSION, fields]).encode()).hexdigest()[:12]
        return f"{self.method.replace('/', '-').replace('=', '')}-n{self.n_train}-s{self.seed}-{digest}"


class Split(NamedTuple):
    """Which images are trained on and which are held out; cells that agree in it share them."""

    data: str
    heldout: str
    n_drawn: int
    n_heldout: int
    size: int | None
    channels: int | None
    on_bad: str
    seed: int

    @property
    def reading(self) -> dict[str, Any]:
        """How images are read: options of `temperance.data.load`."""
        return {"size": self.size, "channels": self.channels, "on_bad": self.on_bad}


def run(
    cells: Sequence[Cell], tick: Callable[[int], None] = lambda steps: None, device: str = "cpu"
) -> list[list[dict[str, Any]]]:
    """Train once and score what each cell's method draws: for every cell a row at every look.

    The network is on `device`, the measuring on the CPU.

    Raises:
        ValueError: if the cells do not have one `training`.
    """
    if len({cell.training for cell in cells}) != 1:
        raise ValueError("cells that are run together must be of one training")
    cell = cells[0]
    sets = _sets(cell.split)
    against = yardstick(sets.train[: cell.n_train].tensor(), sets.heldout.tensor(), sets.encoder)
    method = METHODS[cell.method]
    if method.closed:
        denoiser = closed_form(against.train, method.closed, **method.recipe)
        drawn = _row(cell, denoiser, edm_for(against.train.flatten(1)), against)
        return [[_facts(cell, 0, 0.0) | drawn]]
    return _trained(cells, against, tick, device)


def check(cell: Cell) -> list[str]:
    """Try a cell's images, their split and its network without training anything.

    Returns what a kept cell must agree in: the images' fingerprints and, where the network is that of a model folder,
    what it looks like, since a folder may change.

    Raises:
        ValueError: in one line, if the cell could not run.
    """
    same = cell.data == cell.heldout
    reading = cell.split.reading
    images = check_sets(cell.data, cell.n_drawn, cell.n_heldout if same else 0, **reading)
    unseen = images if same else load(cell.heldout, progress=False, **reading)
    if images.pixels.shape[1:] != unseen.pixels.shape[1:]:
        raise ValueError(
            f"{cell.data} is {_shape(images)} and {cell.heldout} is {_shape(unseen)}; they must be alike: use --size or"
            " --channels"
        )
    if not same:
        heldout = _drawn(cell.split)[1]
        if len(heldout) < 12:
            raise ValueError(
                f"{cell.heldout} leaves {len(heldout)} images that are not trained on; at least 12 are needed"
            )
    ready = prepare(Recipe(objective="conditional", network=cell.network), images[: cell.n_drawn].tensor())
    found = [images.fingerprint, unseen.fingerprint]
    if cell.network not in ("auto", "mlp", "unet"):
        found.append(hashlib.sha256(str(ready.denoiser).encode()).hexdigest())
    return found


def _shape(images: Images) -> str:
    return "x".join(map(str, images.pixels.shape[1:]))


@lru_cache(maxsize=4)  # a worker's next cell is often of the same split, and its encoder takes some seconds
def _sets(of: Split) -> Sets:
    if of.data == of.heldout:
        return draw_sets(of.data, of.n_drawn, of.n_heldout, of.seed, **of.reading)
    train, heldout, rest = _drawn(of)
    return Sets(train, heldout, encoder_from(rest))


def _drawn(of: Split) -> tuple[Images, ...]:
    """Training images, held-out images that are none of them, and the rest of `data` that is neither."""
    images = load(of.data, progress=False, **of.reading)
    train, rest = split(images, (of.n_drawn, len(images) - of.n_drawn), of.seed)
    others = unlike(load(of.heldout, progress=False, **of.reading), train)
    heldout, _ = split(others, (min(of.n_heldout, len(others)), max(0, len(others) - of.n_heldout)), of.seed)
    return train, heldout, unlike(rest, heldout)


def _trained(
    cells: Sequence[Cell], against: Yardstick, tick: Callable[[int], None], device: str
) -> list[list[dict[str, Any]]]:
    cell = cells[0]
    ready, settings = _prepared(cell, METHODS[cell.method], against)
    judged = _with_mirrors(against) if ready.recipe.flips else against
    rows: list[list[dict[str, Any]]] = [[] for _ in cells]
    kept: dict[int, nn.Module] = {}

    @cache
    def begin(width: str) -> Start | None:
        return smoothed_start(against.train, width) if width else None

    began, spent, seen = time.perf_counter(), 0.0, 0

    def visit(step: int, model: Model) -> None:
        nonlocal spent, seen
        start, look = time.perf_counter(), step in cell.looks
        if look or step - seen >= cell.steps / 200:
            tick(step - seen)
            seen = step
        if not look:
            return
        if any(METHODS[each.method].guidance != 1 for each in cells):
            kept[step] = copy.deepcopy(model.denoiser)
        for each, found in zip(cells, rows):
            denoiser = _drawing(METHODS[each.method], model.denoiser, kept, step)
            if denoiser is not None:
                row = _row(each, denoiser, model.schedule, judged, device, begin(METHODS[each.method].start))
                found.append(_facts(each, step, start - began - spent) | row)
        spent += time.perf_counter() - start

    fit(ready, against.train, settings, progress=False, device=device, visit=visit)
    return rows


def _with_mirrors(against: Yardstick) -> Yardstick:
    """The same for training on mirror images too: a copy of one is a copy."""
    rows = with_mirrors(against.train)
    group = mirror_groups(rows)
    near, own = (proximity(x.flatten(1), rows.flatten(1), group) for x in (against.heldout, against.train))
    return replace(against, train=rows, group=group, null=near, spacing=own.second)


def _prepared(cell: Cell, method: Method, against: Yardstick) -> tuple[Prepared, Settings]:
    every = 1 if len(cell.looks) > 1 else cell.steps
    settings = Settings(
        steps=cell.steps, batch_size=cell.batch_size, checkpoint_every=every, seed=cell.seed, **method.settings
    )
    ready = prepare(Recipe(network=cell.network, **method.recipe), against.train, seed=cell.seed)
    if method.objective is not None:
        ready = replace(ready, objective=method.objective(ready, against.train))
    if method.dropout:
        add_dropout(ready.denoiser, method.dropout)
    return ready, settings


def _drawing(method: Method, denoiser: nn.Module, kept: dict[int, nn.Module], step: int) -> nn.Module | None:
    """What a method samples with at a look; nothing where no earlier look could guide it yet."""
    if method.guidance == 1:
        return denoiser
    weaker = max((s for s in kept if s <= method.share * step + 0.5), default=None)  # looks are rounded
    return None if weaker is None else Autoguided(kept[step], kept[weaker], method.guidance)


def _facts(cell: Cell, step: int, seconds: float) -> dict[str, Any]:
    return {"method": cell.method, "seed": cell.seed, "steps": step, "train_seconds": seconds}


def _row(
    cell: Cell,
    denoiser: nn.Module | Any,
    schedule: Any,
    against: Yardstick,
    device: str = "cpu",
    start: Start | None = None,
) -> dict[str, Any]:
    name = usual(told=METHODS[cell.method].recipe.get("objective") != "unconditional")
    began = time.perf_counter()
    shape = against.train.shape[1:]
    drawn = draw(
        denoiser, schedule, SAMPLERS[name], shape, cell.seed, range(cell.n_samples), grid=cell.grid, device=device,
        start=start,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    measured, _ = judge(drawn, schedule, against)
    measured["nfe"] *= 2 if isinstance(denoiser, Autoguided) else 1
    return {"sampler": name, **measured, "sample_seconds": seconds}
