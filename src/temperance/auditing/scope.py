"""What was tested and what was not, in sentences."""

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.sets import overlapping
from temperance.data import Images


def power(name: str, n: int, fdr: float, null: tm.Null | None, flagged: Tensor | None) -> list[str]:
    """What the number of held-out images means for the flags, in sentences."""
    if null is None or flagged is None:
        return []
    return _fitted(name, n, fdr, null) if null.edge else _counted(name, n, fdr, null, flagged)


def shared_images(shared: Bool[Tensor, " n"] | None) -> list[str]:
    """What it means that held-out images are training images, in a sentence or two."""
    if shared is None or not bool(shared.any()):
        return []
    text = f"{int(shared.sum())} held-out images are training images, pixel by pixel, as they are or mirrored"
    if overlapping(shared):
        return [
            f"{text}: the held-out set overlaps the training set, identical copies cannot be flagged, and no figure"
            " that is held against unseen images means anything."
        ]
    return [
        f"{text}. They are no unseen images and were left out. If they are no slip of the split but the source repeats"
        " images, a new image from it can repeat one too: such images may be flagged, and the rate does not hold for"
        " them."
    ]


def repeated(copies: int) -> list[str]:
    """What it means that generated images are held-out images, in a sentence."""
    if not copies:
        return []
    return [
        f"{copies} generated images equal held-out images, pixel by pixel, as they are or mirrored: they are no new"
        " images. Either the sets were mixed up, or the model was trained on what is held out; figures held against"
        " unseen images are then too good."
    ]


def _fitted(name: str, n: int, fdr: float, null: tm.Null) -> list[str]:
    m = len(null.distance)
    closest = round(null.share * (m + 1)) - 1
    fewest = null.fewest(n, fdr)
    few = (
        f" So at least {fewest} of them must be that close before any can be flagged: fewer copies, however exact, are"
        " not seen by the flags. Give more held-out images, or judge fewer at a time."
    )
    return [
        f"In {name}, {m} held-out images allow no p-value below 1/{m + 1} by counting, and flagging a single one of"
        f" {n} images at a false discovery rate of {fdr:g} takes {fdr / n:.2g}. P-values of images closer than every"
        f" held-out one therefore come from a generalized Pareto tail fitted to the log distances of the {closest}"
        f" closest held-out images (shape {null.shape:.2f}), down to {null.least:.2g}. That is an assumption; the"
        " planted controls show how it does on these sets. `p_conformal` in report.json is free of it."
        + few
        * (fewest > 1)
    ]


def _counted(name: str, n: int, fdr: float, null: tm.Null, flagged: Tensor) -> list[str]:
    m, ties = len(null.distance), null.ties
    least = null.fewest(n, fdr)
    if least <= 1:
        return []
    some = f", {ties} of them at distance 0 from a training image," if ties else ""
    where = "at distance 0 from one" if ties else "closer to the training set than every held-out image"
    text = (
        f"In {name}, the smallest p-value that {m} held-out images{some} allow is {1 + ties}/{m + 1}. At a false"
        f" discovery rate of {fdr:g}, at least {least} of the {n} generated images must lie {where} before any can"
        " be flagged."
    )
    if least > n:
        text += " That is more than there are, so this rate cannot be reached: give more held-out images."
    elif not bool(flagged.any()):
        text += " None is flagged here; fewer copies than that would go unflagged."
    return [text]


def tested(sets: dict[str, Images], settings: dict[str, Any], *, fitted: bool) -> tuple[str, ...]:
    """What was looked for, one sentence each. `fitted`: some p-values come from a fitted tail."""
    spaces = ", ".join(settings["encoders"])
    found = [
        f"Every generated image against every training image, exactly, as {spaces}.",
        "Copies of one training image: d1/d2 below 1/3, with equal training images counted as one.",
    ]
    if settings["moved"]:
        found.append(
            "Copies that were mirrored, shifted by up to two pixels (one below 16), cropped by up to two, saved as JPEG"
            " or changed in brightness and contrast, among the training images that a coarse look at all of them brings"
            " up; in encoders other than pixels, mirrored ones."
        )
    if "heldout" in sets:
        found.append(
            "Whether generated images are closer to the training set than unseen real ones: one p-value"
            f" per image, flagged so that at most {100 * settings['fdr']:g} % of the flags are expected to"
            f" be false{', as far as the fitted tail is right (below)' if fitted else ''}."
        )
    found.append(
        "Quality and variety of the whole set, on equally many images of each set (at most"
        f" {settings['quality_limit']:,})."
    )
    return tuple(found)


def untested(sets: dict[str, Images], settings: dict[str, Any]) -> tuple[str, ...]:
    """What was not, one sentence each."""
    found = []
    if "heldout" not in sets:
        found.append(
            "No held-out set was given. That costs the null of every figure, the p-values and flags, and"
            " the distance to unseen data; quality is measured against the training images, where copies"
            " score best."
        )
    if set(settings["encoders"]) == {"pixels"}:
        found.append(
            "Only pixels were compared: a copy that was recoloured, rotated"
            + (", cropped by more than a little" if settings["moved"] else ", mirrored, shifted, cropped")
            + " or compressed hard may lie as far away as unseen data."
        )
    found += [
        "Copies of parts: a face or a lesion pasted into another image is not looked for.",
        "Images that exist in the world but are not in the training set given here.",
        "Whether a person can be recognised from an image, and what an attacker could learn by querying"
        " the model. This page is no proof of privacy.",
    ]
    return tuple(found)
