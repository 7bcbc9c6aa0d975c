"""An idea against copying: an early checkpoint at high noise, where the image is chosen, a late one at low noise.

    python -m benchmarks.two_checkpoints [--quick]

One conditional run on 100 digits (split 100): its checkpoints alone, and each early one above a level of noise with
the last one below it.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import heun
from temperance.scorecard import score, yardstick
from temperance.train import Settings
from temperance.trial import draw, draw_sets

SEED, SAMPLES = 100, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: shows that it runs")
    scale = 10 if parser.parse_args().quick else 1
    torch.set_num_threads(1)
    looks = [500 // scale, 1000 // scale, 3000 // scale]
    train, heldout, encoder = draw_sets("digits", 100, 700, SEED)
    points = train.tensor()
    against = yardstick(points, heldout.tensor(), encoder)
    ready = prepare(Recipe(objective="conditional"), points, seed=SEED)
    kept: dict[int, nn.Module] = {}

    def judged(name: str, denoiser: object) -> None:
        drawn = draw(denoiser, ready.schedule, heun, points.shape[1:], SEED, range(SAMPLES))  # type: ignore[arg-type]
        row, _ = score(drawn.x.clamp(-1, 1), against)
        keys = ("memorized_fraction", "copy_auc", "fd_heldout", "precision", "recall")
        print(f"{name:28s} " + "  ".join(f"{key} {row[key]:.3g}" for key in keys), flush=True)

    def visit(step: int, model: Model) -> None:
        if step in looks:
            kept[step] = copy.deepcopy(model.denoiser).eval()
            judged(f"step {step}", model.denoiser)

    settings = Settings(steps=looks[-1], checkpoint_every=looks[0], seed=SEED)
    fit(ready, points, settings, progress=False, device="cpu", visit=visit)
    for early in looks[:-1]:
        for level in (0.2, 0.4, 0.8):

            def denoiser(x: Tensor, sigma: Tensor, early: int = early, level: float = level) -> Tensor:
                return kept[early if float(sigma[0]) > level else looks[-1]](x, sigma)

            judged(f"{early} above {level}, then {looks[-1]}", denoiser)


if __name__ == "__main__":
    main()
