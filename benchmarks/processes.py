"""Every process with every objective on digits: does it train, and does its own sampler finish on images?

python -m benchmarks.processes --json
python -m benchmarks.processes --process flow --objective unconditional --json

A row: evaluations, share of samples converged, whether all are finite, their root mean square, and the mean distance to
the nearest held-out image, beside the same of real training images. Objective `unconditional-levels` is the other
reading of noise-unconditional for vp and flow: the network is `Blind` and sees y / alpha (decision 0007).
"""

import argparse
import json
import warnings
from dataclasses import replace

from torch import Tensor

from temperance.data import load
from temperance.distance import nearest
from temperance.hub import new_denoiser
from temperance.network import ResidualMlp
from temperance.objective import NoiseUnconditional
from temperance.recipe import OBJECTIVES, PROCESSES, Prepared, Recipe, fit, prepare
from temperance.sample import Noise, NotConverged, adaptive, heun, integrate
from temperance.schedule import levels
from temperance.train import Settings


def closeness(x: Tensor, heldout: Tensor) -> float:
    return float(nearest(x.flatten(1).clamp(-1, 1), heldout, 1).distance.mean())


def prepared(process: str, objective: str, points: Tensor) -> Prepared:
    if objective != "unconditional-levels":
        return prepare(Recipe(objective, process, network="mlp"), points)
    ready = prepare(Recipe("unconditional", process, network="mlp"), points)
    denoiser = new_denoiser(ResidualMlp(points[0].numel()), points, told=False)
    return replace(ready, objective=NoiseUnconditional(ready.schedule), denoiser=denoiser)


def row(process: str, objective: str, steps: int, points: Tensor, heldout: Tensor) -> dict[str, float | str | bool]:
    ready = prepared(process, objective, points)
    model = fit(ready, points, Settings(steps=steps), progress=False, device="cpu")
    sampler, count = (heun, 20) if model.told else (adaptive, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # counted below
        drawn = integrate(sampler, model.denoiser, model.shape, levels(model.schedule, count), Noise(0, range(200)))
    return {
        "process": process, "objective": objective, "sampler": sampler.__name__, "nfe": drawn.nfe,
        "converged": float(drawn.converged.float().mean()), "finite": bool(drawn.x.isfinite().all()),
        "rms": round(float(drawn.x.square().mean().sqrt()), 3), "to_heldout": round(closeness(drawn.x, heldout), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", choices=list(PROCESSES), action="append")
    parser.add_argument("--objective", choices=[*OBJECTIVES, "unconditional-levels"], action="append")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    points, heldout = load("digits[:300]").tensor(), load("digits[300:800]").tensor().flatten(1)
    rows = [
        row(process, objective, 100 if given.quick else given.steps, points, heldout)
        for process in given.process or PROCESSES
        for objective in given.objective or OBJECTIVES
    ]
    real = {"rms": float(points.square().mean().sqrt()), "to_heldout": closeness(points[:200], heldout)}
    print(json.dumps({"rows": rows, "train": real}))


if __name__ == "__main__":
    main()
