"""The tables of the documentation are what their rows say, and rows that cost little are drawn again."""

import json
import shlex
from dataclasses import replace

import pytest
from benchmarks.again import drawn_again, drawn_once, listed, repeated
from benchmarks.frontier import PICTURE, drawn_from, picture
from benchmarks.kept import SHOWN, commands, floor, keep, looked, names, note, rows, seeds
from benchmarks.markdown import at_step, share
from benchmarks.reproduce import compared, cut_short, split_of, where
from benchmarks.splits import main as splits
from benchmarks.tables import (
    ALL,
    ALL_STARTED,
    AUGMENTED,
    ENOUGH,
    MARK,
    NOT_WON,
    PAGES,
    STARTED,
    SUMMED,
    WHOLE,
    after_four_times,
    allowed,
    bars,
    equally_close,
    handed_over,
    headline,
    named,
    table,
    unpicked,
    up_to,
    written,
)
from PIL import Image
from typer.main import get_command

from temperance.cli.verb import app
from temperance.study import Plan
from temperance.study.advice import half_stop, spacing_stop
from temperance.study.cell import run
from temperance.study.methods import METHODS
from temperance.study.plan import cells, looks


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_table_is_what_its_rows_say(page):
    text = page.read_text()
    assert MARK.search(text), "no table is left to check"
    assert written(text) == text, "run `python -m benchmarks.tables`"


def test_every_row_that_is_kept_is_shown():
    shown = {m["name"] for page in PAGES for m in MARK.finditer(page.read_text())}
    assert shown == {*names(), *WHOLE}


def look(step, copied, auc, fd, recall):
    return step, {
        "memorized_fraction": copied, "heldout_memorized_fraction": 0.01,
        "copy_auc": auc, "fd_heldout": fd, "recall": recall,
    }  # fmt: skip


PLAIN = [look(10, 0.0, 0.6, 30.0, 0.4), look(20, 0.01, 0.7, 20.0, 0.3), look(40, 0.5, 0.9, 5.0, 0.2)]


def test_training_is_read_between_looks_where_it_comes_to_a_copy_auc():
    *before, (step, halfway) = up_to(PLAIN, 0.8)
    assert before == PLAIN[:2]
    assert step == 28  # 20 sqrt(2)
    assert (halfway["fd_heldout"], halfway["recall"]) == pytest.approx((12.5, 0.25))


@pytest.mark.parametrize(("auc", "count"), [(0.59, 0), (0.9, 3), (0.95, 3)])
def test_training_that_is_always_closer_or_never_so_close_has_its_own_looks(auc, count):
    assert up_to(PLAIN, auc) == PLAIN[:count]


@pytest.mark.parametrize(("fd", "recall", "won"), [(20.0, 0.31, True), (20.1, 0.31, False), (19.0, 0.3, False)])
def test_winning_takes_both_figures(fd, recall, won):
    own = look(10, 0.0, 0.7, fd, recall)[1]
    assert equally_close(PLAIN, own) == ("20, 20.0, .30", "won" if won else NOT_WON)


def test_the_rival_may_be_as_close_as_unseen_images_and_take_an_earlier_look():
    looks = [look(10, 0.0, 0.3, 9.0, 0.4), look(20, 0.0, 0.4, 7.0, 0.4), look(40, 0.0, 0.6, 8.0, 0.4)]
    assert equally_close(looks, look(9, 0.0, 0.2, 7.5, 0.9)[1]) == ("20, 7.0, .40", NOT_WON)
    assert equally_close(PLAIN, look(9, 0.0, 0.59, 7.5, 0.9)[1]) == ("", "")


def test_half_of_the_excess_of_plain_training_is_allowed():
    assert allowed(PLAIN) == pytest.approx(0.7)
    assert allowed([look(10, 0.0, 0.3, 30.0, 0.4)]) == 0.5


def trained(method, seed, *looks):
    return [{"method": method, "seed": seed, "n_train": 9, "steps": s, "precision": 0.5, **m} for s, m in looks]


def test_augmented_training_stands_at_half_of_the_steps_that_copies_came_after():
    early, late = (look(10, 0.0, 0.5, 19.0, 0.5), look(20, 0.0, 0.6, 15.0, 0.6)), look(40, 0.2, 0.9, 9.0, 0.1)
    plain = trained("conditional", 1, *PLAIN)
    own = trained("conditional/augmented", 1, *early, late)
    found = handed_over([*plain, *own], 9, AUGMENTED, half_stop, AUGMENTED)
    assert found is not None and found["steps"] == [20] and found["early_stop"]["steps"] == 20
    assert at_step(found) == "20: .00, 15.0, .60"
    assert handed_over(plain, 9, AUGMENTED, half_stop, AUGMENTED) is None
    other = [{**own[0], "seed": 2}]  # no copies, no half
    whole = handed_over([*plain, *own, *other], 9, AUGMENTED, half_stop, AUGMENTED)
    assert whole is not None and whole["steps"] == [20, 10] and whole["fd_heldout"] == 17


