"""Two audits side by side, from their `report.json` files."""

import json
from pathlib import Path
from typing import Any

from temperance.auditing.document import KEYS, SCHEMA
from temperance.report import Cell, Column, Notes, Page, Row, Table, Tile
from temperance.report.audit_tables import MEASURES
from temperance.report.blocks import number, percent

FIGURES = ("flagged", *KEYS)


def read_report(path: str | Path) -> dict[str, Any]:
    """The content of a `report.json`, or of the one in a folder.

    Raises:
        ValueError: if it cannot be read, is no audit's report, or has another schema.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}; give the report.json that an audit wrote") from error
    if not isinstance(report, dict) or not {"schema", "encoders", "provenance"} <= report.keys():
        raise ValueError(f"{path} is no report of an audit; give the report.json that `temperance audit` wrote")
    if report["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {report['schema']}, this version reads {SCHEMA}; audit again")
    if not _names_its_sets(report["provenance"]):
        raise ValueError(f"{path} does not say of which images it is (provenance: sha256, images); audit again")
    return report


def _names_its_sets(provenance: Any) -> bool:
    """Whether fingerprints and numbers of images are there, without which two reports cannot be told apart."""
    parts = [provenance.get(key) for key in ("sha256", "images")] if isinstance(provenance, dict) else []
    return bool(parts) and all(isinstance(part, dict) and "generated" in part for part in parts)


def side_by_side(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Every figure that both have, by encoder: {name: {a, b, difference, null_a, null_b, overlap}}, and warnings.

    `overlap`: whether the two 95 % intervals meet; None where one has none. `membership`: the same of the AUC of the
    membership test, None unless both have it.
    """
    encoders = {}
    for encoder in [e for e in a["encoders"] if e in b["encoders"]]:
        left, right = a["encoders"][encoder], b["encoders"][encoder]
        both = [key for key in FIGURES if left.get(key) is not None and right.get(key) is not None]
        if "fd_heldout" not in both:  # without unseen images, that distance is the one to the training images
            both = [key for key in both if key != "kid"]
        encoders[encoder] = {key: _pair(key, left, right) for key in both}
    return {"schema": SCHEMA, "encoders": encoders, "membership": _membership(a, b), "warnings": _warnings(a, b)}


def _membership(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any] | None:
    tests = [r["membership"] for r in (a, b) if r.get("membership")]
    if len(tests) < 2:
        return None
    left, right = ({"auc": t["auc"], "intervals": {"auc": t["auc_ci"]}, "nulls": {"auc": 0.5}} for t in tests)
    return _pair("auc", left, right)


def _pair(key: str, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    intervals = [side.get("intervals", {}).get(key) for side in (left, right)]
    known = all(i is not None and None not in i for i in intervals)
    return {
        "a": left[key],
        "b": right[key],
        "difference": right[key] - left[key],
        "null_a": left.get("nulls", {}).get(key),
        "null_b": right.get("nulls", {}).get(key),
        "overlap": bool(intervals[0][0] <= intervals[1][1] and intervals[1][0] <= intervals[0][1]) if known else None,
    }


def _warnings(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    found = []
    for key in ("train", "heldout"):
        one, other = (r["provenance"]["sha256"].get(key) for r in (a, b))
        if one != other:
            found.append(f"The two audits have different {key} sets: their figures are not comparable one by one.")
    one, other = (r["provenance"]["images"]["generated"] for r in (a, b))
    if one != other:
        found.append(f"{one} and {other} generated images: distances between whole sets depend on their sizes.")
    for key in ("fdr", "moved", "duplicate_radius", "quality_limit"):
        one, other = (r["provenance"].get("settings", {}).get(key) for r in (a, b))
        if one != other:
            found.append(f"The two audits were run with different settings of {key}: {one} and {other}.")
    for encoder in sorted(set(a["encoders"]) ^ set(b["encoders"])):
        found.append(f"Only one of them used the encoder {encoder}.")
    return found


def comparison_page(found: dict[str, Any], names: tuple[str, str]) -> Page:
    """The page of `audit --compare`."""
    columns = (
        Column("Measurement", "What is measured, in one sentence.", text=True),
        Column("A", f"The figure in {names[0]}."),
        Column("B", f"The figure in {names[1]}."),
        Column("B - A", "The difference."),
        Column("Real data", "The null in A; in B, if it is another."),
        Column(
            "Intervals", "Whether the two 95 % intervals meet: if they do, the difference may be chance.", text=True
        ),
    )
    said = f"A: {names[0]}. B: {names[1]}."
    tables = [
        Table(f"Side by side · {encoder}", said, columns, _rows(rows, found["membership"]))
        for encoder, rows in found["encoders"].items()
    ]
    tiles = [t for rows in list(found["encoders"].values())[:1] for t in _tiles(rows)]
    notes = (Notes("Before comparing", tuple(found["warnings"]), "warning"),) if found["warnings"] else ()
    return Page("Two audits side by side", said, tuple(tiles), (*notes, *tables), "Temperance · audit")


def _tiles(rows: dict[str, dict[str, Any]]) -> list[Tile]:
    """The three figures that tell a copycat, A before B."""
    shown = (
        ("memorized_fraction", "copied", percent),
        ("flagged", "flagged", str),
        ("copy_auc", "closer than real", number),
    )
    return [
        Tile(write(rows[key][side]), f"{name}, {side.upper()}", "0.5 is right" if key == "copy_auc" else "")
        for key, name, write in shown
        if key in rows
        for side in ("a", "b")
    ]


def _rows(rows: dict[str, dict[str, Any]], membership: dict[str, Any] | None) -> tuple[Row, ...]:
    """Named and grouped as in a report, the membership test last."""
    found = []
    if "flagged" in rows:
        found.append(
            _row(("Flagged", "Images closer to a training image than chance allows."), rows["flagged"], "Copying")
        )
    for group, names in MEASURES.items():
        shown = [name for name in names if name in rows]
        for i, name in enumerate(shown):
            found.append(_row(names[name], rows[name], group if i == 0 and not (found and group == "Copying") else ""))
    if membership is not None:
        about = "Members told from non-members", "AUC of the membership test on the model; 0.5 gives nothing away."
        found.append(_row(about, membership, "The model"))
    return tuple(found)


def _row(about: tuple[str, str], v: dict[str, Any], group: str = "") -> Row:
    null = number(v["null_a"]) if v["null_a"] == v["null_b"] else f"{number(v['null_a'])}; {number(v['null_b'])}"
    meet = {True: "meet", False: "apart", None: "–"}[v["overlap"]]
    cells = (number(v["a"]), number(v["b"]), number(v["difference"]), null, meet)
    return Row((Cell(*about), *map(Cell, cells)), group=group)
