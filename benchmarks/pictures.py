"""The picture of README.md: what three methods draw, each sample above the training image that is nearest to it.

    python -m benchmarks.pictures        writes docs/samples.png: the demo's first split, some minutes

The samples are the first ones, not chosen. A frame marks those that count as copies; a title says how many of all do.
"""

import argparse
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from benchmarks.kept import ROOT
from torch import Tensor

from temperance.data import to_uint8
from temperance.demo import Plan
from temperance.distance import nearest
from temperance.recipe import Recipe, fit, prepare
from temperance.report import COPY_RATIO
from temperance.sample import heun
from temperance.start import smoothed_start
from temperance.train import Settings
from temperance.trial import draw, draw_sets

PICTURE = ROOT / "docs" / "samples.png"
STOP = 1500  # steps; where samples are as near to the images as these to one another (study digits, seed 0)


class Drawn(NamedTuple):
    """A method, and where it differs from the demo's: in its steps, and in where samples begin."""

    recipe: Recipe
    steps: int | None = None
    started: bool = False


DRAWN = {
    "plain training": Drawn(Recipe(objective="conditional", network="mlp")),
    "tangent smoothing": Drawn(Recipe(objective="tangent", network="mlp")),
    "all augmented, started": Drawn(Recipe(objective="conditional", network="mlp", augment=1.0), STOP, True),
}
SHOWN = 16  # samples of each
RED = "#c44e00"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)  # as in the demo
    plan = Plan()
    points = draw_sets(plan.data, plan.n_train, plan.n_heldout, plan.seeds[0])[0].tensor()
    figure = plt.figure(figsize=(9, 4.35), dpi=150, layout="constrained")
    for part, (title, method) in zip(figure.subfigures(len(DRAWN), squeeze=False).ravel(), DRAWN.items()):
        x = samples(plan, method, points)
        near = nearest(x.flatten(1), points.flatten(1), 2)
        copied = near.distance[:, 0] < COPY_RATIO * near.distance[:, 1]
        part.suptitle(f"{title}: {int(copied.sum())} of {len(x)} samples are copies", fontsize=9)
        axes = part.subplots(2, SHOWN)
        for row, images in zip(axes, (x, points[near.index[:, 0]])):
            for ax, image, framed in zip(row, to_uint8(images[:SHOWN]), copied):
                ax.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=255)
                ax.set(xticks=[], yticks=[])
                for spine in ax.spines.values():
                    spine.set(visible=bool(framed), color=RED, linewidth=2)
        for row, told in zip(axes, ("drawn", "nearest\ntraining\nimage")):
            row[0].set_ylabel(told, fontsize=7, rotation=0, ha="right", va="center")
    figure.savefig(PICTURE)
    print(PICTURE.name)


def samples(plan: Plan, method: Drawn, points: Tensor) -> Tensor:
    """What a method draws on the demo's first split."""
    seed = plan.seeds[0]
    ready = prepare(method.recipe, points, seed=seed)
    settings = Settings(seed=seed, **plan.settings)
    settings = replace(settings, steps=method.steps or settings.steps)
    model = fit(ready, points, settings, progress=False, device="cpu")
    start, index = smoothed_start(points) if method.started else None, range(plan.n_samples)
    drawn = draw(model.denoiser, model.schedule, heun, points.shape[1:], seed, index, grid=plan.grid, start=start)
    return drawn.x.clamp(-1, 1)


if __name__ == "__main__":
    main()
