"""One call from sets of images to a report."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from temperance.auditing.combined import verdict
from temperance.auditing.scope import repeated, shared_images, tested, untested
from temperance.auditing.sets import check, heldout_copies, in_train, unseen
from temperance.auditing.space import Asked, in_space
from temperance.data import Images
from temperance.denoiser import Denoiser
from temperance.distance import duplicates
from temperance.features import Encoder, Pixels
from temperance.membership import membership
from temperance.report import Measurement, Report
from temperance.versions import versions


def audit(
    train: Images | Tensor | np.ndarray,
    generated: Images | Tensor | np.ndarray,
    heldout: Images | Tensor | np.ndarray | None = None,
    *,
    encoders: Sequence[Encoder] = (Pixels(),),
    moved: bool = True,
    seed: int = 0,
    fdr: float = 0.05,
    duplicate_radius: float = 0.0,
    quality_limit: int = 10_000,
    work: Path | None = None,
    progress: bool = False,
    model: Denoiser | None = None,
) -> Report:
    """Measure copying and quality of a generated set, with held-out real images as the null.

    Args:
        train: the training images: `Images`, uint8 [n, h, w, c], or a tensor [n, c, h, w] in [-1, 1].
        generated: the images to judge, of the same size.
        heldout: real images from the same source that the model never saw. Without them nothing has a null,
            there are no p-values, and quality is measured against the training images. Those that are training images
            are left out, unless they are more than half of all.
        encoders: feature spaces; each is reported by itself.
        moved: also look for copies that were mirrored, shifted by up to two pixels, cropped, recoded or relit
            (encoders other than pixels: mirrored). The best match counts for p-values, flags and pairs; the
            other figures are of the images as they are.
        seed: of the subsamples and of the planted copies.
        fdr: share of false alarms accepted among the flagged images (Benjamini-Hochberg, per encoder).
        duplicate_radius: training images within this feature distance of each other count as one image.
        quality_limit: at most so many images of each set enter the quality figures; copying uses all.
        work: a folder where finished parts of the search are kept, and found again by the same call. The
            caller removes it.
        progress: show progress with remaining time on stderr.
        model: the denoiser behind the generated images: adds the membership test, which needs held-out images.

    Raises:
        ValueError: if the sets differ in image size, are empty, or train has fewer than 2 distinct images; if a tensor
            holds no images in [-1, 1]; if there is a model and no held-out set.

    Under torch.distributed the search is shared between the ranks, and every rank returns the same report.

    Cost: about 2 d |train| (|generated| + 2 |heldout|) flops per encoder, 7e3 more per pair with a training image and
    some milliseconds an image where moved copies of pixels are looked for; under 1 GB above the data where images have
    3,072 numbers (see `temperance.heap`). Of f numbers Frechet distances hold up to 32 bytes times f, times the lesser
    of f and the images in them: 4 GB for 10,000 images of 64x64 in color.
    """
    given = check({"train": train, "generated": generated, "heldout": heldout}, fdr)
    if model is not None and heldout is None:
        raise ValueError("a membership test needs non-members: give held-out images with the model")
    same = in_train(given, moved)
    sets, shared = unseen(given, same), same.get("heldout")
    again = heldout_copies(sets, moved)
    unlike = {"identical_heldout": 0 if shared is None else int(shared.sum()), "heldout_copies": again}
    asked = Asked(moved, seed, fdr, duplicate_radius, quality_limit, work, progress)
    named = {each.name: each for each in encoders}
    spaces = {name: in_space(encoder, sets, asked, same["generated"], unlike) for name, encoder in named.items()}
    settings = {
        "encoders": [e.name for e in encoders],
        "moved": moved,
        "fdr": float(fdr),
        "duplicate_radius": duplicate_radius,
        "quality_limit": quality_limit,
        "reference": "heldout" if "heldout" in sets else "train",
        "notes": shared_images(shared) + repeated(again) + [note for own in spaces.values() for note in own.notes],
    }
    fitted = any(own.null is not None and own.null["kind"] == "tail" for own in spaces.values())
    judged = {name: own.judged for name, own in spaces.items() if own.judged is not None}
    return Report(
        measurements={name: own.measurements for name, own in spaces.items()},
        pairs={name: own.pairs for name, own in spaces.items()},
        distances={name: own.distances for name, own in spaces.items()},
        copies=tuple(sorted((copy for own in spaces.values() for copy in own.copies), key=_place)),
        provenance=_provenance(given, seed, settings),
        sizes={key: len(value) for key, value in given.items()},
        tested=tested(sets, settings, fitted=fitted),
        untested=(*settings["notes"], *untested(sets, settings)),
        flags={name: own.flags for name, own in spaces.items()},
        identical={name: own.identical for name, own in spaces.items()},
        planted={name: own.planted for name, own in spaces.items()},
        nulls={name: own.null for name, own in spaces.items()},
        combined=verdict(judged, sets["generated"], fdr),
        classes={name: own.classes for name, own in spaces.items()},
        membership=() if model is None else _attack(model, sets, seed, progress),
    )


def _place(copy: dict[str, Any]) -> tuple[float, float, float]:
    """The best match comes first."""
    return (1.0 if copy["p_value"] is None else copy["p_value"], copy["distance"], copy["ratio"])


def _attack(model: Denoiser, sets: dict[str, Images], seed: int, progress: bool) -> tuple[Measurement, ...]:
    """The membership test, in which a repeated image counts once, as everywhere else."""
    points = [sets[key].tensor() for key in ("train", "heldout")]
    train, heldout = (x[duplicates(x.flatten(1)).unique()] for x in points)
    return membership(model, train, heldout, seed=seed, progress=progress).measurements


def _provenance(sets: dict[str, Images], seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "sha256": {key: value.fingerprint for key, value in sets.items()},
        "source": {key: value.source for key, value in sets.items()},
        "images": {key: len(value) for key, value in sets.items()},
        "shape": list(sets["train"].pixels.shape[1:]),
        "left_out": {key: len(value.skipped) for key, value in sets.items()},
        "versions": {"python": platform.python_version(), **versions("temperance", "torch", "numpy", "scikit-learn")},
        "seed": seed,
        "settings": settings,
    }