def test_a_smoothed_start_stands_where_plain_training_would_be_handed_over():
    """PLAIN copies after step 40, and is as near as unseen images at step 20, whatever samples from a start do."""
    plain = trained("conditional", 1, *PLAIN)
    own = trained(STARTED, 1, *(look(s, 0.0, 0.6, 400 / s, 0.6) for s in (10, 20, 40)))
    spaced = [{**r, "spacing_auc": r["steps"] / 40} for r in plain]
    for rule, rows_ in ((half_stop, plain), (spacing_stop, spaced)):
        found, alone = handed_over([*rows_, *own], 9, STARTED, rule, "conditional"), rule(rows_, "conditional", 9)
        assert alone is not None and found is not None
        assert found["steps"] == alone["steps"] == [20] and found["fd_heldout"] == 20
    older = handed_over([*plain, *own], 9, STARTED, spacing_stop, "conditional")  # by copy AUC, .6 at once
    assert older is not None and older["steps"] == [10]
    short = handed_over([*spaced, *own[:1]], 9, STARTED, spacing_stop, "conditional")  # which was not run so long
    assert short is not None and short["steps"] == [10]


@pytest.mark.parametrize("method", [ALL, ALL_STARTED])
def test_training_on_changed_images_stands_at_four_times_the_steps_of_the_stop(method):
    """The stop that copies no more than unseen images, .01, is at step 20."""
    plain = trained("conditional", 1, *PLAIN)
    own = trained(method, 1, *(look(s, 0.02 * s / 75, 0.6, 900 / s, 0.6) for s in (30, 75, 150)))
    found = after_four_times([*plain, *own], 9, method)
    assert found is not None
    assert (found["steps"], found["fd_heldout"], found["early_stop"]["steps"]) == (75, 12, 20)
    assert after_four_times(plain, 9, method) is None


def test_a_split_counts_once_in_the_floor():
    assert floor([{"seed": 1, "fd_floor": 1.0}, {"seed": 1, "fd_floor": 1.0}, {"seed": 2, "fd_floor": 4.0}]) == 2.5


def test_training_free_rows_of_the_demo_are_drawn_again():
    methods = ("closed-form-empirical", "closed-form-tangent")
    kept = {(r["method"], r["seed"]): r for r in rows("demo")}
    for cell in cells(Plan(data="digits", heldout="digits", methods=methods, seeds=(0,))):
        ((row,),) = run([cell])
        for key, slack in (("memorized_fraction", 0.01), ("copy_auc", 0.01), ("recall", 0.02), ("fd_floor", 0.2)):
            assert row[key] == pytest.approx(kept[cell.method, 0][key], abs=slack), (cell.method, key)
        assert row["fd_heldout"] == pytest.approx(kept[cell.method, 0]["fd_heldout"], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["conditional", "tangent"])
def test_the_first_look_of_a_trained_row_is_drawn_again(method, one_thread):
    """A run's look does not depend on how long it goes on, so that the first one of a table costs little."""
    kept = [r for r in rows("digits-100") if (r["method"], r["seed"]) == (method, 0)]
    first = min(kept, key=lambda row: row["steps"])
    (cell,) = cells(Plan(data="digits", heldout="digits", methods=(method,), seeds=(0,)))
    ((row,),) = run([replace(cell, steps=first["steps"], looks=(first["steps"],))])
    for key, slack in (("memorized_fraction", 0.01), ("copy_auc", 0.01), ("recall", 0.02), ("precision", 0.02)):
        assert row[key] == pytest.approx(first[key], abs=slack), key
    assert row["fd_heldout"] == pytest.approx(first["fd_heldout"], rel=0.03)


@pytest.mark.parametrize("name", names())
def test_every_table_names_commands_that_the_command_line_takes(name):
    verbs = get_command(app).commands
    assert commands(name)
    for command in commands(name):
        _, verb, *words = shlex.split(command)
        params = verbs[verb].make_context(verb, words).params
        assert set(params.get("method") or ()) <= set(METHODS)


@pytest.mark.parametrize("name", names())
def test_one_split_of_a_table_is_asked_for_alone(name):
    verbs = get_command(app).commands
    for seed in {row["seed"] for row in rows(name)}:
        asked = [shlex.split(c) for c in (split_of(c, seed) for c in commands(name)) if c]
        params = [verbs[verb].make_context(verb, words).params for _, verb, *words in asked]
        assert all((p["seed"], p["seeds"]) == (seed, 1) for p in params)
        methods = {row["method"] for row in rows(name) if row["seed"] == seed}
        named = [set(p.get("method") or ()) for p in params]
        assert not all(named) or methods == set.union(*named)
    assert not any(split_of(command, 99) for command in commands(name))


