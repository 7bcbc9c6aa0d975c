"""Quality against evaluations: every sampler on models of every objective. The table of docs/sampling.md.

python -m benchmarks.samplers [--quick] [--json] [--data digits] [--cache FOLDER]

Digits: the demo's plan and network, 100 training images, three seeds. Fashion: 300 images at 16x16, 3,000 steps of a
perceptron as wide as they need, three seeds; `--network unet` takes the UNet, about 1 s a training step on one core.
Every trained model and every finished row is kept in the cache folder, so that a run that was stopped goes on where it
was, and several may work side by side. One thread. 2 to 5 minutes of one core for each objective, data set and seed.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.common import say, show
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from temperance import hub
from temperance.atomic import write_json
from temperance.demo import Plan
from temperance.denoiser import denoised_from_eps, denoised_from_velocity, expand
from temperance.hub import Model
from temperance.network import Preconditioned
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import SAMPLERS, Noise, NotConverged, integrate
from temperance.scorecard import Yardstick, score, yardstick
from temperance.train import Settings
from temperance.trial import draw_sets

# No option below was tuned: steps and momentum are the samplers' defaults, or twice them.
SEEDS = {"digits": (10, 11, 12), "fashion": (10, 11, 12)}
PLANS = {
    "digits": Plan(),
    "fashion": Plan(data="fashion[:6000]", size=16, n_train=300, steps=3000),
}
Column = tuple[str, int, dict[str, Any]]  # sampler, levels, options
COLUMNS: dict[str, Column] = {
    "heun 10": ("heun", 10, {}),
    "heun 20": ("heun", 20, {}),
    "dpm 20": ("dpm", 20, {}),
    "dpm 40": ("dpm", 40, {}),
    "ancestral 50": ("ancestral", 50, {}),
    "ancestral 1000": ("ancestral", 1000, {}),
    "pc 25": ("pc", 25, {}),
    "pc 500": ("pc", 500, {}),
    "adaptive .1": ("adaptive", 2, {"step": 0.1}),
    "adaptive .2": ("adaptive", 2, {"step": 0.2}),
    "nesterov .1": ("nesterov", 2, {"step": 0.1}),
    "annealed .1": ("annealed", 2, {"step": 0.1}),
}
OBJECTIVES = ("conditional", "unconditional", "temperature", "tangent")
DEAF = ("unconditional-edm", "unconditional-eps", "unconditional-velocity")


class Deaf(nn.Module):
    """A network that never hears the noise level, between input and output scalings that know it.

    `edm`: uEDM (arXiv 2502.13129); `eps` and `velocity`: the two outputs compared in arXiv 2602.18428.
    """

    def __init__(self, network: nn.Module, sigma_data: float, output: str):
        super().__init__()
        self.network, self.sigma_data, self.output = network, sigma_data, output

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        nothing = torch.zeros_like(sigma)
        if self.output == "edm":
            return Preconditioned(lambda y, _: self.network(y, nothing), self.sigma_data)(x, sigma)  # type: ignore[arg-type]
        s = expand(sigma, x)
        if self.output == "eps":
            return denoised_from_eps(x, self.network(x / (s**2 + self.sigma_data**2).sqrt(), nothing), sigma)
        return denoised_from_velocity(x, self.network(x / (1 + s), nothing), sigma)


def trained(plan: Plan, objective: str, network: str, seed: int, points: Tensor, cache: Path) -> Model:
    """The model of one cell, from the cache if it is there."""
    output = objective.partition("-")[2]
    ready = prepare(Recipe(objective="conditional" if output else objective, network=network), points, seed=seed)
    folder = cache / f"{name_of(plan, network)}-{seed}-{objective}"
    settings = Settings(seed=seed, **plan.settings)
    if not output:
        if not folder.is_dir():
            hub.save(folder, fit(ready, points, settings, progress=True, device="cpu"))
        return hub.load(folder)
    denoiser = Deaf(ready.denoiser.network, float(points.square().mean().sqrt()), output)  # type: ignore[arg-type]
    file = folder.with_suffix(".safetensors")
    if file.is_file():
        denoiser.load_state_dict(load_file(file))
        return Model(denoiser.eval(), ready.schedule, tuple(points.shape[1:]), {})  # type: ignore[arg-type]
    model = fit(replace(ready, denoiser=denoiser), points, settings, progress=True, device="cpu")
    save_file(model.denoiser.state_dict(), file)
    return model


def row(plan: Plan, model: Model, column: Column, seed: int, against: Yardstick) -> dict[str, Any]:
    """One sampler on one model: its figures."""
    sampler, levels, options = column
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        for start in range(0, plan.n_samples, 250):
            index = range(start, min(plan.n_samples, start + 250))
            grid = model.schedule.grid(levels)
            parts.append(integrate(SAMPLERS[sampler], model.denoiser, model.shape, grid, Noise(seed, index), **options))
    drawn, _ = score(torch.cat([p.x for p in parts]).nan_to_num(0, 9, -9).clamp(-1, 1), against)
    final = torch.cat([p.final_sigma for p in parts])
    return {
        "nfe": max(p.nfe for p in parts),
        **drawn,
        "final_sigma": float(final.nan_to_num(999).mean()),
        "converged": float(torch.cat([p.converged for p in parts]).float().mean()),
    }


def name_of(plan: Plan, network: str) -> str:
    """What the cache calls a data set, its network and its training steps."""
    return f"{plan.data.partition('[')[0]}-{plan.steps}" + ("" if network == "mlp" else f"-{network}")


def rows_of(
    plan: Plan, network: str, seed: int, objectives: tuple[str, ...], columns: list[str], cache: Path
) -> list[dict]:
    """Every row of one split; what the cache holds is not computed again."""
    sets: list[Yardstick] = []

    def against() -> Yardstick:
        if not sets:
            train, heldout, encoder = draw_sets(plan.data, plan.n_train, plan.n_heldout, seed, size=plan.size)
            sets.append(yardstick(train.tensor(), heldout.tensor(), encoder))
        return sets[0]

    found = []
    name = name_of(plan, network)
    for objective in objectives:
        for column in tqdm(columns, desc=f"{name} {seed} {objective}", unit="row"):
            file = cache / f"{name}-{seed}-{objective}-{column.replace(' ', '_')}.json"
            if not file.is_file():
                model = trained(plan, objective, network, seed, against().train, cache)
                write_json(file, row(plan, model, COLUMNS[column], seed, against()))
            key = {"data": name, "seed": seed, "objective": objective, "sampler": column}
            found.append(key | json.loads(file.read_text()))
    return found


def table(rows: list[dict], value: Callable[[dict], float], form: str) -> str:
    """Means over seeds, samplers down and objectives across, as Markdown."""
    objectives = list(dict.fromkeys(r["objective"] for r in rows))
    lines = [f"| sampler | {' | '.join(objectives)} |", f"|---{'|---' * len(objectives)}|"]
    for column in dict.fromkeys(r["sampler"] for r in rows):
        cells = []
        for objective in objectives:
            group = [value(r) for r in rows if (r["sampler"], r["objective"]) == (column, objective)]
            cells.append(form.format(sum(group) / len(group)) if group else "")
        lines.append(f"| {column} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cached_arguments(description: str | None, *, data: str, help_: str) -> argparse.ArgumentParser:
    """A parser of the options that every benchmark over trained models takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default=data, help=help_)
    parser.add_argument("--cache", type=Path, default=Path("samplers-cache"), help="models and rows that are done")
    return parser


