"""The images that are shown and listed: copies with their sources, and the closest pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.closeness import Closeness
from temperance.auditing.matching import undone, view_name
from temperance.auditing.sets import label
from temperance.auditing.views import Encoded
from temperance.data import Images, to_uint8
from temperance.distance import direct
from temperance.report import COPY_RATIO, Distances, Neighbor, Pair

NAMED = 5  # training images equal to the source that are named


def is_copy(near: Closeness, flagged: Tensor | None, certain: Tensor) -> Tensor:
    """What `copies` lists: flagged and certain ones; without held-out data, those with d1/d2 below 1/3."""
    return ((near.generated.ratio < COPY_RATIO) if flagged is None else flagged) | certain


def listed(
    sets: dict[str, Images],
    encoder: str,
    near: Closeness,
    order: list[int],
    null: tm.Null | None,
    p: Tensor | None,
    flagged: Tensor | None,
    certain: Tensor,
) -> list[dict[str, Any]]:
    """Rows of `copies` in `report.json`, in the given order."""
    copied = is_copy(near, flagged, certain)
    chosen = [i for i in order if copied[i]]
    counted = None if null is None else tm.p_values(near.match.distance, null.distance)
    equal = _equal(near.group, {int(near.match.index[i]) for i in chosen})
    shape = sets["train"].pixels.shape[1:]
    return [
        {
            "generated": label(sets["generated"], i),
            "train": label(sets["train"], int(near.match.index[i])),
            "encoder": encoder,
            "distance": float(near.match.distance[i]),
            "view": view_name(int(near.match.view[i]), shape),
            "plain_distance": float(near.generated.distance[i]),
            "ratio": float(near.generated.ratio[i]),
            "p_value": None if p is None else float(p[i]),
            "p_conformal": None if counted is None else float(counted[i]),
            "flagged": None if flagged is None else bool(flagged[i]),
            "train_duplicates": [label(sets["train"], j) for j in equal[int(near.match.index[i])]],
        }
        for i in chosen
    ]


def _equal(group: Tensor, sources: set[int]) -> dict[int, list[int]]:
    """The other training images of each source's group, a few of them."""
    found: dict[int, list[int]] = {source: [] for source in sources}
    for i, first in enumerate(group.tolist()):
        if first in found and i != first and len(found[first]) < NAMED:
            found[first].append(i)
    return found


def closest_pairs(
    sets: dict[str, Images],
    train: Encoded,
    near: Closeness,
    order: Sequence[int],
    p: Tensor | None,
    flagged: Tensor | None,
) -> tuple[Pair, ...]:
    """The worst images, each laid over the training image it matches, with the nearest others."""
    generated, shape = sets["generated"], sets["train"].pixels.shape[1:]
    views = [int(near.match.view[i]) for i in order]
    over = [to_uint8(undone(generated[i : i + 1].tensor(), view))[0] for i, view in zip(order, views)]
    beside = _neighbors(sets["train"], train, near.match.index[list(order)], np.stack(over))
    return tuple(
        Pair(
            str(label(generated, i)),
            np.asarray(generated.pixels[i]),
            beside[row],
            float(near.match.distance[i]),
            float(near.generated.ratio[i]),
            None if p is None else float(p[i]),
            flagged is not None and bool(flagged[i]),
            view_name(views[row], shape),
            over[row],
        )
        for row, i in enumerate(order)
    )


def _neighbors(
    images: Images, train: Encoded, source: Int[Tensor, " n"], over: UInt8[np.ndarray, "n h w c"]
) -> list[tuple[Neighbor, ...]]:
    """For each image, laid over its source: the source, then the nearest of the others, by plain distance."""
    rows = Encoded(Images(over), train.encoder)[:]
    found = tm.nearest_rows(rows, train, min(4, len(train)))
    own = direct(rows, train[source], torch.arange(len(rows))[:, None])[:, 0].sqrt()
    shown = []
    for row, first in enumerate(source.tolist()):
        others = [(j, d) for j, d in zip(found.index[row].tolist(), found.distance[row].tolist()) if j != first]
        shown.append([(first, float(own[row])), *others][:3])
    return [tuple(Neighbor(str(label(images, j)), d, np.asarray(images.pixels[j])) for j, d in few) for few in shown]


def distances_of(near: tm.Proximity) -> Distances:
    """What the plots of distances are drawn from."""
    return Distances(near.distance.double().numpy(), near.ratio.double().numpy())
