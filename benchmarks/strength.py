"""Where and how strongly temperature smooths, against copying: the table behind LOG.md's entry on sigma_collapse.

python -m benchmarks.strength [--quick]
"""

import argparse

import torch

from temperance.diagnostics import collapse_sigma
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import Noise, heun, integrate
from temperance.scorecard import score, yardstick
from temperance.train import Settings
from temperance.trial import draw_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="400 steps instead of 4,000: shows that it runs")
    steps = 400 if parser.parse_args().quick else 4000
    torch.set_num_threads(1)  # the network is too small for two
    train, heldout, encoder = draw_sets("digits", 100, 700, 2)
    against = yardstick(train.tensor(), heldout.tensor(), encoder)
    sigma = collapse_sigma(against.train.flatten(1))
    recipes = {
        "conditional": Recipe("conditional", network="mlp"),
        f"T = {sigma:.2f}/sigma below {sigma:.2f}": Recipe("temperature", network="mlp", temperature=sigma),
        f"auto, below {sigma:.2f}": Recipe("temperature", network="mlp"),
        "T = 4/sigma below 4": Recipe("temperature", network="mlp", temperature=4.0, sigma_collapse=4.0),
        "T = 5/sigma below 5": Recipe("temperature", network="mlp", temperature=5.0, sigma_collapse=5.0),
    }
    for name, recipe in recipes.items():
        ready = prepare(recipe, against.train)
        model = fit(ready, against.train, Settings(steps=steps), progress=False, device="cpu")
        drawn = integrate(heun, model.denoiser, model.shape, model.schedule.grid(20), Noise(0, range(500)))
        row, _ = score(drawn.x.clamp(-1, 1), against)
        shown = "  ".join(f"{k} {row[k]:.2f}" for k in ("memorized_fraction", "fd_heldout", "recall"))
        print(f"{name:<32} {shown}  {ready.chosen or ''}", flush=True)


if __name__ == "__main__":
    main()