def main() -> None:
    parser = cached_arguments(__doc__, data="digits,fashion", help_="digits, fashion or both")
    parser.add_argument("--quick", action="store_true", help="one seed, 300 steps, digits: a check that it runs")
    parser.add_argument("--seed", type=int, action="append", help="instead of the reported seeds; may be repeated")
    parser.add_argument("--objective", action="append", help="instead of all; may be repeated")
    parser.add_argument("--network", default="mlp", help="mlp or unet (16x16 only)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in ("digits",) if options.quick else options.data.split(","):
        plan = replace(PLANS[name], steps=300, n_samples=100) if options.quick else PLANS[name]
        columns = ["heun 20", "dpm 40", "adaptive .1"] if options.quick else list(COLUMNS)
        every = OBJECTIVES if options.quick else (*OBJECTIVES, *DEAF)
        for seed in options.seed or (SEEDS[name][:1] if options.quick else SEEDS[name]):
            rows += rows_of(plan, options.network, seed, tuple(options.objective or every), columns, options.cache)
    if not options.json:
        for name in dict.fromkeys(r["data"] for r in rows):
            some = [r for r in rows if r["data"] == name]
            for title, key, form in (
                ("evaluations", "nfe", "{:.0f}"),
                ("Frechet distance to held-out", "fd_heldout", "{:.2f}"),
                ("recall", "recall", "{:.2f}"),
                ("memorized", "memorized_fraction", "{:.2f}"),
                ("converged", "converged", "{:.2f}"),
            ):
                say(f"\n{name}: {title} (FD of train: {fmean(r['fd_floor'] for r in some):.2f})")
                print(table(some, lambda r, key=key: r[key], form))
        return
    show({"rows": rows}, True)


if __name__ == "__main__":
    main()
