"""The audit: does a set of generated images hand back its training set, and how good is it?

Everything is exact and runs in blocks; features are made on demand, so that memory stays bounded by a few
blocks.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.data import Images, to_uint8
from temperance.features import Encoder, Pixels, encode
from temperance.report import (
    Distances,
    Measurement,
    Neighbor,
    Pair,
    Report,
    audit_page,
    write_json,
    write_page,
)

KEYS = (
    *("memorized_fraction", "ratio_median", "copy_auc", "fd_train", "fd_heldout", "fd_ratio", "kid"),
    *("precision", "recall", "density", "coverage", "authpct", "ct_score", "mifid"),
)
SHOWN = 24  # pairs kept for the gallery
View = Callable[[Tensor], Tensor]


def mirrored(images: Tensor) -> Tensor:
    """[n, c, h, w], left and right exchanged."""
    return images.flip(-1)


def shifted(dx: int, dy: int) -> View:
    """A view moved by whole pixels; the border is repeated."""

    def view(images: Tensor) -> Tensor:
        pad = torch.nn.functional.pad(images, (abs(dx), abs(dx), abs(dy), abs(dy)), mode="replicate")
        h, w = images.shape[-2:]
        return pad[..., abs(dy) - dy : abs(dy) - dy + h, abs(dx) - dx : abs(dx) - dx + w]

    view.__name__ = f"shifted by ({dx}, {dy})"
    return view


@dataclass(eq=False)
class Encoded:
    """Images as feature rows: pixels are made block by block, costlier features once."""

    images: Images
    encoder: Encoder
    view: View | None = None
    progress: bool = False
    _kept: Tensor | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any, /) -> Tensor:
        """Rows at a slice, or at an index tensor, as float32 [n, f]."""
        if not isinstance(self.encoder, Pixels):
            if self._kept is None:
                self._kept = self._encode(self.images)
            return self._kept[key]
        return self._encode(self.images[key])

    def _encode(self, images: Images) -> Tensor:
        parts = []
        for start in range(0, len(images), 4096):
            x = images[start : start + 4096].tensor()
            if self.view is not None:
                x = self.view(x)
            # uint8 pixels are finite: encode's checks and bar would cost more than the features.
            plain = isinstance(self.encoder, Pixels)
            parts.append(self.encoder(x) if plain else encode(self.encoder, x, progress=self.progress))
        return torch.cat(parts)


class _Closeness(NamedTuple):
    """Proximity of generated and held-out images, as they are and in the best of all views."""

    generated: tm.Proximity
    heldout: tm.Proximity | None
    best: tm.Proximity
    best_heldout: tm.Proximity | None
    group: Tensor


def audit(
    train: Images | Tensor | np.ndarray,
    generated: Images | Tensor | np.ndarray,
    heldout: Images | Tensor | np.ndarray | None = None,
    *,
    encoders: Sequence[Encoder] = (Pixels(),),
    views: Sequence[View] = (),
    seed: int = 0,
    fdr: float = 0.05,
    duplicate_radius: float = 0.0,
    quality_limit: int = 10_000,
    progress: bool = False,
) -> Report:
    """Measure copying and quality of a generated set, with held-out real images as the null.

    Args:
        train: the training images: `Images`, uint8 [n, h, w, c], or a tensor [n, c, h, w] in [-1, 1].
        generated: the images to judge, of the same size.
        heldout: real images from the same source that the model never saw. Without them nothing has a null,
            there are no p-values, and quality is measured against the training images.
        encoders: feature spaces; each is reported by itself.
        views: what generated and held-out images are also compared as, such as `mirrored`. The closest view
            counts for p-values and pairs, so that moved copies are found. One more pass each.
        seed: of the subsamples.
        fdr: share of false alarms accepted among the flagged images (Benjamini-Hochberg, per encoder).
        duplicate_radius: training images within this feature distance of each other count as one image.
        quality_limit: at most so many images of each set enter the quality figures; copying uses all.
        progress: show progress with remaining time on stderr.

    Raises:
        ValueError: if the sets differ in image size, are empty, or train has fewer than 2 distinct images.

    Cost: about 2 d |train| (|generated| + 2 |heldout|) flops per encoder and view; below 1 GB above the data.
    """
    sets = _check({"train": train, "generated": generated, "heldout": heldout}, fdr)
    measurements, pairs, distances, flags, copies = {}, {}, {}, {}, []
    notes: list[str] = []
    for encoder in encoders:
        name = encoder.name
        rows = {key: Encoded(value, encoder, progress=progress) for key, value in sets.items()}
        near = _closeness(rows, views, duplicate_radius, progress)
        p, flagged = _flags(near, fdr)
        measurements[name] = _copying(rows, near) | _quality(rows, quality_limit, seed, progress)
        order = _order(near.best, p)
        pairs[name] = _pairs(sets, rows, views, near, order[:SHOWN], p, flagged)
        distances[name] = {"generated": _distances(near.generated)}
        if near.heldout is not None:
            distances[name]["heldout"] = _distances(near.heldout)
        flags[name] = None if flagged is None else int(flagged.sum())
        copies += _copies(sets, name, near.best, order, p, flagged)
        notes += _power(name, sets, fdr, near.best_heldout, flagged)
    copies.sort(key=lambda c: (1.0 if c["p_value"] is None else c["p_value"], c["ratio"]))
    settings = {
        "encoders": [e.name for e in encoders],
        "views": [getattr(v, "__name__", repr(v)) for v in views],
        "fdr": float(fdr),
        "duplicate_radius": duplicate_radius,
        "quality_limit": quality_limit,
        "reference": "heldout" if "heldout" in sets else "train",
        "notes": notes,
    }
    return Report(
        measurements=measurements,
        pairs=pairs,
        distances=distances,
        copies=tuple(copies),
        provenance=_provenance(sets, seed, settings),
        sizes={key: len(value) for key, value in sets.items()},
        tested=_tested(sets, settings),
        untested=(*notes, *_untested(sets, settings)),
        flags=flags,
    )


def write(report: Report, out_dir: str | Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.json` into a folder, each in one step.

    Raises:
        OSError: if the folder cannot be written.
    """
    out = Path(out_dir)
    return write_page(audit_page(report), out / "report.html"), write_json(out / "report.json", as_json(report))


