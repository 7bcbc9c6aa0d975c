"""What a training set says before any training: where its posterior collapses, and which settings suit it."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from temperance.auditing.sets import label
from temperance.data import Images, unseen
from temperance.diagnostics import (
    PIXELS,
    WHEN_CUT,
    Width,
    collapse_sigma,
    expansion_factor,
    mean_effective_sample_size,
    near_duplicates,
    suggest_h,
    suggest_k,
    suggest_temperature,
)
from temperance.distance import Neighbors, distinct
from temperance.engine import EmpiricalDenoiser, neighbor_table
from temperance.metrics import proximity
from temperance.report import Facts, Figures, Notes, Page, Tile, curves, histogram, write_json, write_page
from temperance.schedule import edm_for, levels

LEVELS = 16  # noise levels of the curve
DRAWS = 128  # noisy images a level
NAMED = 5  # pairs of near-duplicates that the report names


def analyze(
    images: Images,
    out: Path,
    *,
    heldout: Images | None,
    k: int | None,
    seed: int,
    progress: bool,
    reading: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `report.html` and `analysis.json` about a data set; returns the latter.

    `reading`: the options with which the images were read, for the command that is suggested. Training images among the
    held-out ones are left out.

    Cost: the neighbor table (2 n^2 d flops) and 16 evaluations of the empirical denoiser on 128 rows.

    Raises:
        ValueError: if the held-out images have another shape, or if all images are the same.
    """
    points = images.tensor()
    against = None if heldout is None else unseen(heldout, images)
    flat = points.flatten(1)
    once = distinct(flat)
    if len(once) < 2:
        raise ValueError(f"{images.source}: all {len(images)} images are the same; give at least two that differ")
    schedule = edm_for(flat)
    bar = tqdm(total=6, desc="analyze", unit="part", file=sys.stderr, disable=not progress, leave=False)

    def done(value: Any) -> Any:
        bar.update()
        return value

    usual = suggest_k(len(once))
    k = usual if k is None else k
    table = done(neighbor_table(flat, k))
    sigma = done(collapse_sigma(flat, seed=seed))
    grid = levels(schedule, LEVELS).tolist()
    sizes = done(mean_effective_sample_size(once, grid, draws=DRAWS, seed=seed))
    width, cut = done(suggest_h(flat, table)), done(suggest_h(flat, table, span=PIXELS))
    strength = done(suggest_temperature(flat, table, sigma))
    bar.close()
    expansion = expansion_factor(EmpiricalDenoiser(points), points, sigma / 4, draws=min(len(points), 64))
    wider = {f"h_{name}": cut.at(share) for name, share in WHEN_CUT.items()}
    found = {
        "schema": 1,
        "n": len(images),
        "shape": list(points.shape[1:]),
        "sha256": images.fingerprint,
        "duplicates": len(images) - len(once),
        "near_duplicates": _pairs(images, table if k == usual else neighbor_table(flat, usual)),
        "effective_sample_size": [{"sigma": s, "effective_sample_size": size} for s, size in zip(grid, sizes)],
        "sigma_collapse": sigma,
        "expansion_factor": {"sigma": sigma / 4, "median": float(expansion.median())},
        "nearest_distance_median": float(table.distance[:, 0].median()),
        "heldout_nearest_distance_median": None,
        "suggested": {"k": k, "h": width.h, **wider, "temperature": strength, "sigma_collapse": sigma},
        "h_curve": {
            "h": list(width.candidates),
            "nearer_than_unseen": list(width.nearer),
            "nearer_than_unseen_when_cut": list(cut.nearer),
        },
        "schedule": vars(schedule),
    }
    near = None if against is None else proximity(against.tensor().flatten(1), flat)
    if near is not None:
        found["heldout_nearest_distance_median"] = float(near.distance.median())
    write_json(out / "analysis.json", found)
    distance = None if near is None else near.distance.numpy()
    write_page(_page(images, found, (width, cut), table.distance[:, 0], distance, reading), out / "report.html")
    return found


def _pairs(images: Images, table: Neighbors) -> list[dict[str, Any]]:
    """Every image that has a near-duplicate, that one and their distance; two that name each other count once."""
    near, nearest = near_duplicates(table), table.index[:, 0].tolist()
    rows = [
        i
        for i in near.nonzero()[:, 0].tolist()
        if not (nearest[i] < i and near[nearest[i]] and nearest[nearest[i]] == i)
    ]
    return [
        {"image": label(images, i), "of": label(images, nearest[i]), "distance": float(table.distance[i, 0])}
        for i in rows
    ]


