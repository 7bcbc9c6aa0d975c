"""The tables of README.md and docs/results.md are what their rows say, and rows that cost little are drawn again."""

import json
import shlex
from dataclasses import replace

import pytest
from benchmarks.reproduce import commands, compared, split_of
from benchmarks.tables import KEPT, MARK, PAGES, SHORT, SHOWN, floors, halved, written
from typer.main import get_command

from temperance.cli.verb import app
from temperance.study import Plan
from temperance.study.cell import run
from temperance.study.methods import METHODS
from temperance.study.plan import cells


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_table_is_what_its_rows_say(page):
    text = page.read_text()
    assert MARK.search(text), "no table is left to check"
    assert written(text) == text, "run `python -m benchmarks.tables`"


def test_every_row_that_is_kept_is_shown():
    shown = {m["name"] for page in PAGES for m in MARK.finditer(page.read_text())}
    assert shown == {path.stem for path in KEPT.glob("*.json")} | {*SHORT, "comparisons", "distances"}


def look(step, copied, auc, fd, recall):
    return step, {
        "memorized_fraction": copied, "heldout_memorized_fraction": 0.01,
        "copy_auc": auc, "fd_heldout": fd, "recall": recall,
    }  # fmt: skip


PLAIN = [look(10, 0.0, 0.6, 30.0, 0.4), look(20, 0.01, 0.7, 20.0, 0.3), look(40, 0.5, 0.9, 5.0, 0.2)]


def test_half_of_the_excess_is_read_at_the_best_look_that_keeps_to_it():
    ours = [look(10, 0.0, 0.4, 25.0, 0.8), look(20, 0.0, 0.7, 19.0, 0.7), look(40, 0.0, 0.71, 1.0, 0.9)]
    assert halved("a", PLAIN, ours) == "| a | .90 | .70 | 20 of 40, .70, 19.0, .70 | 20, .70, 20.0, .30 | won |"
    assert halved("a", PLAIN, ours[2:]) == "| a | .90 | .70 | none | | **not won** |"


@pytest.mark.parametrize(("fd", "recall", "won"), [(20.0, 0.31, True), (20.1, 0.31, False), (19.0, 0.3, False)])
def test_winning_takes_both_figures(fd, recall, won):
    row = halved("a", PLAIN, [look(10, 0.0, 0.6, fd, recall)])
    assert row.endswith("| won |" if won else "| **not won** |")


def test_a_split_counts_once_in_the_floor():
    assert floors([{"seed": 1, "fd_floor": 1.0}, {"seed": 1, "fd_floor": 1.0}, {"seed": 2, "fd_floor": 4.0}]) == 2.5


def test_training_free_rows_of_the_demo_are_drawn_again():
    methods = ("closed-form-empirical", "closed-form-tangent")
    kept = {(r["method"], r["seed"]): r for r in json.loads((KEPT / "demo.json").read_text())["rows"]}
    for cell in cells(Plan(data="digits", heldout="digits", methods=methods, seeds=(0,))):
        (row,) = run(cell)
        for key, slack in (("memorized_fraction", 0.01), ("copy_auc", 0.01), ("recall", 0.02), ("fd_floor", 0.2)):
            assert row[key] == pytest.approx(kept[cell.method, 0][key], abs=slack), (cell.method, key)
        assert row["fd_heldout"] == pytest.approx(kept[cell.method, 0]["fd_heldout"], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["conditional", "tangent"])
def test_the_first_look_of_a_trained_row_is_drawn_again(method, one_thread):
    """A run's look does not depend on how long it goes on, so that the first one of a table costs little."""
    kept = [
        r for r in json.loads((KEPT / "digits-100.json").read_text())["rows"] if (r["method"], r["seed"]) == (method, 0)
    ]
    first = min(kept, key=lambda row: row["steps"])
    (cell,) = cells(Plan(data="digits", heldout="digits", methods=(method,), seeds=(0,)))
    (row,) = run(replace(cell, steps=first["steps"], looks=(first["steps"],)))
    for key, slack in (("memorized_fraction", 0.01), ("copy_auc", 0.01), ("recall", 0.02), ("precision", 0.02)):
        assert row[key] == pytest.approx(first[key], abs=slack), key
    assert row["fd_heldout"] == pytest.approx(first["fd_heldout"], rel=0.03)


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_every_table_names_commands_that_the_command_line_takes(path):
    verbs = get_command(app).commands
    assert commands(path.stem)
    for command in commands(path.stem):
        _, verb, *words = shlex.split(command)
        params = verbs[verb].make_context(verb, words).params
        assert set(params.get("method") or ()) <= set(METHODS)


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_one_split_of_a_table_is_asked_for_alone(path):
    verbs = get_command(app).commands
    rows = json.loads(path.read_text())["rows"]
    for seed in {row["seed"] for row in rows}:
        asked = [shlex.split(c) for c in (split_of(c, seed) for c in commands(path.stem)) if c]
        params = [verbs[verb].make_context(verb, words).params for _, verb, *words in asked]
        assert all((p["seed"], p["seeds"]) == (seed, 1) for p in params)
        methods = {row["method"] for row in rows if row["seed"] == seed}
        assert path.stem in ("demo", "digits-100", "digits-n") or methods == {m for p in params for m in p["method"]}
    assert not any(split_of(command, 99) for command in commands(path.stem))


def test_rows_that_come_out_otherwise_are_told():
    row = {"method": "a", "seed": 1, "n_train": 9, "steps": 2} | dict.fromkeys(SHOWN, 0.25)
    kept = [row, row | {"steps": 4}, row | {"steps": 8}, row | {"method": "b"}]
    new = [row | {"fd_heldout": 0.25 + 2**-12}, row | {"steps": 4, "recall": 0.5}, row | {"method": "b"}]
    assert compared(kept, new) == {
        "a": (3, 1, 1, dict.fromkeys(SHOWN, 0.0) | {"recall": 0.25, "fd_heldout": 2**-12}),
        "b": (1, 1, 0, dict.fromkeys(SHOWN, 0.0)),
    }
