"""The images that are shown and listed: copies with their sources, and the closest pairs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.closeness import Closeness
from temperance.auditing.sets import label
from temperance.auditing.views import Encoded, View
from temperance.data import Images
from temperance.report import COPY_RATIO, Distances, Neighbor, Pair


def _is_copy(near: tm.Proximity, flagged: Tensor | None) -> Tensor:
    """What `copies` lists: flagged or identical images; without held-out data, those with d1/d2 below 1/3."""
    return (near.ratio < COPY_RATIO) if flagged is None else flagged | (near.distance == 0)


def listed(
    sets: dict[str, Images],
    encoder: str,
    near: tm.Proximity,
    order: list[int],
    p: Tensor | None,
    flagged: Tensor | None,
) -> list[dict[str, Any]]:
    """Rows of `copies` in `report.json`, in the given order."""
    copied = _is_copy(near, flagged)
    return [
        {
            "generated": label(sets["generated"], i),
            "train": label(sets["train"], int(near.index[i])),
            "encoder": encoder,
            "distance": float(near.distance[i]),
            "ratio": float(near.ratio[i]),
            "p_value": None if p is None else float(p[i]),
            "flagged": None if flagged is None else bool(flagged[i]),
        }
        for i in order
        if copied[i]
    ]


def closest_pairs(
    sets: dict[str, Images],
    rows: dict[str, Encoded],
    views: Sequence[View],
    near: Closeness,
    order: list[int],
    p: Tensor | None,
    flagged: Tensor | None,
) -> tuple[Pair, ...]:
    """The worst images with their three nearest training images, found in the view that was closest."""
    chosen = torch.tensor(order, dtype=torch.long)
    k = min(3, len(rows["train"]))
    found = tm.nearest_rows(rows["generated"][chosen], rows["train"], k)
    for view in views:
        other = tm.nearest_rows(replace(rows["generated"], view=view)[chosen], rows["train"], k)
        closer = other.distance[:, :1] < found.distance[:, :1]
        found = type(found)(*(torch.where(closer, a, b) for a, b in zip(other, found)))
    train, generated = sets["train"], sets["generated"]
    return tuple(
        Pair(
            str(label(generated, i)),
            np.asarray(generated.pixels[i]),
            tuple(
                Neighbor(str(label(train, int(j))), float(d), np.asarray(train.pixels[int(j)]))
                for j, d in zip(found.index[row], found.distance[row])
            ),
            float(near.best.distance[i]),
            float(near.best.ratio[i]),
            None if p is None else float(p[i]),
            flagged is not None and bool(flagged[i]),
        )
        for row, i in enumerate(order)
    )


def distances_of(near: tm.Proximity) -> Distances:
    """What the plots of distances are drawn from."""
    return Distances(near.distance.double().numpy(), near.ratio.double().numpy())
