r"""Samples that begin at a displaced training image and some noise, which a plain network then takes away.

    python -m benchmarks.starts [--quick]
    python -m benchmarks.starts --data emoji --size 16 --heldout 1000 --batch-size 32 --step 800 --step 1600

At a level of noise, the closed form of tangent smoothing is displaced training images and that noise, so nothing has to
be walked above it. The network is trained plainly, once; every `--step` is judged alone and from every `--level`, in
multiples of `sigma_collapse`, the level below which single images own the score, for every `--width`; displaced images
alone are judged first.
"""

import argparse
from dataclasses import replace

import torch
from benchmarks.common import JUDGED, draw_split, judge, split_arguments
from torch import Tensor

from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import Noise, heun
from temperance.scorecard import Yardstick, score
from temperance.start import smoothed_start
from temperance.train import Settings
from temperance.trial import draw

STEPS, LEVELS, WIDTHS, COUNT = (500, 1000), (0.25, 0.5, 1.0), ("halved", "matched"), 300


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--network", choices=("auto", "mlp", "unet"), default="auto")
    parser.add_argument("--train", choices=("conditional", "exact"), default="conditional")
    parser.add_argument("--augment", type=float, default=0.0)
    parser.add_argument("--step", type=int, action="append", help=f"may be repeated (default: {STEPS})")
    parser.add_argument("--level", type=float, action="append", help=f"may be repeated (default: {LEVELS})")
    parser.add_argument("--width", action="append", help=f"auto, halved, matched; may be repeated (default: {WIDTHS})")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options, [max(1, s // 40) if options.quick else s for s in options.step or STEPS])


def run(options: argparse.Namespace, steps: list[int]) -> None:
    """Train once; judge every step alone, and from every start."""
    train, against = draw_split(options)
    points = train.tensor()
    plain = Recipe(objective="conditional", network=options.network, augment=options.augment)
    smoothed = Recipe(objective="tangent", h="halved", targets="exact", network=options.network)
    ready = prepare(smoothed if options.train == "exact" else plain, points, seed=options.seed)
    starts = {width: smoothed_start(points, width) for width in options.width or WIDTHS}
    for width, start in starts.items():
        print(f"{width}: h {start.h:.3g}, sigma_collapse {start.sigma:.3g}", flush=True)
        told(f"{width}: displaced images", replace(start, sigma=0.0)(Noise(options.seed, range(COUNT))), against)

    def visit(step: int, model: Model) -> None:
        if step not in steps:
            return
        judge(f"{step}", model.denoiser, model.schedule, against, options.seed)
        for width, start in starts.items():
            for share in options.level or LEVELS:
                begin, shape = replace(start, sigma=share * start.sigma), points.shape[1:]
                drawn = draw(model.denoiser, model.schedule, heun, shape, options.seed, range(COUNT), start=begin)
                told(f"{step}, {width}, from {share:g} sigma_collapse", drawn.x, against)

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)


def told(name: str, images: Tensor, against: Yardstick) -> None:
    row, _ = score(images.clamp(-1, 1), against)
    print(f"{name:46s} " + "  ".join(f"{key} {row[key]:.3g}" for key in JUDGED), flush=True)


if __name__ == "__main__":
    main()