def test_a_command_is_cut_at_one_of_its_looks():
    for steps, until, cut in ((6400, 1131, 1131), (6400, 1599, 1131), (6400, 6400, 6400), (4525, 3200, 3200)):
        asked = cut_short(f"temperance study emoji --steps {steps} --seed 11", until)
        assert asked == f"temperance study emoji --steps {steps} --seed 11 --steps {cut}"
        again = [min(abs(look - other) for other in looks(cut)) for look in looks(steps) if look <= until]
        assert max(again) <= 1 and again.count(0) >= len(again) - 1  # rounded otherwise
    assert cut_short("temperance study digits", 1000) == "temperance study digits --steps 750"
    assert cut_short("temperance study digits", 529) is None and cut_short("temperance demo", 9) == "temperance demo"
    assert cut_short("temperance study digits", None) == "temperance study digits"


def test_rows_and_commands_of_several_studies_are_kept_once(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.kept.KEPT", tmp_path)
    row = {"method": "a", "seed": 1, "n_train": 9, "steps": 2, "train_seconds": 3.0, "drawn_on": "Some CPU, AVX2"}
    row |= dict.fromkeys(SHOWN, 0.123456)
    for name, own in (("one", [row]), ("two", [row, row | {"seed": 2}])):
        found = {"rows": own, "provenance": {"command": f"temperance study {name}"}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    keep("kept", [tmp_path / "one.json", tmp_path / "two.json"])
    keep("kept", [tmp_path / "kept.json", tmp_path / "two.json"])
    assert commands("kept") == ["temperance study one", "temperance study two"]
    assert [r["seed"] for r in rows("kept")] == [1, 2]
    assert rows("kept")[0]["recall"] == 0.12346
    assert "train_seconds" not in rows("kept")[0] and rows("kept")[0]["drawn_on"] == "Some CPU, AVX2"


def test_the_last_look_can_be_kept_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.kept.KEPT", tmp_path)
    row = {"seed": 1, "n_train": 9} | dict.fromkeys(SHOWN, 0.5)
    looks = [row | {"method": method, "steps": steps} for steps in (4, 8, 16) for method in "ba"]
    (tmp_path / "one.json").write_text(json.dumps({"rows": looks, "commands": ["temperance study one"]}))
    keep("kept", [tmp_path / "one.json"], last=True)
    assert [(r["method"], r["steps"]) for r in rows("kept")] == [("b", 16), ("a", 16)]
    assert looked(looks)
    assert not looked(rows("kept"))


def test_rows_are_noted_that_were_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.kept.KEPT", tmp_path)
    own = [{"method": "a", "seed": seed, "n_train": 9, "steps": 2, "drawn_on": "Some CPU"} for seed in (1, 2)]
    (tmp_path / "one.json").write_text(json.dumps({"rows": own, "commands": ["temperance study one"]}))
    for _ in range(2):  # which is the same when a run went on where it was interrupted
        note("one", [own[1] | {"drawn_on": "Another CPU"}, own[1] | {"steps": 3}])
        assert rows("one") == [own[0], own[1] | {"again": "Another CPU"}]
        assert commands("one") == ["temperance study one"]


def test_what_was_drawn_once_is_told_by_method_split_and_step():
    own = [{"method": m, "seed": seed, "steps": step} for m in "ab" for seed in (1, 2) for step in (10, 20)]
    own += [{"method": "c", "seed": 1}]  # nothing is trained
    for once, told in (
        (own, "4 `a`; 4 `b`; 1 `c`"),
        (own[4:6], "2 `b` (of split 1)"),
        ([own[1], own[3], own[-1]], "2 `a` (from 20 steps on); 1 `c`"),
        ([own[5]], "1 `b` (of split 1, from 20 steps on)"),
        ([], ""),
    ):
        assert listed(once, own) == told


def test_of_looks_that_were_drawn_once_on_a_split_no_split_is_summed():
    own = [
        {"method": method, "n_train": 9, "seed": seed, "steps": step, "again": "Some CPU"}
        | {"memorized_fraction": 0.05, "heldout_memorized_fraction": 0.0}
        for method in ("conditional", "conditional/started", "tangent", "tangent/exact")
        for seed in (1, 2)
        for step in (10, 20)
    ]
    del own[3]["again"], own[12]["again"]  # the last look of plain training, the first of exact targets
    assert drawn_once(own) == {("conditional", 9, 20), ("tangent/exact", 9, 10)}
    assert drawn_again(own) == [*own[0:3:2], *own[4:12], *own[13::2]]
    del own[9]["again"]  # the last look of tangent smoothing, where it would stand
    assert {row["method"] for row in drawn_again(own)} == {"conditional", "conditional/started", "tangent/exact"}
    own[1]["memorized_fraction"] = 0.06  # the first copies of plain training on split 1, in that look
    assert {row["method"] for row in drawn_again(own)} == {"conditional/started", "tangent/exact"}
    own[0]["memorized_fraction"] = 0.06  # they come before
    assert {row["method"] for row in drawn_again(own)} == {"conditional", "conditional/started", "tangent/exact"}


def test_a_look_that_was_drawn_once_on_a_split_has_a_mark(monkeypatch):
    own = rows("digits-100")
    place = next(i for i, row in enumerate(own) if row["method"] == "tangent" and row["steps"] == 6000)
    other = own[:place] + [{k: v for k, v in own[place].items() if k != "again"}] + own[place + 1 :]
    monkeypatch.setattr("benchmarks.tables.rows", lambda name: other)
    assert [line.split(" | ")[:2] for line in table("digits-100").splitlines() if "†" in line] == [
        ["| tangent", "6,000 †"]
    ]


@pytest.mark.parametrize(
    ("once", "marked"), [(("tangent", 20), True), (("conditional", 10), True), (("tangent", 10), False)]
)
def test_a_comparison_has_a_mark_where_either_side_was_drawn_once(once, marked):
    own = [{"method": m, "n_train": 9, "steps": s} for m in ("tangent", "conditional") for s in (10, 20)]
    own = [row if (row["method"], row["steps"]) == once else row | {"again": "Some CPU"} for row in own]
    found = named({"method": "tangent", "n_train": 9, "steps": 20, "early_stop": {"steps": 10}}, own)
    assert found == "tangent" + " †" * marked


def printed(capsys, *asked):
    splits([*asked])
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]


def test_splits_are_the_rows_that_a_table_has_the_mean_of(capsys):
    own = printed(capsys, "digits-100", "--method", "conditional", "--step", "750")
    assert [line[:4] for line in own] == [["conditional", "100", "750", seed] for seed in "012"]
    shown = sum(float(line[7]) for line in own) / len(own)
    assert f"| {shown:.1f} ± " in table("digits-100").split("| conditional (best early stop) | 750 |")[1].split("\n")[0]
    assert len(printed(capsys, "digits-100")) == len(rows("digits-100"))


def test_splits_that_are_not_there_are_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit):
        splits(["digits-100", "--method", "nothing"])
    assert "conditional/guided" in capsys.readouterr().err


