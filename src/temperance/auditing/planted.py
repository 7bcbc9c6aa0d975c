"""Planted controls: what this audit, on these very sets, finds of copies that are known to be there.

Copies of training images, as they are or disguised, are put among held-out images at one in a hundred, at least one.
One half of the held-out images gives the null, the other half are the negatives; never are both the same. Repeated on
random halves.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.matching import cropped, recoded
from temperance.data import Images, to_uint8

COPIES = 100  # planted of each kind, at most
SHARE = 0.01  # of the images that are judged
ROUNDS = 50
FEWEST = 20  # held-out images
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)


def disguises(images: Images, seed: int) -> dict[str, Images]:
    """Copies of every kind, uint8 like any image. What is done is drawn for each; borders are lost in a shift."""
    draw = np.random.default_rng(seed)
    pixels = images.pixels
    x = images.tensor()
    light = torch.from_numpy(draw.uniform(0.8, 1.0, (len(x), 1, 1, 1)).astype(np.float32))
    found = {
        "exact": np.asarray(pixels),
        "flipped": np.ascontiguousarray(pixels[:, :, ::-1]),
        "shifted": _shifted(pixels, draw),
        "jpeg": recoded(pixels, 75),
        "jpeg_other": np.concatenate([recoded(p[None], int(draw.integers(60, 96))) for p in pixels]),
        "brightened": to_uint8((x + 1) * light - 1 + _shade(len(x), draw)),
        "cropped": to_uint8(cropped(x, 1)) if min(pixels.shape[1:3]) >= 8 else np.asarray(pixels),
    }
    return {kind: Images(np.ascontiguousarray(p)) for kind, p in found.items()}


def _shade(n: int, draw: np.random.Generator) -> Float[Tensor, "n 1 1 1"]:
    """What is added to each image: a little light, nothing, or a little shadow."""
    return torch.from_numpy(draw.choice([-0.1, 0.0, 0.1], (n, 1, 1, 1)).astype(np.float32))


def _shifted(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Moved by up to two pixels (one below 16), never by none; the border is repeated."""
    reach = 2 if min(pixels.shape[1:3]) >= 16 else 1
    steps = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1) if dy or dx]
    out = np.empty_like(pixels)
    h, w = pixels.shape[1:3]
    for i, image in enumerate(pixels):
        dy, dx = steps[draw.integers(len(steps))]
        wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        out[i] = wide[reach - dy : reach - dy + h, reach - dx : reach - dx + w]
    return out


def controls(
    train: Images,
    heldout: Tensor,
    group: Tensor,
    match: Callable[[Images], tuple[Tensor, Tensor]],
    fdr: float,
    seed: int,
) -> dict[str, Any] | None:
    """Recall and false discovery rate for every kind of copy, at the chosen rate and over `LEVELS`.

    Args:
        train: the training images.
        heldout: distances of the held-out images, as they are tested; without those that are training images.
        group: duplicate group of each training image: a copy's source is named if its group is.
        match: index and distance of the training image that each of some images matches.
        fdr: the rate chosen.
        seed: of what is planted where.

    Returns None where there are fewer than 20 held-out images.
    """
    if len(heldout) < FEWEST:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[:COPIES]
    levels = sorted({*LEVELS, fdr})
    matched = {kind: match(images) for kind, images in disguises(train[chosen], seed).items()}
    curves, null = _curves({kind: distance for kind, (_, distance) in matched.items()}, heldout, fdr, levels, seed)
    half = len(heldout) // 2
    negatives = len(heldout) - half
    k = planted_among(negatives, len(chosen))
    about = {"copies": len(chosen), "share": k / (k + negatives), "rounds": ROUNDS, "calibration": half}
    size = 1 / (1 / len(chosen) + 1 / (ROUNDS * k))  # the copies, and how many of them the rounds looked at
    kinds = {}
    for kind, curve in curves.items():
        at = next(point for point in curve if point["fdr"] == fdr)
        named = group[matched[kind][0]] == group[chosen]
        kinds[kind] = {
            "recall": at["recall"],
            "recall_ci": list(tm.wilson(at["recall"], size)),
            "fdr": at["false"],
            "source_named": float(named.double().mean()),
            "curve": curve,
        }
    return {**about, "negatives": negatives, "null": null, "chosen_fdr": fdr, "kinds": kinds}


def planted_among(negatives: int, copies: int) -> int:
    """How many of so many copies are put among so many images: at least one."""
    return min(copies, max(1, round(SHARE * negatives)))


def _curves(
    copies: dict[str, Tensor], heldout: Tensor, fdr: float, levels: list[float], seed: int
) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Share of copies found, and of false ones among the flagged, by kind and level: means over random halves.

    Also the kind of null, which is fitted for the chosen rate. The halves are the same for every kind.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    half = len(heldout) // 2
    total = {kind: torch.zeros(len(levels), 2, dtype=torch.float64) for kind in copies}
    used = set()
    for _ in range(ROUNDS):
        order = torch.randperm(len(heldout), generator=generator)
        negatives = heldout[order[half:]]
        k = planted_among(len(negatives), min(map(len, copies.values())))
        null = tm.fit_null(heldout[order[:half]], len(negatives) + k, fdr)
        used.add(null.kind)
        p_negative = null.p(negatives)
        for kind, distance in copies.items():
            planted = null.p(distance[torch.randperm(len(distance), generator=generator)[:k]])
            p = torch.cat([planted, p_negative])
            for i, level in enumerate(levels):
                flagged = tm.benjamini_hochberg(p, level)
                hits, false = int(flagged[: len(planted)].sum()), int(flagged[len(planted) :].sum())
                total[kind][i] += torch.tensor([hits / len(planted), false / max(1, hits + false)], dtype=torch.float64)
    mean = {kind: (sums / ROUNDS).tolist() for kind, sums in total.items()}
    curves = {
        kind: [{"fdr": e, "recall": r, "false": f} for e, (r, f) in zip(levels, rows)] for kind, rows in mean.items()
    }
    return curves, max(used)