def as_json(report: Report) -> dict[str, Any]:
    """The content of `report.json`; figures that need held-out data are null without it."""
    return {
        "schema": 1,
        "encoders": {name: _figures(report, name) for name in report.measurements},
        "copies": list(report.copies),
        "provenance": report.provenance,
    }


def _figures(report: Report, encoder: str) -> dict[str, Any]:
    found = report.measurements[encoder]
    values: dict[str, Any] = {key: found[key].value if key in found else None for key in KEYS}
    copied, ratio = found["memorized_fraction"], found["ratio_median"]
    return values | {
        "memorized_ci": [copied.low, copied.high],
        "heldout_memorized_fraction": copied.null,
        "heldout_ratio_median": ratio.null,
        "flagged": report.flags[encoder],
        "fdr": report.provenance["settings"]["fdr"],
        "intervals": {key: [m.low, m.high] for key, m in found.items()},
        "nulls": {key: m.null for key, m in found.items()},
    }


# ---- the sets ----


def _check(sets: dict[str, Any], fdr: float) -> dict[str, Images]:
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must lie between 0 and 1, got {fdr}; 0.05 is usual")
    found = {key: _images(value, key) for key, value in sets.items() if value is not None}
    shape = found["train"].pixels.shape[1:]
    for key, value in found.items():
        if len(value) == 0:
            raise ValueError(f"{key} holds no images; give at least 1")
        if value.pixels.shape[1:] != shape:
            raise ValueError(
                f"train is {_size(shape)} and {key} is {_size(value.pixels.shape[1:])}; load both with the"
                " same size and channels"
            )
    return found


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''}"


def _images(value: Images | Tensor | np.ndarray, name: str) -> Images:
    """Any accepted form as uint8 images; a tensor is rounded to 8 bits, as saving it would."""
    if isinstance(value, Images):
        return value
    if isinstance(value, Tensor):
        return Images(to_uint8(value.detach().cpu().float()), source=name)
    return Images(value[..., None] if value.ndim == 3 else value, source=name)


def _label(images: Images, i: int) -> str | int:
    return i if images.names is None else images.names[i]


# ---- copying ----


