"""What a study concludes from its rows, and how its page says so."""

import pytest

from temperance.report import Page
from temperance.report.figures import NAMED, frontier, numbered
from temperance.study import Plan
from temperance.study.advice import (
    ACCEPTED,
    advise,
    against_early_stop,
    half_stop,
    memorization_step,
    scaling,
    spacing_stop,
)
from temperance.study.page import page


def row(method: str, steps: int, copied: float, fd: float, recall: float, n: int = 100, seed: int = 0) -> dict:
    return {
        "method": method, "steps": steps, "n_train": n, "seed": seed, "memorized_fraction": copied,
        "heldout_memorized_fraction": 0.0, "copy_auc": 0.5, "fd_heldout": fd, "recall": recall, "precision": 0.9,
    }  # fmt: skip


def laid_out(rows: list[dict], **plan: int) -> Page:
    """The page of a study with these rows."""
    about = {
        "sampler": "heun", "nfe": 39, "fd_floor": 5.0, "ratio_median": 0.9, "heldout_ratio_median": 0.9,
        "fd_train": 9.0, "final_sigma": 0.0, "train_seconds": 1.0, "sample_seconds": 1.0,
    }  # fmt: skip
    rows = [about | r for r in rows]
    found = {
        "rows": rows, "early_stop": advise(rows), "against_early_stop": against_early_stop(rows),
        "provenance": {"split": "as drawn"},
    }  # fmt: skip
    return page(Plan("digits", "digits", **plan), found)


def test_memorization_step_is_read_between_looks():
    clean, copying = ({"memorized_fraction": m, "heldout_memorized_fraction": 0.0} for m in (0.0, 0.1))
    found = memorization_step([(100, clean), (400, copying)])
    assert found == pytest.approx(200)  # the accepted .05 is half way, on a logarithmic axis
    assert memorization_step([(100, clean)]) is None


def test_scaling_recovers_a_power_law():
    law = scaling({n: 7 * n**1.5 for n in (50, 100, 400)})
    assert law is not None
    assert (law.factor, law.exponent) == (pytest.approx(7), pytest.approx(1.5))
    assert scaling({50: 3.0}) is None


def test_sizes_that_copied_before_the_first_look_are_not_fitted():
    rows = [
        row("conditional", s, m, 10, 0.1) | {"n_train": n}
        for n, copied in ((50, (0.3, 0.5, 0.7)), (100, (0.0, 0.1, 0.4)), (400, (0.0, 0.0, 0.1)))
        for s, m in zip((10, 20, 40), copied)
    ]
    found = advise(rows)
    assert found["passed_before_first_look"] == [50]
    assert found["memorization_step"]["50"] == 10
    assert found["scaling"]["points"] == 2


def test_half_of_the_steps_that_copies_came_after():
    """Of 160 steps for one seed and of 80 for the other, where .01 of unseen images count as copies."""
    looks = {0: (0.0, 0.02, 0.06, 0.05, 0.3), 1: (0.0, 0.0, 0.06, 0.07, 0.2)}
    rows = [
        row("conditional", s, m, fd, 0.1, seed=seed) | {"heldout_memorized_fraction": 0.01}
        for seed, copied in looks.items()
        for s, m, fd in zip((20, 40, 57, 80, 160), copied, (50, 40, 35, 30, 9))
    ]
    found = half_stop(rows, "conditional", 100)
    assert found is not None and found["copies"] == [160, 80] and found["steps"] == [80, 40]
    assert found["fd_heldout"] == 35 and found["memorized_fraction"] == pytest.approx(0.025)
    assert advise(rows)["half_stop"] == {"100": found}
    for fewer in ([r for r in rows if r["steps"] < 100], [r for r in rows if r["steps"] > 100], []):
        assert half_stop(fewer, "conditional", 100) is None


def test_the_stop_that_the_training_images_tell():
    """One seed comes as near as they are at 40 steps and is let go on, the other never does."""
    looks = {0: (0.2, 0.5, 0.4, 0.9), 1: (0.1, 0.2, 0.3, 0.4)}
    rows = [
        row("conditional", s, 0.0, fd, 0.1, seed=seed) | {"spacing_auc": auc}
        for seed, level in looks.items()
        for s, auc, fd in zip((20, 40, 80, 160), level, (50, 40, 30, 20))
    ]
    found = spacing_stop(rows, "conditional", 100)
    assert found is not None and found["steps"] == [40, 160] and found["fd_heldout"] == 30
    assert advise(rows)["spacing_stop"] == {"100": found}
    said = str(laid_out(rows))
    assert "one another on 100 images, as train --set on_copying=prevent stops: step 40 and 160, 0% copied" in said
    known = [{k: v for k, v in r.items() if k != "spacing_auc" or r["steps"] <= 40} for r in rows]
    assert spacing_stop([r for r in known if r["seed"] == 0], "conditional", 100) is not None
    assert spacing_stop(known, "conditional", 100) is None is spacing_stop([], "conditional", 100)


def test_the_early_stop_is_the_best_look_that_copies_no_more():
    stops = [
        row("conditional", s, m, fd, r) for s, m, fd, r in ((10, 0.0, 30, 0.2), (20, 0.04, 20, 0.3), (40, 0.5, 10, 0.1))
    ]
    (verdict,) = against_early_stop([*stops, row("tangent", 40, 0.05, 19, 0.6)])
    assert verdict["early_stop"]["steps"] == 20
    assert verdict["fd_not_worse"]
    assert verdict["recall_higher"]
    (worse,) = against_early_stop([*stops, row("tangent", 40, 0.05, 21, 0.6)])
    assert not worse["fd_not_worse"]


