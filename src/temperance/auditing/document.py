"""The files of an audit: the page, and `report.json` with the keys that other programs rely on."""

from pathlib import Path
from typing import Any

from temperance.report import MEASURES, Class, Measurement, Report, audit_page, write_json, write_page

SCHEMA = 1  # raised when a key changes its meaning or goes; new keys may come without

KEYS = tuple(name for group in MEASURES.values() for name in group)  # what the page shows is in the file


def write(report: Report, out_dir: str | Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.json` into a folder, each in one step.

    Raises:
        OSError: if the folder cannot be written.
    """
    out = Path(out_dir)
    told = write_json(out / "report.json", as_json(report))  # first: the figures are there even if no page can be drawn
    return write_page(audit_page(report), out / "report.html"), told


def as_json(report: Report) -> dict[str, Any]:
    """The content of `report.json`; figures that need held-out data are null without it."""
    return {
        "schema": SCHEMA,
        "encoders": {name: _figures(report, name) for name in report.measurements},
        "classes": {name: [_class(c) for c in rows] for name, rows in report.classes.items()},
        "membership": _membership(report.membership),
        "copies": list(report.copies),
        "combined": report.combined,
        "planted": report.planted,
        "provenance": report.provenance,
    }


def _class(row: Class) -> dict[str, Any]:
    m = row.copied
    about = {"class": row.label, "train": row.train, "generated": row.generated, "flagged": row.flagged}
    return about | {
        "memorized_fraction": None if m is None else m.value,
        "memorized_ci": None if m is None else [m.low, m.high],
        "heldout_memorized_fraction": None if m is None else m.null,
    }


def _membership(found: tuple[Measurement, ...]) -> dict[str, Any] | None:
    if not found:
        return None
    auc, tpr, *levels = found
    return {
        "auc": auc.value,
        "auc_ci": [auc.low, auc.high],
        "tpr_at_1_fpr": tpr.value,
        "tpr_ci": [tpr.low, tpr.high],
        "fpr": tpr.null,
        "levels": {m.name: {"auc": m.value, "auc_ci": [m.low, m.high]} for m in levels},
    }


def _figures(report: Report, encoder: str) -> dict[str, Any]:
    found = report.measurements[encoder]
    values: dict[str, Any] = {key: found[key].value if key in found else None for key in KEYS}
    copied, ratio = found["memorized_fraction"], found["ratio_median"]
    return values | {
        "memorized_ci": [copied.low, copied.high],
        "heldout_memorized_fraction": copied.null,
        "heldout_ratio_median": ratio.null,
        "memorized_at_most": None if copied.value else min(1.0, 3 / copied.n),
        "quality_n": found["fd_train"].n if "fd_train" in found else None,
        "flagged": report.flags[encoder],
        "identical": report.identical.get(encoder),
        "heldout_copies": (report.nulls.get(encoder) or {}).get("heldout_copies"),
        "null": report.nulls.get(encoder),
        "fdr": report.provenance["settings"]["fdr"],
        "intervals": {key: [m.low, m.high] for key, m in found.items()},
        "nulls": {key: m.null for key, m in found.items()},
    }