_CLOSE = "Euclidean distances of pixels that run from -1 to 1. Filled: each training image to the nearest other one."
_UNSEEN = " Dashed outline: unseen real images to the nearest training image."


def _page(
    images: Images, found: dict[str, Any], widths: tuple[Width, Width], own: Tensor, unseen: Any, reading: Sequence[str]
) -> Page:
    sigma, size = zip(*[(r["sigma"], r["effective_sample_size"]) for r in reversed(found["effective_sample_size"])])
    collapse = curves(
        [("images that share the score", sigma, size, 0)],
        name="ess",
        xlabel="noise level sigma",
        ylabel="effective sample size",
        level=("1.5: single images take over", 1.5),
        log=(True, True),
    )
    width, cut = widths
    nearer = curves(
        [
            ("displaced images", width.candidates, width.nearer, 1),
            ("the same, cut to the range of pixels", cut.candidates, cut.nearer, 2),
        ],
        name="h",
        xlabel="tangent width h",
        ylabel="nearer to the others than an unseen one",
        level=("a half: as far as unseen images", 0.5),
    )
    limit = 1.05 * max(float(own.max()), 0.0 if unseen is None else float(unseen.max()), 1e-6)
    near = histogram(
        own.numpy(),
        unseen,
        name="d1",
        title="training images to one another",
        xlabel="distance to the nearest training image",
        limit=limit,
        of="training images",
    )
    s = found["suggested"]
    tiles = (
        Tile(
            f"{found['n']:,}",
            "training images",
            f"{found['duplicates']} of them exact duplicates; near-duplicates: {len(found['near_duplicates'])} pairs",
        ),
        Tile(f"{found['sigma_collapse']:.2f}", "sigma_collapse", "below it, single images own the score"),
        Tile(
            f"{s['h']:.2f}",
            "tangent width h",
            f"k = {s['k']}; " + ", ".join(f"{n} {s[f'h_{n}']:.2f}" for n in WHEN_CUT),
        ),
        Tile(f"{s['temperature']:.2f}", "temperature strength", "T = max(strength / sigma, 1)"),
    )
    factor = found["expansion_factor"]["median"]
    blocks = (
        Figures(
            "Where sampling collapses",
            "How many training images share the exact score of a noisy image. Where the curve falls to 1, sampling can"
            " only return training images; a network that fits the score well does the same.",
            (collapse,),
        ),
        Figures(
            "How far to spread each image",
            "Tangent smoothing displaces each training image towards its neighbors. Too little, and it stays nearer to"
            " the training set than an unseen image would be; too much, and it is farther. Each training image stands"
            " in for an unseen one against all others. The automatic width is where neither is nearer; held-out data"
            " plays no part. Samples are cut to the range of pixels, which brings them back nearer; two more widths"
            " allow for it: halved (--h halved), where they are the nearer ones three times out of four, and matched,"
            " where they are half of the time; wider ones keep their distance and are less sharp.",
            (nearer,),
        ),
        Figures("How close images are", _CLOSE + (_UNSEEN if unseen is not None else ""), (near,)),
        Notes(
            "In words",
            (
                "At a quarter of sigma_collapse, one exact sampling step pulls two images that straddle a boundary"
                f" apart {factor if math.isfinite(factor) else 0:.3g}-fold; trained networks have 1 to 2.",
                "Suggested: "
                + shlex.join(
                    ["temperance", "train", images.source, "--out", "run", *reading, "--objective", "tangent"]
                    + ["--k", str(s["k"]), "--h", f"{s['h']:.2g}"]
                ),
                *_near(found["near_duplicates"]),
            ),
        ),
        Facts(
            "Provenance",
            (("sha256", found["sha256"]), ("shape", str(found["shape"])), ("source", images.source)),
        ),
    )
    lede = (
        f"{images.source}: {found['n']:,} images of {'x'.join(map(str, found['shape']))}. Below a noise level of"
        f" {found['sigma_collapse']:.2f}, the ideal diffusion model of this data knows single training images only."
    )
    return Page("Before training: what this data set invites", lede, tiles, blocks, "Temperance · analysis")


def _near(pairs: list[dict[str, Any]]) -> tuple[str, ...]:
    """A word on near-duplicates, if there are any; analysis.json has all of them."""
    if not pairs:
        return ()
    named = ", ".join(f"{pair['image']} and {pair['of']}" for pair in pairs[:NAMED])
    more = f", and {len(pairs) - NAMED} more in analysis.json" if len(pairs) > NAMED else ""
    return (
        f"Near-duplicates, five times nearer to each other than to a tenth neighbor: {named}{more}. Keep one of each:"
        " with both, the width above comes out too small, and no look at d1/d2 can see a copy of them.",
    )
