"""The main job in one command: train every method on the same few images, sample, and show who copies."""

import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from temperance.data import to_uint8
from temperance.denoiser import Denoiser
from temperance.distance import nearest
from temperance.hub import Model
from temperance.metrics import Proximity
from temperance.recipe import CLOSED_FORMS, OBJECTIVES, Recipe, closed_form, fit, prepare
from temperance.report import Distances, Neighbor, Pair, Series, comparison, write_json, write_page
from temperance.sample import SAMPLERS, heun, usual
from temperance.schedule import Schedule, edm_for
from temperance.scorecard import Yardstick, score, yardstick
from temperance.train import Settings
from temperance.trial import check_sets, draw, draw_sets, judge
from temperance.versions import versions
from temperance.workers import check_single, spread

ACCEPTED = 0.05  # early stopping: the memorized fraction that is still accepted on a draw of its own
SHOWN = 12  # closest pairs kept for each gallery
VALIDATION = 1_000_000  # sample indices from here on decide when to stop, and are not reported


@dataclass(frozen=True)
class Plan:
    """The size of a demo."""

    data: str = "digits"
    n_train: int = 100
    n_heldout: int = 700
    n_samples: int = 500
    steps: int = 6000
    grid: int = 20
    seeds: tuple[int, ...] = (0, 1)
    size: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Training settings common to all methods; one 25th of the steps between looks for the early stop."""
        return {"steps": self.steps, "batch_size": 128, "checkpoint_every": max(1, self.steps // 25)}


@dataclass(frozen=True, eq=False)
class Result:
    """One row with the pictures behind it, small enough to travel between processes."""

    row: dict[str, Any]
    d1: np.ndarray
    ratio: np.ndarray
    pairs: tuple[Pair, ...]
    null: tuple[np.ndarray, np.ndarray]


def demo(plan: Plan, out: Path, *, progress: bool = True) -> list[dict[str, Any]]:
    """Run the plan and write `out/report.html` and `out/results.json`; returns the rows.

    Seeds and methods are spread over the processor's cores, one thread each, so that results do not depend on how
    many there are. Cost: about four minutes on two cores for the default plan.

    Raises:
        ValueError: if the data cannot be used, or under torchrun.
    """
    check_single("demo")
    check_sets(plan.data, plan.n_train, plan.n_heldout, size=plan.size)  # before anything is written or started
    out.mkdir(parents=True, exist_ok=True)
    names = (*OBJECTIVES, *(f"closed-form-{name}" for name in CLOSED_FORMS))
    jobs = [(plan, seed, name) for seed in plan.seeds for name in names]
    began = time.perf_counter()
    total = sum(plan.steps if name in OBJECTIVES else 0 for plan, _, name in jobs)
    found = spread(job, jobs, total=total, unit="step", label="demo", progress=progress)
    results = [result for results in found for result in results]
    order = {name: i for i, name in enumerate(_order())}
    results.sort(key=lambda r: (order[r.row["method"]], r.row["seed"]))
    rows = [r.row for r in results]
    provenance = _provenance(plan, time.perf_counter() - began)
    write_json(out / "results.json", {"schema": 1, "rows": rows, "provenance": provenance})
    write_page(_page(plan, results, provenance), out / "report.html")
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Means over seeds as a Markdown table: what `temperance demo` prints."""
    head = (
        "method",
        "sampler",
        "memorized",
        "held-out",
        "median d1/d2",
        "copy AUC",
        "FD held-out",
        "recall",
        "precision",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in dict.fromkeys(r["method"] for r in rows):
        group = [r for r in rows if r["method"] == name]
        keys = (
            "memorized_fraction",
            "heldout_memorized_fraction",
            "ratio_median",
            "copy_auc",
            "fd_heldout",
            "recall",
            "precision",
        )
        means = [sum(r[k] for r in group) / len(group) for k in keys]
        shown = " | ".join(f"{m:.1f}" if k == "fd_heldout" else f"{m:.2f}" for k, m in zip(keys, means))
        lines.append(f"| {name} | {group[0]['sampler']} | {shown} |")
    return "\n".join(lines)


def _order() -> tuple[str, ...]:
    plain, *others = OBJECTIVES
    return (plain, f"{plain}-early-stopped", *others, *(f"closed-form-{name}" for name in CLOSED_FORMS))


def job(plan: Plan, seed: int, name: str, tick: Callable[[int], None] = lambda n: None) -> list[Result]:
    """One method on one split, in a process of its own."""
    train, heldout, encoder = draw_sets(plan.data, plan.n_train, plan.n_heldout, seed, size=plan.size)
    against = yardstick(train.tensor(), heldout.tensor(), encoder)
    if name in OBJECTIVES:
        return _trained(plan, seed, name, against, tick)
    return [_closed_form(plan, seed, name.removeprefix("closed-form-"), against)]


def _trained(plan: Plan, seed: int, name: str, against: Yardstick, tick: Callable[[int], None]) -> list[Result]:
    """Train one method; for the conditional one, also keep its last checkpoint that hardly copied."""
    settings = Settings(seed=seed, **plan.settings)
    began = spent = 0.0  # spent on looking, not training
    kept: dict[str, Any] = {}

    def visit(step: int, model: Model) -> None:
        nonlocal spent
        tick(min(settings.checkpoint_every, step))
        if name != "conditional" or kept.get("closed"):
            return
        start = time.perf_counter()
        index = range(VALIDATION, VALIDATION + 200)
        drawn = draw(model.denoiser, model.schedule, heun, against.train.shape[1:], seed, index, grid=plan.grid)
        row, _ = score(drawn.x.clamp(-1, 1), against)
        if row["memorized_fraction"] <= ACCEPTED:
            weights = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
            kept.update(step=step, weights=weights, seconds=start - began - spent)
        else:
            kept["closed"] = True
        spent += time.perf_counter() - start

    ready = prepare(Recipe(objective=name, network="mlp"), against.train, seed=seed)
    began = time.perf_counter()
    model = fit(ready, against.train, settings, progress=False, device="cpu", visit=visit)
    seconds = time.perf_counter() - began - spent
    facts = {"seed": seed, "steps": settings.steps, "train_seconds": seconds}
    found = [_finish(plan, name, model.denoiser, model.schedule, against, facts)]
    if "weights" in kept:
        model.denoiser.load_state_dict(kept["weights"])
        facts = {"seed": seed, "steps": kept["step"], "train_seconds": kept["seconds"]}
        found.append(_finish(plan, "conditional-early-stopped", model.denoiser, model.schedule, against, facts))
    return found


def _closed_form(plan: Plan, seed: int, name: str, against: Yardstick) -> Result:
    """A training-free row: the method's closed-form denoiser, sampled like a network."""
    points = against.train
    schedule = edm_for(points.flatten(1))
    denoiser = closed_form(points, name)
    facts = {"seed": seed, "steps": 0, "train_seconds": 0.0}
    return _finish(plan, f"closed-form-{name}", denoiser, schedule, against, facts)


def _finish(
    plan: Plan, method: str, denoiser: Denoiser, schedule: Schedule, against: Yardstick, facts: dict[str, Any]
) -> Result:
    name = usual(told=method != "unconditional")
    began = time.perf_counter()
    index = range(plan.n_samples)
    drawn = draw(denoiser, schedule, SAMPLERS[name], against.train.shape[1:], facts["seed"], index, grid=plan.grid)
    seconds = time.perf_counter() - began
    measured, near = judge(drawn, schedule, against)
    row = {"method": method, "sampler": name, **facts, **measured, "sample_seconds": seconds}
    null = (against.null.distance.numpy(), against.null.ratio.numpy())
    return Result(row, near.distance.numpy(), near.ratio.numpy(), _pairs(drawn.x.clamp(-1, 1), near, against), null)


def _pairs(x: Float[Tensor, "n c h w"], near: Proximity, against: Yardstick) -> tuple[Pair, ...]:
    """The samples with the smallest d1/d2, each beside its three nearest training images."""
    worst = near.ratio.argsort()[:SHOWN]
    found = nearest(x[worst].flatten(1), against.train.flatten(1), 3)
    pictures, points = to_uint8(x[worst]), to_uint8(against.train)
    return tuple(
        Pair(
            f"sample {int(i)}",
            pictures[row],
            tuple(
                Neighbor(f"train {int(j)}", float(d), points[int(j)])
                for j, d in zip(found.index[row], found.distance[row])
            ),
            float(near.distance[i]),
            float(near.ratio[i]),
        )
        for row, i in enumerate(worst)
    )


def _page(plan: Plan, results: list[Result], provenance: dict[str, Any]) -> Any:
    first = [r for r in results if r.row["seed"] == plan.seeds[0]]
    series = [Series(r.row["method"], Distances(r.d1, r.ratio), r.pairs) for r in first]
    return comparison(
        [r.row for r in results],
        title=f"Who copies {plan.n_train} images of {plan.data}?",
        provenance=provenance,
        series=series,
        heldout=Distances(*first[0].null),
        notes=(
            f"{plan.n_train} training and {plan.n_heldout} held-out images, {plan.n_samples} samples a method,"
            f" {len(plan.seeds)} seeds: each seed is another split, initialization and noise.",
            f"conditional-early-stopped is the conditional run at its last checkpoint that copied at most"
            f" {ACCEPTED:.0%} on samples of its own; held-out images played no part in the choice.",
            "Histograms and galleries show the first seed.",
        ),
    )


def _command(plan: Plan) -> str:
    """The command line that repeats this plan."""
    size = "" if plan.size is None else f" --size {plan.size}"
    return (
        f"temperance demo --data {quote(plan.data)}{size} --steps {plan.steps} --samples {plan.n_samples}"
        f" --seed {plan.seeds[0]} --seeds {len(plan.seeds)}"
    )


def _provenance(plan: Plan, seconds: float) -> dict[str, Any]:
    return {
        "command": _command(plan),
        "plan": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(plan).items()},
        "seconds": round(seconds, 1),
        "versions": versions("temperance", "torch", "diffusers", "numpy"),
        "python": platform.python_version(),
        "processors": multiprocessing.cpu_count(),
    }
