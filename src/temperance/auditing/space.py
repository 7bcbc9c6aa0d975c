"""What an audit says of one encoder's space."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.classes import by_class
from temperance.auditing.closeness import Search, copying, flag, ranked
from temperance.auditing.copies import closest_pairs, distances_of, listed
from temperance.auditing.fidelity import fidelity
from temperance.auditing.matching import equal
from temperance.auditing.planted import controls
from temperance.auditing.scope import power
from temperance.auditing.views import Encoded
from temperance.data import Images
from temperance.features import Encoder, Pixels
from temperance.report import Class, Distances, Measurement, Pair
from temperance.report.render import SHOWN


@dataclass(frozen=True)
class Asked:
    """What the caller of an audit chose; see `audit`."""

    moved: bool
    seed: int
    fdr: float
    duplicate_radius: float
    quality_limit: int
    work: Path | None
    progress: bool


class Space(NamedTuple):
    """What one encoder says; each as `Report` holds it by encoder."""

    measurements: dict[str, Measurement]
    pairs: tuple[Pair, ...]
    distances: dict[str, Distances]
    flags: int | None
    identical: int
    planted: dict[str, Any] | None
    null: dict[str, Any] | None
    classes: tuple[Class, ...]
    copies: list[dict[str, Any]]
    notes: list[str]
    judged: tuple[tm.Null, Float[Tensor, " n"]] | None  # the null, and the distance of every generated image's match


def in_space(
    encoder: Encoder, sets: dict[str, Images], asked: Asked, same: Bool[Tensor, " n"], unlike: dict[str, int]
) -> Space:
    """Hold generated and held-out images against the training images in an encoder's features.

    Args:
        encoder: whose features.
        sets: train, generated and, where there are any, heldout.
        asked: the settings.
        same: which generated images are training images, pixel by pixel, as they are or mirrored.
        unlike: what is said beside the null of held-out images that are not unseen ones.
    """
    rows = {key: Encoded(value, encoder, progress=asked.progress) for key, value in sets.items()}
    search = Search(rows, asked.duplicate_radius, asked.moved, asked.work, asked.progress)
    near = search.compare()
    null, p, flagged = flag(near, asked.fdr)
    copied = copying(search, near)
    distances, planted = {"generated": distances_of(near.generated)}, None
    if near.heldout is not None and null is not None:
        distances["heldout"] = distances_of(near.heldout)
        planted = controls(sets["train"], null.distance, near.group, search.match, asked.fdr, asked.seed)
    del search  # its tables make room for the features of whole sets
    order, n = ranked(near, p), len(same)
    if isinstance(encoder, Pixels) and asked.moved:
        same = same | equal(sets["generated"], sets["train"], near.match)
    return Space(
        measurements=copied | fidelity(rows, asked.quality_limit, asked.seed),
        pairs=closest_pairs(sets, rows["train"], near, order[:SHOWN], p, flagged),
        distances=distances,
        flags=None if flagged is None else int(flagged.sum()),
        identical=int(same.sum()),
        planted=planted,
        null=None if null is None else null.describe() | unlike | {"fewest_flags": null.fewest(n, asked.fdr)},
        classes=by_class(sets["train"], near.generated, near.heldout, flagged, near.match.index),
        copies=listed(sets, encoder.name, near, order, null, p, flagged, same),
        notes=power(encoder.name, n, asked.fdr, null, flagged),
        judged=None if null is None else (null, near.match.distance),
    )
