"""How far sampling strays on the levels of every process: Heun's method, and what is taken where levels lie far apart.

    python -m benchmarks.step [--quick] [--json]     seconds; --quick: fewer levels to compare with

The denoiser is exact, the closed form of tangent smoothing on 100 digits, so that what is wrong is the sampler's.
Median distance of 24 images from the same noise walked in 900 small steps that cannot overshoot, by process and number
of levels, for several ratios of levels above which the exponential rule is taken (`temperance.step.FAR`; inf: Heun's
method throughout, 1: never). Beside it `largest_ratio` of two levels next to each other, and once `apart`, the median
distance of two training images.
"""

import math
import warnings
from collections.abc import Iterator

import torch
from benchmarks.common import arguments, show
from torch import Tensor

from temperance import step
from temperance.data import load
from temperance.denoiser import Denoiser, level
from temperance.engine import EmpiricalDenoiser, neighbor_table
from temperance.sample import Noise, NotConverged, Sampler, heun, integrate
from temperance.schedule import Flow, Schedule, Ve, Vp, edm_for, levels

RATIOS = (math.inf, step.FAR, 2.0, 1.0)
LEVELS = (10, 20)
IMAGES = 24


def main() -> None:
    options = arguments()
    points = load("digits[:100]", progress=False).tensor()
    table = neighbor_table(points.flatten(1), 10)
    exact = EmpiricalDenoiser(points, "tangent", neighbors=table, h=0.9)
    schedules = {
        "edm": edm_for(points.flatten(1)), "ve": Ve(), "vp_linear": Vp("linear"), "vp_cosine": Vp("cosine"),
        "flow": Flow(),
    }  # fmt: skip
    fine = 200 if options.quick else 900
    found = {name: [*off(exact, schedule, points.shape[1:], fine)] for name, schedule in schedules.items()}
    show({"apart": float(torch.pdist(points.flatten(1)).median()), **found}, options.json)


def off(denoiser: EmpiricalDenoiser, schedule: Schedule, shape: tuple[int, ...], fine: int) -> Iterator[dict]:
    """A row for every number of levels: how far the samples lie from those of `fine` small steps, by ratio."""

    def plainly(x: Tensor, sigma: Tensor | None) -> Tensor:
        return denoiser(x, sigma)  # a function walks no way of its own

    right = walked(small, plainly, shape, levels(schedule, fine))
    for count in LEVELS:
        sigmas = levels(schedule, count)
        row = {"levels": count, "largest_ratio": float((sigmas[:-1] / sigmas[1:]).max())}
        for ratio in RATIOS:
            step.FAR = ratio
            row[f"from_{ratio:g}"] = float(
                (walked(heun, plainly, shape, sigmas) - right).flatten(1).norm(dim=1).median()
            )
        yield row


def walked(sampler: Sampler, denoiser: Denoiser, shape: tuple[int, ...], sigmas: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # that is the question
        return integrate(sampler, denoiser, shape, sigmas, Noise(0, range(IMAGES))).x


def small(denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Exponential steps of first order: a mean of the image and what it is denoised to."""
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        x = torch.lerp(denoiser(x, level(now, x)), x, then / now)
        yield x


if __name__ == "__main__":
    main()