def test_the_picture_is_drawn_from_the_rows_that_are_kept():
    with Image.open(PICTURE) as image:
        assert image.info["Rows"] == drawn_from(), "run `python -m benchmarks.frontier`"


def test_the_picture_has_two_panels_for_every_study_of_three_splits():
    titles = [axes.get_title() for axes in picture().axes if axes.axison]
    lines = [line for table in (bars(), headline()) for line in "\n".join(table).splitlines()[2:]]
    rows = [line for line in lines if line.startswith("| ")]
    assert set(titles) - {""} == {row.split(" | ")[0].removeprefix("| ") for row in rows}
    assert len(titles) == 2 * len(set(titles) - {""})


def test_the_headline_says_what_is_copied_at_most():
    *_, last = "\n".join(headline()).splitlines()
    kept = [v for name, n, own in repeated() if seeds(own) >= ENOUGH for v in unpicked(own, n).items()]
    most = max(v["memorized_fraction"] for setting, v in kept if setting in SUMMED)
    assert f"at most {share(most)} of our samples" in last


def test_rows_that_come_out_otherwise_are_told():
    row = {"method": "a", "seed": 1, "n_train": 9, "steps": 2} | dict.fromkeys(SHOWN, 0.25)
    kept = [row, row | {"steps": 4}, row | {"steps": 8}, row | {"method": "b"}]
    new = [row | {"fd_heldout": 0.25 + 2**-12}, row | {"steps": 4, "recall": 0.5}, row | {"method": "b"}]
    found = compared(kept, new)
    assert found["a"].total == 3 and found["a"].same == 1 and len(found["a"].off) == 2
    assert found["a"].off[1] == dict.fromkeys(SHOWN, 0.0) | {"recall": 0.25}
    assert str(found["a"]) == "1 of 3 rows repeat, 1 missing; apart at most (and on average): recall 0.25 (+0.12)"
    assert str(found["b"]) == "1 of 1 rows repeat"


def test_where_rows_were_drawn_is_told():
    assert where([{"drawn_on": "Some CPU, AVX2"}, {"drawn_on": "Some CPU, AVX2"}]) == "Some CPU, AVX2"
    assert where([{"drawn_on": "Some CPU, AVX2"}, {}]) == "Some CPU, AVX2 and one that was not noted"
    assert where([]) == "none"
