"""How noisy must the start be? Samples of closed forms from several largest noise levels: python -m benchmarks.start.

Sampling starts at sigma_max times white noise around zero, whatever the mean of the data. Closed forms have no error of
a network, so that what changes with sigma_max is the start's. `at the mean` starts around the mean image instead.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

from benchmarks.common import draw_split, split_arguments
from torch import Tensor

from temperance.denoiser import Denoiser
from temperance.recipe import closed_form
from temperance.sample import Noise, Samples, heun
from temperance.schedule import edm_for
from temperance.scorecard import score
from temperance.trial import draw

FACTORS = (0.0, 1.5, 3.0, 6.0)  # times the length of the mean image
DRAWS = 3
KEYS = ("fd_heldout", "fd_floor", "precision", "recall", "copy_auc")


def measured(plan: argparse.Namespace) -> Iterator[dict[str, Any]]:
    train, against = draw_split(plan)
    points = train.tensor()
    schedule, mean = edm_for((points - points.mean(0)).flatten(1)), points.mean(0)

    def at_the_mean(denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise | None = None) -> Any:
        return heun(denoiser, x + mean, sigmas, noise)

    levels = [max(schedule.sigma_max, factor * float(mean.norm())) for factor in FACTORS]
    starts = [(f"{factor:g} x |mean|", level, heun) for factor, level in zip(FACTORS, levels)]
    for form in ("empirical", "tangent"):
        denoiser = closed_form(points, form)
        for name, level, sampler in [*starts, ("at the mean", schedule.sigma_max, at_the_mean)]:
            walked = replace(schedule, sigma_max=level)

            def drawn(seed: int, walked: Any = walked, sampler: Any = sampler, denoiser: Any = denoiser) -> Samples:
                return draw(denoiser, walked, sampler, points.shape[1:], seed, range(plan.samples))

            rows = [score(drawn(seed).x.clamp(-1, 1), against)[0] for seed in range(DRAWS)]
            yield {
                "form": form,
                "start": name,
                "sigma_max": level,
                **{k: fmean(float(r[k]) for r in rows) for k in KEYS},
            }


if __name__ == "__main__":
    parser = split_arguments(__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    plan = parser.parse_args()
    found = []
    for row in measured(plan):
        found.append(row)
        if not plan.json:
            figures = "  ".join(f"{key} {row[key]:.3g}" for key in ("sigma_max", *KEYS))
            print(f"{row['form']:10s} {row['start']:14s} {figures}", flush=True)
    if plan.json:
        print(json.dumps({"rows": found}))
