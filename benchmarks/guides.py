r"""Autoguidance by earlier models of the same run: which one, and on what the run is trained.

    python -m benchmarks.guides [--quick]
    python -m benchmarks.guides --data emoji --size 16 --heldout 1000 --step 400 --step 800 --step 1600 --step 3200
    python -m benchmarks.guides --data emoji --size 16 --heldout 1000 --train exact --step 400 --step 1600
    python -m benchmarks.guides --train conditional --batch-size 128 --step 66 --step 133 --step 265 --step 530
    python -m benchmarks.guides --data mnist5k --size 16 --heldout 1000 --network mlp --train exact --scale 1.5 \
        --batch-size 128 --step 750 --step 6000

The network is trained once; every `--step` is judged alone and guided by every earlier one. `--train exact` is
tangent smoothing with the mean of the displaced images to regress on. `--scale` multiplies the automatic width h.
"""

import argparse
import copy
from dataclasses import replace

import torch
from benchmarks.common import draw_split, judge, split_arguments
from torch import Tensor, nn

from temperance.autoguidance import WEIGHT, Autoguided
from temperance.hub import Model
from temperance.objective import ExactTangent, TangentSmoothed
from temperance.recipe import Prepared, Recipe, fit, prepare
from temperance.train import Settings

STEPS = (250, 500, 1000, 2000)


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--train", choices=("conditional", "tangent", "exact"), default="tangent")
    parser.add_argument("--network", choices=("auto", "mlp", "unet"), default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="times the automatic h")
    parser.add_argument("--step", type=int, action="append", help=f"may be repeated (default: {STEPS})")
    parser.add_argument("--weight", type=float, action="append", help=f"may be repeated (default: {WEIGHT})")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = [s // 40 if options.quick else s for s in options.step or STEPS]
    run(options, steps, options.weight or [WEIGHT])


def run(options: argparse.Namespace, steps: list[int], weights: list[float]) -> None:
    """Train once and judge every step and every pair of steps."""
    train, against = draw_split(options)
    points = train.tensor()
    ready = prepared(options, points)
    kept: dict[int, nn.Module] = {}

    def visit(step: int, model: Model) -> None:
        if step not in steps:
            return
        ours = copy.deepcopy(model.denoiser).eval()
        judge(f"{step}", ours, model.schedule, against, options.seed)
        for weaker, other in kept.items():
            for weight in weights:
                name = f"{step} guided by {weaker}, weight {weight:g}"
                judge(name, Autoguided(ours, other, weight), model.schedule, against, options.seed)
        kept[step] = ours

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)


def prepared(options: argparse.Namespace, points: Tensor) -> Prepared:
    """The network and the objective that the options name."""
    if options.train == "conditional":
        return prepare(Recipe(objective="conditional", network=options.network), points, seed=options.seed)
    ready = prepare(Recipe(objective="tangent", network=options.network), points, seed=options.seed)
    assert isinstance(ready.objective, TangentSmoothed)
    tangent = replace(ready.objective, h=ready.objective.h * options.scale)
    print(f"h {tangent.h:.3g}", flush=True)
    return replace(ready, objective=ExactTangent(tangent) if options.train == "exact" else tangent)


if __name__ == "__main__":
    main()
