"""Limits that a release must keep: `MEASURE=LIMIT`, checked in every encoder of a report."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from temperance.auditing.document import KEYS

DEFAULT = "memorized_fraction"
SHARES = (
    *("memorized_fraction", "memorized_adaptive", "memorized_at_most", "copy_auc", "dcr_share", "extracted_fraction"),
    *("flagged_fraction", "precision", "recall", "coverage"),
)  # between 0 and 1
MEASURES = (*KEYS, "flagged", "flagged_fraction", "identical", "heldout_copies", "memorized_at_most")
HELDOUT = (
    *("copy_auc", "memorized_adaptive", "dcr_share", "ct_score", "fd_ratio", "fd_heldout", "fd_floor", "fld"),
    *("flagged", "flagged_fraction", "heldout_copies"),
)  # these take a held-out set


class Limit(NamedTuple):
    """A measure and how far it may go; `word` says which side is forbidden: above or below."""

    measure: str
    value: float
    word: str
    text: str  # as it was typed


def limits(above: Iterable[str], below: Iterable[str], *, heldout: bool = True) -> list[Limit]:
    """Read limits before any work is done.

    Args:
        above: upper limits; a number alone is one for the memorized fraction. `flagged_fraction` is `flagged` over the
            number of generated images.
        below: lower limits, such as `recall=0.5`.
        heldout: whether there is a held-out set.

    Raises:
        ValueError: if a limit is no number, its measure is unknown, or it takes a held-out set that is not there.
    """
    found = [_limit(text, word) for word, given in (("above", above), ("below", below)) for text in given]
    for limit in found:
        if limit.measure in HELDOUT and not heldout:
            raise ValueError(
                f"--fail-{limit.word} {limit.text} needs --heldout: without it there is no {limit.measure}"
            )
    return found


def _limit(text: str, word: str) -> Limit:
    name, equals, number = text.rpartition("=")
    name = name if equals else DEFAULT
    try:
        value = float(number)
        if math.isnan(value):
            raise ValueError
    except ValueError:
        raise ValueError(f"--fail-{word} must be a number or MEASURE=NUMBER, got {text!r}; try copy_auc=0.6") from None
    if name not in MEASURES:
        near = get_close_matches(name, MEASURES, n=1)
        hint = f"did you mean {near[0]}?" if near else "use one of these"
        raise ValueError(f"--fail-{word}: {name!r} is no measure; expected {', '.join(sorted(MEASURES))}; {hint}")
    if math.isinf(value) or (name in SHARES and not 0 <= value <= 1):
        bounds = "lies between 0 and 1; 5 % is 0.05" if name in SHARES else "takes a number"
        raise ValueError(f"--fail-{word} {text} would never say anything: {name} {bounds}")
    return Limit(name, value, word, text)


def broken(report: dict[str, Any], given: Iterable[Limit]) -> list[str]:
    """What is beyond its limit in the content of `report.json`, one sentence each.

    Raises:
        ValueError: if nothing is, and a measure was not taken in any encoder or could not have been beyond its limit.
    """
    found, unsure = [], []
    for limit in given:
        values = _values(report, limit.measure)
        unsure += [] if values else [_MISSING.format(limit.measure)]
        for encoder, value in values.items():
            if value > limit.value if limit.word == "above" else value < limit.value:
                name = limit.measure.replace("_", " ")
                found.append(f"{name} {value:.4g} in {encoder} is {limit.word} --fail-{limit.word} {limit.text}")
            elif reason := _blind(report, encoder, limit.measure):
                unsure.append(f"--fail-{limit.word} {limit.text} cannot be checked in {encoder}: {reason}")
    if unsure and not found:
        raise ValueError("; ".join(unsure))
    return found


_MISSING = "{} was not measured, so its limit cannot be checked; it may need --heldout or more images"


def _blind(report: dict[str, Any], encoder: str, name: str) -> str | None:
    """Why a measure within its limit means nothing: there are too few held-out images, or they are training images."""
    null, images = report["encoders"][encoder]["null"], report["provenance"]["images"]
    if null is None or name not in HELDOUT:
        return None
    if 2 * null["identical_heldout"] > images["heldout"]:
        return "most held-out images are training images; hold out others"
    if name.startswith("flagged") and null["fewest_flags"] > images["generated"]:
        return f"with {null['heldout']} held-out images nothing can be flagged; hold out more, or judge fewer"
    return None


def _values(report: dict[str, Any], name: str) -> dict[str, float]:
    """The measure in each encoder that has it."""
    n = report["provenance"]["images"]["generated"]
    values = {}
    for encoder, figures in report["encoders"].items():
        value = figures["flagged" if name == "flagged_fraction" else name]
        if name == "memorized_at_most" and value is None:  # copies were found: the interval's end bounds them
            value = figures["memorized_ci"][1]
        if name == "eidetic_k" and value is None and figures["extracted_fraction"] is not None:
            value = math.inf  # nothing was extracted, so nothing that is rare
        if value is not None:
            values[encoder] = value / n if name == "flagged_fraction" else float(value)
    return values
