"""An idea against copying: tangent smoothing first, to learn much, plain training last, to sharpen, for a little.

    python -m benchmarks.finishing [--quick]
    python -m benchmarks.finishing --data emoji --size 16 --heldout 1000 --first 1600
    python -m benchmarks.finishing --data mnist5k --size 16 --heldout 1000 --seed 100 --first 800 --first 1600

The default network is trained by tangent smoothing; from each `--first` step its average is trained on by conditional
training, with a new optimizer, and both are judged.
"""

import argparse
import copy
from dataclasses import replace

import torch
from benchmarks.common import draw_split, judge, split_arguments
from torch import nn

from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.train import Settings

FIRST = (2000,)
LAST = (50, 100, 200, 400, 800)


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--first", type=int, action="append", help=f"steps of tangent smoothing (default: {FIRST})")
    parser.add_argument("--last", type=int, action="append", help=f"steps of plain training (default: {LAST})")
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    options = parser.parse_args()
    scale = 40 if options.quick else 1
    torch.set_num_threads(1)
    first, last = ([max(1, s // scale) for s in steps] for steps in (options.first or FIRST, options.last or LAST))
    run(options, first, last)


def run(options: argparse.Namespace, first: list[int], last: list[int]) -> None:
    """Train by tangent smoothing, and on from every step of `first`."""
    train, against = draw_split(options)
    points = train.tensor()

    def finished(start: int, denoiser: nn.Module) -> None:
        ready = prepare(Recipe(objective="conditional"), points)
        ready = replace(ready, denoiser=copy.deepcopy(denoiser).requires_grad_(True).train())

        def visit(step: int, model: Model) -> None:
            if step in last:
                judge(f"tangent {start}, conditional {step}", model.denoiser, model.schedule, against, options.seed)

        fit(ready, points, settings(max(last), options.seed + 1), progress=False, device="cpu", visit=visit)

    def visit(step: int, model: Model) -> None:
        if step in first:
            judge(f"tangent {step}", model.denoiser, model.schedule, against, options.seed)
            finished(step, model.denoiser)

    ready = prepare(Recipe(objective="tangent"), points, seed=options.seed)
    fit(ready, points, settings(max(first), options.seed), progress=False, device="cpu", visit=visit)


def settings(steps: int, seed: int) -> Settings:
    """Batches of 32, every step visited."""
    return Settings(steps=steps, batch_size=32, checkpoint_every=1, seed=seed)


if __name__ == "__main__":
    main()
