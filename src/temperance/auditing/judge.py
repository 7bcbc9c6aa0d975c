"""One call from sets of images to a report."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from torch import Tensor

from temperance.auditing.closeness import compare, copying, flag, ranked
from temperance.auditing.copies import closest_pairs, distances_of, listed
from temperance.auditing.fidelity import fidelity
from temperance.auditing.scope import power, tested, untested
from temperance.auditing.sets import check
from temperance.auditing.views import Encoded, View
from temperance.data import Images
from temperance.features import Encoder, Pixels
from temperance.report import Report

SHOWN = 24  # pairs kept for the gallery


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
    sets = check({"train": train, "generated": generated, "heldout": heldout}, fdr)
    measurements, pairs, distances, flags, copies = {}, {}, {}, {}, []
    notes: list[str] = []
    for encoder in encoders:
        name = encoder.name
        rows = {key: Encoded(value, encoder, progress=progress) for key, value in sets.items()}
        near = compare(rows, views, duplicate_radius, progress)
        p, flagged = flag(near, fdr)
        measurements[name] = copying(rows, near) | fidelity(rows, quality_limit, seed)
        order = ranked(near.best, p)
        pairs[name] = closest_pairs(sets, rows, views, near, order[:SHOWN], p, flagged)
        distances[name] = {"generated": distances_of(near.generated)}
        if near.heldout is not None:
            distances[name]["heldout"] = distances_of(near.heldout)
        flags[name] = None if flagged is None else int(flagged.sum())
        copies += listed(sets, name, near.best, order, p, flagged)
        notes += power(name, sets, fdr, near.best_heldout, flagged)
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
        tested=tested(sets, settings),
        untested=(*notes, *untested(sets, settings)),
        flags=flags,
    )


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
