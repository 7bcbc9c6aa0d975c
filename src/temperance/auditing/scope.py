"""What was tested and what was not, in sentences."""

from typing import Any

from torch import Tensor

from temperance import metrics as tm
from temperance.data import Images


def power(
    name: str, sets: dict[str, Images], fdr: float, heldout: tm.Proximity | None, flagged: Tensor | None
) -> list[str]:
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


def tested(sets: dict[str, Images], settings: dict[str, Any]) -> tuple[str, ...]:
    """What was looked for, one sentence each."""
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
