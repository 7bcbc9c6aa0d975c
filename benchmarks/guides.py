r"""Autoguidance by earlier models of the same run: which one, and on what the run is trained.

    python -m benchmarks.guides [--quick]
    python -m benchmarks.guides --data emoji --size 16 --heldout 1000 --step 400 --step 800 --step 1600 --step 3200
    python -m benchmarks.guides --data emoji --size 16 --heldout 1000 --train exact --step 400 --step 1600
    python -m benchmarks.guides --train conditional --batch-size 128 --step 66 --step 133 --step 265 --step 530
    python -m benchmarks.guides --data mnist5k --size 16 --heldout 1000 --network mlp --train exact --scale 1.5 \
        --batch-size 128 --step 750 --step 6000
    python -m benchmarks.guides --data mnist5k --size 16 --heldout 1000 --train conditional --augment .5
    python -m benchmarks.guides --data mnist5k --size 16 --heldout 1000 --train conditional --augment 1 --alone \
        --step 1600 --step 3200 --step 6400
    python -m benchmarks.guides --data fashion --size 16 --heldout 1000 --n 300 --train conditional --augment 1 \
        --change .33 --alone --step 1600 --step 3200 --step 6400

The network is trained once; every `--step` is judged alone and, without `--alone`, guided by every earlier one.
`--train exact` is tangent smoothing with the mean of the displaced images to regress on. `--scale` multiplies the
automatic width h; `--augment` is the share of images that are changed, told to the network, `--change` how much, 1
being the package's turns, sizes and shifts.
"""

import argparse
import copy

import torch
from benchmarks.common import draw_split, judge, split_arguments
from torch import Tensor, nn

from temperance.autoguidance import WEIGHT, Autoguided
from temperance.hub import Model
from temperance.recipe import Prepared, Recipe, fit, prepare
from temperance.train import Settings

STEPS = (250, 500, 1000, 2000)


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--train", choices=("conditional", "tangent", "exact"), default="tangent")
    parser.add_argument("--network", choices=("auto", "mlp", "unet"), default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="times the automatic h")
    parser.add_argument("--augment", type=float, default=0.0)
    parser.add_argument("--change", type=float, default=1.0, help="times the package's changes")
    parser.add_argument("--step", type=int, action="append", help=f"may be repeated (default: {STEPS})")
    parser.add_argument("--weight", type=float, action="append", help=f"may be repeated (default: {WEIGHT})")
    parser.add_argument("--alone", action="store_true", help="guide none")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = [max(1, s // 40) if options.quick else s for s in options.step or STEPS]
    run(options, steps, [] if options.alone else options.weight or [WEIGHT])


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
    of = {"network": options.network, "augment": options.augment, "augment_size": options.change}
    if options.train == "conditional":
        return prepare(Recipe(objective="conditional", **of), points, seed=options.seed)
    width = float(prepare(Recipe(), points).recipe.h) * options.scale
    print(f"h {width:.3g}", flush=True)
    targets = "exact" if options.train == "exact" else "drawn"
    return prepare(Recipe(h=width, targets=targets, **of), points, seed=options.seed)


if __name__ == "__main__":
    main()
