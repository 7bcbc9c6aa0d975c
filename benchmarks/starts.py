r"""Samples that begin at a displaced training image and some noise, which a plain network then takes away.

    python -m benchmarks.starts [--quick]
    python -m benchmarks.starts --data emoji --size 16 --heldout 1000 --batch-size 32 --step 800 --step 1600

At a level of noise, the closed form of tangent smoothing is displaced training images and that noise, so nothing has to
be walked above it. The network is trained plainly, once; every `--step` is judged alone and from every `--level`, in
multiples of `sigma_collapse`, the level below which single images own the score, for every `--width`; displaced images
alone are judged first. With `--weaker STEP`, the model of that step guides later ones too (autoguidance).
"""

import argparse
import copy
from dataclasses import replace

import torch
from benchmarks.common import DRAWN, asked_steps, draw_split, judge, plain_or_smoothed, run_arguments, told
from torch import nn

from temperance.autoguidance import WEIGHT, Autoguided
from temperance.denoiser import Denoiser
from temperance.hub import Model
from temperance.recipe import fit
from temperance.sample import Noise
from temperance.start import smoothed_start
from temperance.train import Settings

STEPS, LEVELS, WIDTHS = (500, 1000), (0.25, 0.5, 1.0), ("halved", "matched")


def main() -> None:
    parser = run_arguments(__doc__, train="conditional", batch_size=128)
    parser.add_argument("--augment", type=float, default=0.0)
    parser.add_argument("--level", type=float, action="append", help=f"may be repeated (default: {LEVELS})")
    parser.add_argument("--width", action="append", help=f"auto, halved, matched; may be repeated (default: {WIDTHS})")
    parser.add_argument("--weaker", type=int, help="guide later steps by the model of this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options, asked_steps(options, STEPS))


def run(options: argparse.Namespace, steps: list[int]) -> None:
    """Train once; judge every step alone, and from every start."""
    train, against = draw_split(options)
    points = train.tensor()
    ready = plain_or_smoothed(options, points, options.augment)
    starts = {width: smoothed_start(points, width) for width in options.width or WIDTHS}
    for width, start in starts.items():
        print(f"{width}: h {start.h:.3g}, sigma_collapse {start.sigma:.3g}", flush=True)
        told(f"{width}: displaced images", replace(start, sigma=0.0)(Noise(options.seed, range(DRAWN))), against)

    weaker: list[nn.Module] = []

    def visit(step: int, model: Model) -> None:
        if step in steps:
            judged(f"{step}", model.denoiser, model)
            for other in weaker:
                guided = Autoguided(model.denoiser, other, WEIGHT)
                judged(f"{step} guided by {options.weaker}", guided, model)
        if step == options.weaker:
            weaker.append(copy.deepcopy(model.denoiser).eval())

    def judged(name: str, denoiser: Denoiser, model: Model) -> None:
        judge(name, denoiser, model.schedule, against, options.seed)
        for width, start in starts.items():
            for share in options.level or LEVELS:
                begin = replace(start, sigma=share * start.sigma)
                of = f"{name}, {width}, from {share:g} sigma_collapse"
                judge(of, denoiser, model.schedule, against, options.seed, begin)

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)


if __name__ == "__main__":
    main()
