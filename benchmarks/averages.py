r"""Longer averages of the weights: are they worth anything at the end of smoothed training, or for an early stop?

    python -m benchmarks.averages [--quick]
    python -m benchmarks.averages --data mnist5k --size 16 --heldout 1000 --step 400 --step 3200
    python -m benchmarks.averages --data mnist5k --size 16 --heldout 1000 --train conditional --step 400 --step 800

Below 9,000 steps a run's average weighs step s by about s^8, so that it spans a ninth of the run. Averages of that one,
which weigh its step s by s^3 and by s, span a quarter and half of the run. Every `--step` is judged with each of them,
alone and, where the run is smoothed (halved width, exact targets), guided by the first step.
"""

import argparse
import copy

import torch
from benchmarks.common import asked_steps, draw_split, judge, plain_or_smoothed, run_arguments
from torch import nn

from temperance.autoguidance import WEIGHT, Autoguided
from temperance.hub import Model
from temperance.recipe import fit
from temperance.train import Settings
from temperance.train.step import follow

STEPS = (250, 2000)
POWERS = (3, 1)


def main() -> None:
    options = run_arguments(__doc__, train="exact", batch_size=32).parse_args()
    torch.set_num_threads(1)
    run(options, asked_steps(options, STEPS))


def run(options: argparse.Namespace, steps: list[int]) -> None:
    """Train once and judge every step with every average."""
    train, against = draw_split(options)
    ready = plain_or_smoothed(options, train.tensor())
    longer: dict[int, nn.Module] = {}
    first: list[nn.Module] = []

    def visit(step: int, model: Model) -> None:
        for power in POWERS:
            average = longer.setdefault(power, copy.deepcopy(model.denoiser))
            follow(average, model.denoiser, (step - 1) / (step + power))
        if step not in steps:
            return
        for name, denoiser in {"as it is": model.denoiser, **{f"s^{p}": longer[p] for p in POWERS}}.items():
            judge(f"{step}, {name}", denoiser, model.schedule, against, options.seed)
            if first and options.train == "exact":
                guided = Autoguided(denoiser, first[0], WEIGHT)
                judge(f"{step}, {name}, guided by {steps[0]}", guided, model.schedule, against, options.seed)
        if not first:
            first.append(copy.deepcopy(model.denoiser))

    settings = Settings(steps=max(steps), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
    fit(ready, train.tensor(), settings, progress=False, device="cpu", visit=visit)


if __name__ == "__main__":
    main()
