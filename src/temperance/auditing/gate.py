"""Limits that a release must keep: `MEASURE=LIMIT`, checked in every encoder of a report."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

DEFAULT = "memorized_fraction"


def broken(report: dict[str, Any], above: Iterable[str], below: Iterable[str]) -> list[str]:
    """What is above its upper or below its lower limit, one sentence each.

    Args:
        report: the content of `report.json`.
        above: upper limits; a number alone is one for the memorized fraction. `flagged_fraction` is `flagged` over the
            number of generated images.
        below: lower limits, such as `recall=0.5`.

    Raises:
        ValueError: if a limit is no number, its measure is unknown, or it was not measured in any encoder.
    """
    found = []
    for limits, sign, word in ((above, 1, "above"), (below, -1, "below")):
        for text in limits:
            name, limit = _parse(text, word)
            for encoder, value in _values(report, name).items():
                if sign * (value - limit) > 0:
                    found.append(f"{name.replace('_', ' ')} {value:.4g} in {encoder} is {word} --fail-{word} {text}")
    return found


def _parse(text: str, word: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        return (name if equals else DEFAULT), float(number)
    except ValueError:
        raise ValueError(f"--fail-{word} must be a number or MEASURE=NUMBER, got {text!r}; try copy_auc=0.6") from None


def _values(report: dict[str, Any], name: str) -> dict[str, float]:
    """The measure in each encoder that has it."""
    n = report["provenance"]["images"]["generated"]
    every = {
        encoder: {**figures, "flagged_fraction": None if figures["flagged"] is None else figures["flagged"] / n}
        for encoder, figures in report["encoders"].items()
    }
    known = sorted({key for figures in every.values() for key, v in figures.items() if not isinstance(v, (list, dict))})
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "use one of these"
        raise ValueError(f"{name!r} is no measure of this report; expected {', '.join(known)}; {hint}")
    values = {encoder: float(figures[name]) for encoder, figures in every.items() if figures.get(name) is not None}
    if not values:
        raise ValueError(
            f"{name} was not measured, so its limit cannot be checked; it may need --heldout or more images"
        )
    return values
