r"""An idea against the noise of training: the closed form at high noise, where it is known and smooth, a network below.

    python -m benchmarks.high_noise [--quick]
    python -m benchmarks.high_noise --data fashion --size 16 --heldout 1000 --n 300 --train exact --batch-size 32 \
        --step 1600 --step 6400

The network is trained once; every `--step` is judged alone and below every `--level`, in multiples of
`sigma_collapse`, the level below which single images own the score. `--train exact` is tangent smoothing at the halved
width with exact targets, and its closed form; `conditional` is plain training, and the empirical score.
"""

import argparse

import torch
from benchmarks.common import asked_steps, draw_split, judge, plain_or_smoothed, run_arguments
from torch import Tensor

from temperance.denoiser import Denoiser
from temperance.diagnostics import collapse_sigma
from temperance.engine import EmpiricalDenoiser, neighbor_table
from temperance.hub import Model
from temperance.recipe import Prepared, fit
from temperance.train import Settings

STEPS, LEVELS = (500, 2000), (1.0, 2.0, 4.0)


def main() -> None:
    parser = run_arguments(__doc__, train="exact", batch_size=128)
    parser.add_argument("--level", type=float, action="append", help=f"may be repeated (default: {LEVELS})")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options, asked_steps(options, STEPS))


def run(options: argparse.Namespace, steps: list[int]) -> None:
    """Train once; judge every step alone, and below every level."""
    train, against = draw_split(options)
    points = train.tensor()
    ready = plain_or_smoothed(options, points)
    collapse, exact = collapse_sigma(points.flatten(1)), closed(ready, points)
    print(f"sigma_collapse {collapse:.3g}", flush=True)

    def visit(step: int, model: Model) -> None:
        if step in steps:
            judge(f"{step}", model.denoiser, model.schedule, against, options.seed)
            for level in options.level or LEVELS:
                split = below(model.denoiser, exact, level * collapse)
                judge(f"{step} below {level:g} sigma_collapse", split, model.schedule, against, options.seed)

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)


def closed(ready: Prepared, points: Tensor) -> Denoiser:
    """What the network is trained towards."""
    if ready.recipe.objective == "conditional":
        return EmpiricalDenoiser(points, "conditional")
    table = neighbor_table(points.flatten(1), int(ready.recipe.k))
    return EmpiricalDenoiser(points, "tangent", neighbors=table, h=float(ready.recipe.h))


def below(network: Denoiser, exact: Denoiser, level: float) -> Denoiser:
    """The network up to a level of noise, the closed form above it."""

    def denoiser(x: Tensor, sigma: Tensor | None) -> Tensor:
        assert sigma is not None
        return (exact if float(sigma[0]) > level else network)(x, sigma)

    return denoiser


if __name__ == "__main__":
    main()
