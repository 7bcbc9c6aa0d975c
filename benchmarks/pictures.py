"""The picture of README.md: what two methods draw, each sample above the training image that is nearest to it.

    python -m benchmarks.pictures        writes docs/samples.png: the demo's first split, some minutes

The samples are the first ones, not chosen. A frame marks those that count as copies; a title says how many of all do.
"""

import argparse

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
from temperance.train import Settings
from temperance.trial import draw, draw_sets

PICTURE = ROOT / "docs" / "samples.png"
DRAWN = {"conditional": "plain training", "tangent": "tangent smoothing"}
SHOWN = 16  # samples of each
RED = "#c44e00"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)  # as in the demo
    plan = Plan()
    points = draw_sets(plan.data, plan.n_train, plan.n_heldout, plan.seeds[0])[0].tensor()
    figure = plt.figure(figsize=(9, 2.9), dpi=150, layout="constrained")
    for part, (name, title) in zip(figure.subfigures(len(DRAWN), squeeze=False).ravel(), DRAWN.items()):
        x = samples(plan, name, points)
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


def samples(plan: Plan, name: str, points: Tensor) -> Tensor:
    """What the demo draws with a method on its first split."""
    seed = plan.seeds[0]
    ready = prepare(Recipe(objective=name, network="mlp"), points, seed=seed)
    model = fit(ready, points, Settings(seed=seed, **plan.settings), progress=False, device="cpu")
    index = range(plan.n_samples)
    return draw(model.denoiser, model.schedule, heun, points.shape[1:], seed, index, grid=plan.grid).x.clamp(-1, 1)


if __name__ == "__main__":
    main()
