"""How recall depends on the number of images and on the feature space: the table behind LOG.md's entry.

python -m benchmarks.recall [--quick]
"""

import argparse
import warnings

import torch
from torch import Tensor

from temperance.data import load, split
from temperance.features import Encoder, encode
from temperance.metrics import quality
from temperance.recipe import closed_form
from temperance.sample import Noise, heun, integrate
from temperance.schedule import edm_for
from temperance.trial import draw_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one split instead of two")
    warnings.simplefilter("ignore")
    for seed in (2,) if parser.parse_args().quick else (2, 3):
        train, heldout, encoder = draw_sets("digits", 100, 700, seed)
        points, unseen = train.tensor(), heldout.tensor()
        real = split(load("digits"), (100, 700, 997), seed)[2].tensor()
        grid = edm_for(points.flatten(1)).grid(20)
        sets = {
            name: integrate(heun, closed_form(points, name), points.shape[1:], grid, Noise(seed, range(700))).x
            for name in ("empirical", "tangent")
        } | {"real": real[:700]}
        for space, (views, reference) in _spaces(sets, unseen, real, encoder).items():
            for n in (200, 500, 700):
                found = {name: quality(rows[:n], reference[:n]).recall.value for name, rows in views.items()}
                shown = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
                print(f"split {seed}  {space:<14} n {n}  recall: {shown}")


def _spaces(sets: dict[str, Tensor], unseen: Tensor, real: Tensor, encoder: Encoder):
    """Every set and the unseen images as rows of three feature spaces."""
    features = encode(encoder, real)
    center = features.mean(0)
    axes = torch.linalg.svd(features - center, full_matrices=False)[2][:16].T
    spaces = {
        "classifier": lambda x: encode(encoder, x),
        "16 principal": lambda x: (encode(encoder, x) - center) @ axes,
        "pixels": lambda x: x.flatten(1),
    }
    return {k: ({name: view(x.clamp(-1, 1)) for name, x in sets.items()}, view(unseen)) for k, view in spaces.items()}


if __name__ == "__main__":
    main()