def _closeness(rows: dict[str, Encoded], views: Sequence[View], radius: float, progress: bool) -> _Closeness:
    train = rows["train"]
    group = tm.duplicate_groups(train, radius)
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
    return _Closeness(plain["generated"], plain.get("heldout"), best["generated"], best.get("heldout"), group)


def _named(progress: bool, label: str) -> str | None:
    return label if progress else None


def _flags(near: _Closeness, fdr: float) -> tuple[Tensor | None, Tensor | None]:
    if near.best_heldout is None:
        return None, None
    p = tm.p_values(near.best.distance, near.best_heldout.distance)
    return p, tm.benjamini_hochberg(p, fdr)


def _copying(rows: dict[str, Encoded], near: _Closeness) -> dict[str, Measurement]:
    generated, heldout = near.generated, near.heldout
    found = {
        "memorized_fraction": tm.memorized_fraction(generated, heldout),
        "ratio_median": tm.ratio_median(generated, heldout),
        "authpct": tm.authpct(generated, _spacing(rows["train"], near), heldout),
    }
    if heldout is not None:
        found["copy_auc"] = tm.copy_auc(generated.distance, heldout.distance)
        found["ct_score"] = tm.ct_score(generated.distance, heldout.distance)
    return found


def _spacing(train: Encoded, near: _Closeness) -> Tensor:
    """Distance of each training image to the nearest other one, worked out only where an image is nearest
    to it.
    """
    needed = [p.index for p in (near.generated, near.heldout) if p is not None]
    chosen = torch.cat(needed).unique()
    spacing = torch.full((len(train),), torch.nan)
    for part in chosen.split(tm.QUERIES):
        spacing[part] = tm.proximity(train[part], train, near.group).second
    return spacing


def _order(near: tm.Proximity, p: Tensor | None) -> list[int]:
    """Images by p-value, then by ratio, then by distance: best match first."""
    rank = torch.zeros(len(near.index)) if p is None else p
    return sorted(
        range(len(near.index)),
        key=lambda i: (float(rank[i]), float(near.ratio[i]), float(near.distance[i])),
    )


def _is_copy(near: tm.Proximity, flagged: Tensor | None) -> Tensor:
    """What `copies` lists: flagged or identical images; without held-out data, those with d1/d2 below 1/3."""
    return (near.ratio < 1 / 3) if flagged is None else flagged | (near.distance == 0)


def _copies(sets, encoder, near, order, p, flagged) -> list[dict[str, Any]]:
    listed = _is_copy(near, flagged)
    return [
        {
            "generated": _label(sets["generated"], i),
            "train": _label(sets["train"], int(near.index[i])),
            "encoder": encoder,
            "distance": float(near.distance[i]),
            "ratio": float(near.ratio[i]),
            "p_value": None if p is None else float(p[i]),
            "flagged": None if flagged is None else bool(flagged[i]),
        }
        for i in order
        if listed[i]
    ]


def _pairs(sets, rows, views, near, order, p, flagged) -> tuple[Pair, ...]:
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
            str(_label(generated, i)),
            np.asarray(generated.pixels[i]),
            tuple(
                Neighbor(str(_label(train, int(j))), float(d), np.asarray(train.pixels[int(j)]))
                for j, d in zip(found.index[row], found.distance[row])
            ),
            float(near.best.distance[i]),
            float(near.best.ratio[i]),
            None if p is None else float(p[i]),
            flagged is not None and bool(flagged[i]),
        )
        for row, i in enumerate(order)
    )


def _distances(near: tm.Proximity) -> Distances:
    return Distances(near.distance.double().numpy(), near.ratio.double().numpy())


# ---- quality ----


