"""How hard one sampling step pulls the two sides of a decision boundary apart: closed forms beside trained networks.

    python -m benchmarks.expansion
    python -m benchmarks.expansion --data mnist5k --size 16 --heldout 1000 --steps 3000

Medians of `expansion_factor` at 1/2, 1/8 and 1/32 of `sigma_collapse`. T = 100 is the strongest smoothing
for which arXiv 2601.19285 shows it; the factor of a network is the one it has learned, whatever it was trained on.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmarks.common import draw_split, split_arguments
from torch import Tensor

from temperance.denoiser import Denoiser
from temperance.diagnostics import collapse_sigma, expansion_factor
from temperance.engine import EmpiricalDenoiser
from temperance.recipe import Recipe, closed_form, fit, prepare
from temperance.train import Settings

PARTS = (2, 8, 32)  # of sigma_collapse
TRAINED = ("conditional", "unconditional", "temperature", "tangent")


def rows(plan: argparse.Namespace) -> Iterator[dict[str, Any]]:
    points = draw_split(plan)[0].tensor()
    collapse = collapse_sigma(points.flatten(1))

    def row(name: str, of: Callable[[float], Denoiser]) -> dict[str, Any]:
        return {"model": name, **{f"1/{p}": median(of(collapse / p), points, collapse / p) for p in PARTS}}

    yield row("empirical, closed form", lambda sigma: EmpiricalDenoiser(points))
    yield row(
        "T = 100, closed form",
        lambda sigma: EmpiricalDenoiser(points, "temperature", sigma_collapse=2 * sigma, temperature=100 * sigma),
    )
    tangent = closed_form(points, "tangent")
    yield row("tangent, closed form", lambda sigma: tangent)
    for objective in TRAINED:
        ready = prepare(Recipe(objective, network=plan.network), points, seed=plan.seed)
        settings = Settings(steps=plan.steps, batch_size=plan.batch_size, seed=plan.seed)
        denoiser = fit(ready, points, settings, progress=not plan.json, device="cpu").denoiser
        yield row(f"{objective}, network", lambda sigma, denoiser=denoiser: denoiser)


@torch.no_grad()
def median(denoiser: Denoiser, points: Tensor, sigma: float) -> float:
    return float(expansion_factor(denoiser, points, sigma).median())


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    plan = parser.parse_args()
    torch.set_num_threads(1)  # small networks are no faster with more
    found = []
    for row in rows(plan):
        found.append(row)
        if not plan.json:
            print(f"{row['model']:<24}" + "".join(f"  1/{p}: {row[f'1/{p}']:<8.3g}" for p in PARTS), flush=True)
    if plan.json:
        print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
