r"""Samples that begin at a displaced training image and some noise, which a plain network then takes away.

    python -m benchmarks.starts [--quick]
    python -m benchmarks.starts --data emoji --size 16 --heldout 1000 --batch-size 32 --step 800 --step 1600

At a level of noise, the closed form of tangent smoothing is displaced training images and that noise, so nothing has to
be walked above it. The network is trained plainly, once; every `--step` is judged alone and from every `--level`, in
multiples of `sigma_collapse`, the level below which single images own the score, for every `--width`. Level 0 is the
displaced images alone.
"""

import argparse

import torch
from benchmarks.common import JUDGED, draw_split, judge, split_arguments
from torch import Tensor

from temperance.denoiser import Denoiser, level
from temperance.diagnostics import collapse_sigma
from temperance.engine import displaced, neighbor_table
from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import Noise, heun
from temperance.schedule import Schedule, levels
from temperance.scorecard import Yardstick, score
from temperance.train import Settings

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
    collapse = collapse_sigma(points.flatten(1))
    print(f"sigma_collapse {collapse:.3g}", flush=True)
    drawn = {width: starts(points, width, options.seed) for width in options.width or WIDTHS}
    for width, (h, images) in drawn.items():
        told(f"{width}, h {h:.2f}: displaced images", images, against)

    def visit(step: int, model: Model) -> None:
        if step not in steps:
            return
        judge(f"{step}", model.denoiser, model.schedule, against, options.seed)
        for width, (_, images) in drawn.items():
            for share in options.level or LEVELS:
                ended = finished(model.denoiser, model.schedule, images, share * collapse, options.seed)
                told(f"{step}, {width}, from {share:g} sigma_collapse", ended, against)

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)


def starts(points: Tensor, width: str, seed: int) -> tuple[float, Tensor]:
    """The width, and images displaced by it."""
    recipe = prepare(Recipe(h=width, network="mlp"), points).recipe  # pyright: ignore[reportArgumentType]
    h, k, flat = float(recipe.h), int(recipe.k), points.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(len(flat), (COUNT,), generator=generator)
    z = torch.randn(COUNT, k, generator=generator) * h / k**0.5
    return h, displaced(flat[row], flat, neighbor_table(flat, k).index[row], z).reshape(-1, *points.shape[1:])


@torch.no_grad()
def finished(network: Denoiser, schedule: Schedule, images: Tensor, sigma: float, seed: int) -> Tensor:
    """Images and noise of level sigma, walked down the schedule's levels below it."""
    grid = levels(schedule, 20)
    below = torch.cat([grid.new_tensor([sigma]), grid[grid < 0.95 * sigma]])
    noise = Noise(seed, range(len(images)))
    x = images + sigma * noise.normal(images.shape[1:])
    *_, x = heun(network, x, below, noise)
    return network(x, level(float(below[-1]), x))


def told(name: str, images: Tensor, against: Yardstick) -> None:
    row, _ = score(images.clamp(-1, 1), against)
    print(f"{name:46s} " + "  ".join(f"{key} {row[key]:.3g}" for key in JUDGED), flush=True)


if __name__ == "__main__":
    main()
