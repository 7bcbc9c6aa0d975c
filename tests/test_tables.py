"""The tables of README.md and docs/results.md are what their rows say, and rows that cost little are drawn again."""

import json

import pytest
from benchmarks.tables import KEPT, MARK, PAGES, written

from temperance.study import Plan
from temperance.study.cell import run
from temperance.study.plan import cells


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_table_is_what_its_rows_say(page):
    text = page.read_text()
    assert MARK.search(text), "no table is left to check"
    assert written(text) == text, "run `python -m benchmarks.tables`"


def test_every_row_that_is_kept_is_shown():
    shown = {m["name"] for page in PAGES for m in MARK.finditer(page.read_text())}
    assert shown == {path.stem for path in KEPT.glob("*.json")} | {"summary", "distances"}


def test_training_free_rows_of_the_demo_are_drawn_again():
    methods = ("closed-form-empirical", "closed-form-tangent")
    kept = {(r["method"], r["seed"]): r for r in json.loads((KEPT / "demo.json").read_text())["rows"]}
    for cell in cells(Plan(data="digits", heldout="digits", methods=methods, seeds=(0,))):
        (row,) = run(cell)
        for key, slack in (("memorized_fraction", 0.01), ("copy_auc", 0.01), ("recall", 0.02), ("fd_floor", 0.2)):
            assert row[key] == pytest.approx(kept[cell.method, 0][key], abs=slack), (cell.method, key)
        assert row["fd_heldout"] == pytest.approx(kept[cell.method, 0]["fd_heldout"], rel=0.03)
