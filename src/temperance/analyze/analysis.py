"""Everything about a training set that needs no network, as one dictionary and its page."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from temperance.analyze.page import page
from temperance.auditing.sets import label
from temperance.data import Images, unseen
from temperance.diagnostics import (
    PIXELS,
    WHEN_CUT,
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
from temperance.report import write_json, write_page
from temperance.schedule import edm_for, levels

LEVELS = 16  # noise levels of the curve
DRAWS = 128  # noisy images a level


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
    write_page(page(images, found, (width, cut), table.distance[:, 0], distance, reading), out / "report.html")
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