def test_a_variant_of_plain_training_is_stopped_early_itself():
    """Its last look copies .3; of the two that copy at most .05 the better one counts."""
    plain = [row("conditional", 10, 0.0, 30, 0.5), row("conditional", 20, 0.02, 25, 0.4)]
    guided = [(20, 0.0, 28, 0.6), (40, 0.05, 21, 0.5), (80, 0.3, 9, 0.2)]
    (verdict,) = against_early_stop([*plain, *(row("conditional/guided", *look) for look in guided)])
    assert (verdict["steps"], verdict["fd_heldout"], verdict["early_stop"]["steps"]) == (40, 21, 20)
    assert verdict["fd_not_worse"] and verdict["recall_higher"]


def test_an_early_stop_that_always_copies_more_is_said_to():
    (verdict,) = against_early_stop([row("conditional", 10, 0.3, 9, 0.2), row("tangent", 10, 0.1, 10, 0.5)])
    assert not verdict["early_stop"]["copies_no_more"]


def test_means_are_over_seeds():
    rows = [row("conditional", 10, 0.0, 10, 0.2), row("conditional", 10, 0.0, 20, 0.2, seed=1)]
    (verdict,) = against_early_stop([*rows, row("tangent", 10, 0.0, 14, 0.5)])
    assert verdict["early_stop"]["fd_heldout"] == 15


def test_a_first_look_at_what_is_accepted_has_not_passed_it():
    rows = [row("conditional", s, m, 10, 0.1) for s, m in ((100, ACCEPTED), (200, 0.2), (400, 0.4))]
    found = advise(rows)
    assert found["passed_before_first_look"] == [] and found["memorization_step"]["100"] == 100
    assert found["half_stop"]["100"]["steps"] == [100]
    looks = [row("conditional", s, 14 / 100, 10, 0.1) | {"heldout_memorized_fraction": 45 / 500} for s in (10, 20)]
    assert advise(looks)["memorization_step"]["100"] is None  # .14 - .09 is .05, however it is rounded


def test_a_variant_that_copies_more_at_every_look_beats_nothing():
    plain = [row("conditional", s, 0.0, 30, 0.3) for s in (10, 20)]
    rows = [*plain, *(row("conditional/guided", s, 0.9, 5, 0.9) for s in (10, 20))]
    (verdict,) = against_early_stop(rows)
    assert verdict["copies_more"]
    (table,) = [b for b in laid_out(rows).blocks if b.title == "Against the best early stop"]
    cells = table.rows[0].cells
    assert (cells[0].detail, cells[-1].text) == ("step 10 · copies more at every look", "no")


def test_a_method_has_one_color_wherever_it_is_drawn():
    """A guided method has later looks only, a closed form none: sorted by steps they would change places."""
    rows = [row("conditional/guided", 80, 0.0, 20, 0.5)]
    rows += [row(m, s, 0.0, 20, 0.5) for m in ("conditional", "tangent") for s in (20, 40, 80)]
    rows += [row("closed-form-tangent", 0, 0.0, 25, 0.5)]
    shown = laid_out(rows)
    tiles = [(t.label, t.series) for t in shown.tiles if t.series is not None]
    assert tiles == [("conditional/guided", 0), ("conditional", 1), ("tangent", 2), ("closed-form-tangent", 3)]


def test_copies_of_a_single_seed_are_told():
    rows = [row("conditional", s, 0.12 * (seed == 2), 20, 0.5, seed=seed) for seed in (0, 1, 2) for s in (10, 20)]
    (notes,) = [b for b in laid_out(rows).blocks if b.title == "What to keep in mind"]
    assert "on average over seeds" in notes.items[1] and "a single one copied is 12%" in notes.items[1]


def test_unseen_images_of_other_sizes_are_not_averaged_in():
    rows = [
        row("conditional", s, 0.3, 20, 0.5, n=n) | {"heldout_memorized_fraction": null}
        for n, null in ((50, 0.2), (400, 0.0))
        for s in (10, 20)
    ]
    (curves,) = [b for b in laid_out(rows, n_train=400).blocks if b.title == "Over training steps"]
    lone = laid_out([r for r in rows if r["n_train"] == 400], n_train=400)
    (alone,) = [b for b in lone.blocks if b.title == "Over training steps"]
    assert curves.figures[0].svg == alone.figures[0].svg


def test_many_methods_are_numbered_and_what_is_left_out_is_told():
    rows = [row(f"tangent/h={i}", s, 0.0, 20 + i, 0.5) for i in range(NAMED + 1) for s in (10, 20)]
    shown = laid_out(rows)
    (pareto,) = [b for b in shown.blocks if b.title == "Copying against quality"]
    assert "1 tangent/h=0 (recall 0.500), 2 tangent/h=1" in pareto.caption
    (curves,) = [b for b in shown.blocks if b.title == "Over training steps"]
    assert f"The first 8 of {NAMED + 1} methods" in curves.caption and f"first 8 of {NAMED + 1} methods" in shown.lede
    assert numbered([("a", 0.1, 2.0, "b", 0)] * NAMED) == ""
    assert (
        "tangent" not in frontier([("tangent", 0.1, 2.0, "b", 0)] * (NAMED + 1), name="f", xlabel="x", ylabel="y").svg
    )


def test_an_interval_over_seeds_is_not_that_of_one_of_them():
    rows = [row("conditional", 10, 1.0, 20, 0.5, seed=s) | {"memorized_ci": [0.88, 1.0]} for s in (0, 1)]
    for own, said in ((rows, ""), (rows[:1], "88.0–100.0 %")):
        (table,) = [b for b in laid_out(own).blocks if b.title == "Results"]
        assert table.rows[1].cells[1].detail == said
