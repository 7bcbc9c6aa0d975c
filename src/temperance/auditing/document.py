"""The files of an audit: the page, and `report.json` with the keys that other programs rely on."""

from pathlib import Path
from typing import Any

from temperance.report import Report, audit_page, write_json, write_page

KEYS = (
    *("memorized_fraction", "ratio_median", "copy_auc", "fd_train", "fd_heldout", "fd_ratio", "kid"),
    *("precision", "recall", "density", "coverage", "authpct", "ct_score", "mifid"),
    *("memorized_adaptive", "extracted_fraction", "eidetic_k", "dcr_share", "fld", "vendi", "fd_floor", "kid_train"),
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
