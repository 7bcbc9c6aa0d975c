"""How close generated and held-out images are to the training set, in every view; and which are closer than chance."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.views import Encoded, View
from temperance.distance import duplicates
from temperance.features import Pixels
from temperance.report import Measurement


class Closeness(NamedTuple):
    """Proximity of generated and held-out images, as they are and in the best of all views."""

    generated: tm.Proximity
    heldout: tm.Proximity | None
    best: tm.Proximity
    best_heldout: tm.Proximity | None
    group: Tensor


def compare(rows: dict[str, Encoded], views: Sequence[View], radius: float, progress: bool) -> Closeness:
    """Hold every set against the training rows; training rows within `radius` of each other count as one."""
    train = rows["train"]
    group = duplicates(train, radius)
    plain: dict[str, tm.Proximity] = {}
    best: dict[str, tm.Proximity] = {}
    for key in ("generated", "heldout"):
        if key not in rows:
            continue
        plain[key] = tm.proximity(rows[key], train, group, progress=_named(progress, f"{key} against train"))
        best[key] = plain[key]
        for i, view in enumerate(views, 1):
            seen = replace(rows[key], view=view)
            found = tm.proximity(seen, train, group, progress=_named(progress, f"{key}, view {i}/{len(views)}"))
            closer = found.distance < best[key].distance
            best[key] = tm.Proximity(*(torch.where(closer, a, b) for a, b in zip(found, best[key])))
    return Closeness(plain["generated"], plain.get("heldout"), best["generated"], best.get("heldout"), group)


def _named(progress: bool, label: str) -> str | None:
    return label if progress else None


def flag(near: Closeness, fdr: float) -> tuple[Tensor | None, Tensor | None]:
    """The p-value of every generated image, and which are flagged; neither without held-out images."""
    if near.best_heldout is None:
        return None, None
    p = tm.p_values(near.best.distance, near.best_heldout.distance)
    return p, tm.benjamini_hochberg(p, fdr)


def copying(rows: dict[str, Encoded], near: Closeness) -> dict[str, Measurement]:
    """The figures about copying, of the images as they are."""
    generated, heldout = near.generated, near.heldout
    found = {
        "memorized_fraction": tm.memorized_fraction(generated, heldout),
        "ratio_median": tm.ratio_median(generated, heldout),
        "authpct": tm.authpct(generated, _spacing(rows["train"], near), heldout),
    }
    if isinstance(rows["train"].encoder, Pixels):
        width = rows["train"][:1].shape[1]
        found["extracted_fraction"] = tm.extracted_fraction(generated, width, heldout)
        if (rarest := tm.eidetic_k(generated, rows["train"], heldout)) is not None:
            found["eidetic_k"] = rarest
    if heldout is not None:
        found["memorized_adaptive"] = tm.memorized_adaptive(generated, heldout)
        found["copy_auc"] = tm.copy_auc(generated.distance, heldout.distance)
        found["ct_score"] = tm.ct_score(generated.distance, heldout.distance)
    return found


def _spacing(train: Encoded, near: Closeness) -> Tensor:
    """Distance of each training image to the nearest other one, worked out only where an image is nearest
    to it.
    """
    needed = [p.index for p in (near.generated, near.heldout) if p is not None]
    chosen = torch.cat(needed).unique()
    spacing = torch.full((len(train),), torch.nan)
    for part in chosen.split(tm.QUERIES):
        spacing[part] = tm.proximity(train[part], train, near.group).second
    return spacing


def ranked(near: tm.Proximity, p: Tensor | None) -> list[int]:
    """Images by p-value, then by ratio, then by distance: best match first."""
    rank = torch.zeros(len(near.index)) if p is None else p
    return sorted(
        range(len(near.index)),
        key=lambda i: (float(rank[i]), float(near.ratio[i]), float(near.distance[i])),
    )
