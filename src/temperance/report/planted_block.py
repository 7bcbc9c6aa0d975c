"""The planted controls on the page of an audit: what the audit finds of copies that are known to be there."""

from collections.abc import Mapping
from typing import Any

from temperance.report import figures
from temperance.report.blocks import Block, Cell, Column, Figures, Row, Table, between, percent

_KINDS = {
    "exact": ("Exact", "The training image itself."),
    "flipped": ("Mirrored", "Left and right exchanged."),
    "shifted": ("Shifted", "Moved by up to two pixels (one in images below 16), the lost border repeated."),
    "jpeg": ("JPEG 75", "Saved as JPEG at quality 75."),
    "jpeg_other": ("JPEG 60 to 95", "Saved as JPEG at a quality drawn from 60 to 95."),
    "brightened": ("Relit", "Contrast lowered by up to a fifth, brightness moved by up to a twentieth."),
    "cropped": ("Cropped", "One pixel cut from each side, resized to the old size."),
}


def _named(kind: str) -> Cell:
    name, sentence = _KINDS.get(kind, (kind, ""))
    return Cell(name, sentence)


def _too_few(planted: Mapping[str, Any]) -> str:
    """Why nothing can be found, where counting so few held-out images cannot flag so few copies."""
    least = 1 / (planted["calibration"] + 1)
    if planted["null"] == "tail" or least <= planted["chosen_fdr"] * planted["share"]:
        return ""
    return (
        f" Here nothing can be flagged: counting {planted['calibration']} images gives no p-value below {least:.2g}."
        " In fine features a tail is fitted from 100 held-out images on; in coarse ones more images are needed."
    )


def planted_blocks(encoder: str, planted: Mapping[str, Any] | None, series: int) -> list[Block]:
    """A table of recall and false alarms by kind of copy, and the curve over the rates that could be chosen."""
    if planted is None:
        return []
    kinds = planted["kinds"]
    rows = tuple(
        Row(
            (
                _named(kind),
                Cell(percent(found["recall"])),
                Cell(between(found["recall_ci"][0], found["recall_ci"][1], percent)),
                Cell(percent(found["fdr"])),
                Cell(percent(found["source_named"])),
            )
        )
        for kind, found in kinds.items()
    )
    share, rate = percent(planted["share"]), percent(planted["chosen_fdr"])
    fitted = " from a fitted tail" if planted["null"] == "tail" else ""
    caption = (
        f"What this audit finds of copies that are known to be there. {planted['copies']} training images were copied"
        f" in each way and put, at {share}, among {planted['negatives']} held-out images; {planted['calibration']}"
        f" other held-out images gave the p-values{fitted}. Means of {planted['rounds']} random halves. A kind with low"
        f" recall here can be in the generated images unseen.{_too_few(planted)}"
    )
    columns = (
        Column("Copy", "How the training image was changed.", text=True),
        Column(
            "Found", f"Recall: the share of the planted copies that is flagged at a false discovery rate of {rate}."
        ),
        Column("95 % interval", "The range that holds the recall with 95 % confidence."),
        Column("False", "The share of flagged images that are no copies, on average over the rounds."),
        Column("Source named", "How often the training image that was copied is the one that is named."),
    )
    lines = [
        (
            _KINDS.get(kind, (kind, ""))[0],
            [100 * p["fdr"] for p in found["curve"]],
            [100 * p["recall"] for p in found["curve"]],
            number,
        )
        for number, (kind, found) in enumerate(kinds.items())
    ]
    curve = figures.curves(
        lines,
        name=f"a{series}-planted",
        xlabel="false discovery rate chosen, %",
        ylabel="planted copies found, %",
        log=(True, False),
        span=(0.0, 105.0),
    )
    note = "How many of the planted copies are found at other rates; lines that coincide lie on each other."
    return [
        Table(f"Planted controls \u00b7 {encoder}", caption, columns, rows),
        Figures(f"Detection curve \u00b7 {encoder}", note, (curve,)),
    ]