def _quality(rows: dict[str, Encoded], limit: int, seed: int, progress: bool) -> dict[str, Measurement]:
    """Whole-set figures on equally many images of each set; real data's own score is the null."""
    size = min(limit, *(len(r) for r in rows.values()))
    if size < 2:
        return {}
    chosen = {key: _sample(r, size, seed) for key, r in rows.items()}
    x, train = chosen["generated"], chosen["train"]
    reference = chosen.get("heldout", train)
    fd_train = tm.frechet_distance(x, train)
    found = {"fd_train": replace(fd_train, name="fd_train"), "kid": tm.kid(x, reference)}
    found["mifid"] = tm.mifid(x, rows["train"], fd_train)
    fits = size > 5
    against = tm.quality(x, reference)._asdict() if fits else {}
    if "heldout" in chosen:
        floor = tm.frechet_distance(train, reference, interval=False)
        fd = replace(tm.frechet_distance(x, reference), name="fd_heldout", null=floor.value)
        found["fd_heldout"] = fd
        if fd.value > 0:
            found["fd_ratio"] = _fd_ratio(fd_train, fd)
        found["kid"] = tm.with_null(found["kid"], tm.kid(train, reference, interval=False))
        null = tm.quality(train, reference)._asdict() if fits else {}
        against = {key: tm.with_null(m, null[key]) for key, m in against.items()}
    return found | against


def _fd_ratio(fd_train: Measurement, fd_heldout: Measurement) -> Measurement:
    """Distance to train over distance to held-out, at equal sizes: 1 where the generator leans to neither."""
    value = fd_train.value / fd_heldout.value
    return Measurement("fd_ratio", value, None, None, fd_train.n, None, "ratio of the two", 1.0)


def _sample(rows: Encoded, size: int, seed: int) -> Tensor:
    return rows[tm.subsample(torch.arange(len(rows))[:, None].double(), size, seed)[:, 0].long()]


# ---- words ----


def _power(name, sets, fdr, heldout, flagged) -> list[str]:
    """Say when the number of held-out images makes flags impossible or hard to reach."""
    if heldout is None or flagged is None:
        return []
    n, m = len(sets["generated"]), len(sets["heldout"])
    least = tm.fewest_flags(n, m, fdr)
    if least <= 1:
        return []
    text = (
        f"In {name}, the smallest p-value that {m} held-out images allow is 1/{m + 1}. At a false discovery"
        f" rate of {fdr:g}, at least {least} of the {n} generated images must lie closer to the training"
        " set than every held-out image before any can be flagged."
    )
    if least > n:
        text += " That is more than there are, so this rate cannot be reached: give more held-out images."
    elif not bool(flagged.any()):
        text += " None is flagged here; fewer copies than that would go unflagged."
    return [text]


def _tested(sets: dict[str, Images], settings: dict[str, Any]) -> tuple[str, ...]:
    spaces = ", ".join(settings["encoders"])
    found = [
        f"Every generated image against every training image, exactly, as {spaces}.",
        "Copies of one training image: d1/d2 below 1/3, with equal training images counted as one.",
    ]
    if settings["views"]:
        found.append(f"The same for other views of each image: {', '.join(settings['views'])}.")
    if "heldout" in sets:
        found.append(
            "Whether generated images are closer to the training set than unseen real ones: one p-value"
            f" per image, flagged so that at most {100 * settings['fdr']:g} % of the flags are expected to"
            " be false."
        )
    found.append(
        "Quality and variety of the whole set, on equally many images of each set (at most"
        f" {settings['quality_limit']:,})."
    )
    return tuple(found)


def _untested(sets: dict[str, Images], settings: dict[str, Any]) -> tuple[str, ...]:
    found = []
    if "heldout" not in sets:
        found.append(
            "No held-out set was given. That costs the null of every figure, the p-values and flags, and"
            " the distance to unseen data; quality is measured against the training images, where copies"
            " score best."
        )
    if set(settings["encoders"]) == {"pixels"}:
        found.append(
            "Only pixels were compared: a copy that was recoloured, rotated, cropped"
            + ("" if settings["views"] else ", mirrored, shifted")
            + " or compressed hard may lie as far away as unseen data."
        )
    found += [
        "Copies of parts: a face or a lesion pasted into another image is not looked for.",
        "Images that exist in the world but are not in the training set given here.",
        "Whether a person can be recognised from an image, and what an attacker could learn by querying"
        " the model. This page is no proof of privacy.",
    ]
    return tuple(found)


def _provenance(sets: dict[str, Images], seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "sha256": {key: value.fingerprint for key, value in sets.items()},
        "source": {key: value.source for key, value in sets.items()},
        "images": {key: len(value) for key, value in sets.items()},
        "versions": versions(),
        "seed": seed,
        "settings": settings,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("temperance", "torch", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
