"""How close generated and held-out images are to the training set: as they are, and in their best match."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.blocks import in_blocks
from temperance.auditing.matching import Match, Matcher, mirror_number
from temperance.auditing.views import Encoded
from temperance.augmentation import mirrored
from temperance.data import Images
from temperance.distance import duplicates
from temperance.features import Pixels
from temperance.report import Measurement

VERSION = 2  # of the searches below: part of the name under which unfinished work is kept


class Closeness(NamedTuple):
    """Proximity of generated and held-out images as they are, and what each may be a copy of."""

    generated: tm.Proximity
    heldout: tm.Proximity | None
    match: Match
    match_heldout: Match | None
    group: Tensor


class Search:
    """Everything that is looked up in the training set in one encoder's features.

    Args:
        rows: the sets, encoded.
        radius: training rows within it count as one image.
        moved: also look for mirrored, shifted, cropped, recoded and relit copies.
        work: a folder for unfinished work, or None.
        progress: bars on stderr.
    """

    def __init__(self, rows: dict[str, Encoded], radius: float, moved: bool, work: Path | None, progress: bool):
        self.rows, self.train, self.moved = rows, rows["train"], moved
        self.work, self.progress = work, progress
        self.group = duplicates(self.train, radius)
        self.pixels = isinstance(self.train.encoder, Pixels)
        self.matcher = Matcher(self.train.images) if moved and self.pixels else None
        parts = (self.train.images.fingerprint, self.train.encoder.name, radius, VERSION)
        self.key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16] if work else ""

    def compare(self) -> Closeness:
        """Hold generated and held-out images against the training images."""
        plain, match = self._set("generated")
        heldout = self._set("heldout") if "heldout" in self.rows else (None, None)
        return Closeness(plain, heldout[0], match, heldout[1], self.group)

    def match(self, images: Images) -> tuple[Tensor, Tensor]:
        """Index and distance of the training image that each of some images matches."""
        rows = Encoded(images, self.train.encoder)
        near = tm.proximity(rows[:], self.train, self.group)
        found = self._match(rows, self._mirrored(rows), slice(0, len(images)), near)
        return found.index, found.distance

    def spacing(self, near: Closeness) -> Tensor:
        """Distance of training images to the nearest other one; worked out where an image is nearest to it, else
        NaN.
        """
        needed = [p.index for p in (near.generated, near.heldout) if p is not None]
        chosen = torch.cat(needed).unique()

        def part(rows: slice) -> Tensor:
            return tm.proximity(self.train[chosen[rows]], self.train, self.group).second[:, None]

        found = self._blocks("spacing_of_train", len(chosen), 1, part, hashlib.sha256(chosen.numpy().data).hexdigest())
        return torch.full((len(self.train),), torch.nan).scatter(0, chosen, found[:, 0].float())

    def _set(self, name: str) -> tuple[tm.Proximity, Match]:
        rows = self.rows[name]
        other = self._mirrored(rows)

        def part(where: slice) -> Tensor:
            near = tm.proximity(rows[where], self.train, self.group)
            return torch.stack(
                [*(c.double() for c in near), *(c.double() for c in self._match(rows, other, where, near))], 1
            )

        columns = self._blocks(f"{name}_against_train", len(rows), 6, part, rows.images.fingerprint).T.contiguous()
        near = tm.Proximity(columns[0].long(), columns[1].float(), columns[2].float())
        return near, Match(columns[3].long(), columns[4], columns[5].long())

    def _mirrored(self, rows: Encoded) -> Encoded | None:
        return replace(rows, view=mirrored) if self.moved and not self.pixels else None

    def _match(self, rows: Encoded, turned: Encoded | None, where: slice, near: tm.Proximity) -> Match:
        if self.matcher is not None:
            found = self.matcher(rows.images[where], near.index)
        else:
            found = Match(near.index, near.distance.double(), torch.zeros_like(near.index))
            if turned is not None:
                other = tm.proximity(turned[where], self.train, self.group)
                closer = other.distance < near.distance
                found = Match(
                    torch.where(closer, other.index, found.index),
                    torch.where(closer, other.distance.double(), found.distance),
                    closer * mirror_number(rows.images.pixels.shape[1:]),
                )
        return found._replace(index=self.group[found.index])  # of equal training images the first

    def _blocks(self, name: str, n: int, columns: int, part, of: str) -> Tensor:
        key = f"{name}-{self.key}{of[:16]}{int(self.moved)}"
        width = self.train.images.pixels[0].size
        return in_blocks(n, columns, part, name=key, width=width, work=self.work, progress=self.progress)


def flag(near: Closeness, fdr: float) -> tuple[tm.Null | None, Tensor | None, Tensor | None]:
    """The null, the p-value of every generated image, and which are flagged; nothing without held-out images."""
    if near.match_heldout is None:
        return None, None, None
    null = tm.fit_null(near.match_heldout.distance, len(near.match.index), fdr)
    p = null.p(near.match.distance)
    return null, p, tm.benjamini_hochberg(p, fdr)


def copying(search: Search, near: Closeness) -> dict[str, Measurement]:
    """The figures about copying, of the images as they are."""
    generated, heldout, train = near.generated, near.heldout, search.train
    found = {
        "memorized_fraction": tm.memorized_fraction(generated, heldout),
        "ratio_median": tm.ratio_median(generated, heldout),
        "authpct": tm.authpct(generated, search.spacing(near), heldout),
    }
    if search.pixels:
        width = train[:1].shape[1]
        found["extracted_fraction"] = tm.extracted_fraction(generated, width, heldout)
        if (rarest := tm.eidetic_k(generated, train, heldout)) is not None:
            found["eidetic_k"] = rarest
    if heldout is not None:
        found["memorized_adaptive"] = tm.memorized_adaptive(generated, heldout)
        found["copy_auc"] = tm.copy_auc(generated.distance, heldout.distance)
        found["ct_score"] = tm.ct_score(generated.distance, heldout.distance)
    return found


def ranked(near: Closeness, p: Tensor | None) -> list[int]:
    """Images by p-value, then by the distance of their match, then by ratio: best match first."""
    n = len(near.match.index)
    rank = torch.zeros(n) if p is None else p
    return sorted(
        range(n),
        key=lambda i: (float(rank[i]), float(near.match.distance[i]), float(near.generated.ratio[i])),
    )
