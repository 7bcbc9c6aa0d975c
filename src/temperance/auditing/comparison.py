"""Two audits side by side, from their `report.json` files."""

import json
from pathlib import Path
from typing import Any

from temperance.auditing.document import KEYS, SCHEMA
from temperance.report import Cell, Column, Notes, Page, Row, Table
from temperance.report.blocks import number

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
    return report


def side_by_side(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Every figure that both have, by encoder: {name: {a, b, difference, null_a, null_b, overlap}}, and warnings.

    `overlap`: whether the two 95 % intervals meet; None where one has none.
    """
    encoders = {}
    for encoder in [e for e in a["encoders"] if e in b["encoders"]]:
        left, right = a["encoders"][encoder], b["encoders"][encoder]
        encoders[encoder] = {
            key: _pair(key, left, right) for key in FIGURES if left.get(key) is not None and right.get(key) is not None
        }
    return {"schema": SCHEMA, "encoders": encoders, "warnings": _warnings(a, b)}


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
    for encoder in set(a["encoders"]) ^ set(b["encoders"]):
        found.append(f"Only one of them used the encoder {encoder}.")
    return found


def comparison_page(found: dict[str, Any], names: tuple[str, str]) -> Page:
    """The page of `audit --compare`."""
    columns = (
        Column("Measurement", "The key of report.json.", text=True),
        Column("A", f"The figure in {names[0]}."),
        Column("B", f"The figure in {names[1]}."),
        Column("B - A", "The difference."),
        Column("Real data", "The null in A; in B, if it is another."),
        Column("Intervals", "Whether the two 95 % intervals meet: if they do, the difference may be chance."),
    )
    tables = [
        Table(f"Side by side · {encoder}", f"A: {names[0]}. B: {names[1]}.", columns, tuple(map(_row, rows.items())))
        for encoder, rows in found["encoders"].items()
    ]
    notes = (Notes("Before comparing", tuple(found["warnings"]), "warning"),) if found["warnings"] else ()
    return Page("Two audits side by side", f"{names[0]} and {names[1]}.", (), (*notes, *tables), "Temperance · audit")


def _row(item: tuple[str, dict[str, Any]]) -> Row:
    key, v = item
    null = number(v["null_a"]) if v["null_a"] == v["null_b"] else f"{number(v['null_a'])}; {number(v['null_b'])}"
    meet = {True: "meet", False: "apart", None: "–"}[v["overlap"]]
    cells = (key.replace("_", " "), number(v["a"]), number(v["b"]), number(v["difference"]), null, meet)
    return Row(tuple(map(Cell, cells)))
