"""Tables of an audit, by class and of two audits: what they count, how long they get, what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pages import audited, measured
from temperance import metrics as tm
from temperance import report as tr
from temperance.auditing import audit, write
from temperance.auditing.classes import by_class
from temperance.auditing.comparison import read_report, side_by_side
from temperance.data import Images
from temperance.report.audit_tables import classes

DIGITS = (
    (load_digits().images / 16 * 255).round().astype(np.uint8)[..., None][np.random.default_rng(0).permutation(1797)]
)
TRAIN, HELDOUT, REST = DIGITS[:100], DIGITS[100:900], DIGITS[900:]


def near(*index):
    n = len(index)
    return tm.Proximity(torch.tensor(index), torch.full((n,), 0.4), torch.full((n,), 0.8))


def test_a_flag_counts_for_the_class_of_the_matched_image():
    """A mirrored copy of a cat may lie nearest to a dog as it is."""
    train = Images(np.zeros((4, 1, 1, 1), np.uint8), labels=np.array([0, 0, 1, 1]), classes=("cat", "dog"))
    flagged, matched = torch.tensor([True, True, False]), torch.tensor([1, 3, 2])
    cat, dog = by_class(train, near(2, 3, 2), None, flagged, matched)
    assert (cat.generated, cat.flagged) == (0, 1) and (dog.generated, dog.flagged) == (3, 1)
    assert [row.flagged for row in by_class(train, near(2, 3, 2), None, None, matched)] == [None, None]


def many(n):
    """Classes of growing size, two of which have copies or flags."""
    rows = [tr.Class(f"patient {i}", 10 + i, 1, measured("memorized_fraction", 0.0), 0) for i in range(n)]
    rows[3] = tr.Class("copied", 2, 10, measured("memorized_fraction", 0.9), 0)
    rows[5] = tr.Class("flagged", 1, 0, None, 4)
    return tuple(rows)


def test_of_thousands_of_classes_the_worst_are_shown_and_the_page_stays_small():
    page = tr.audit_page(audited(classes={"pixels": many(16_000), "dct": many(16_000)}))
    assert len(tr.html(page).encode()) < 1_000_000
    table = next(b for b in page.blocks if b.title == "By class · pixels")
    names = [row.cells[0].text for row in table.rows]
    assert names[:4] == ["copied", "flagged", "patient 15999", "patient 15998"] and len(names) == 50
    assert "15,950 others are left out here" in table.caption
    (few,) = classes("pixels", many(50))
    assert [row.cells[0].text for row in few.rows] == [c.label for c in many(50)] and "left out" not in few.caption


@pytest.mark.parametrize("broken", [{}, {"sha256": None}, {"sha256": {"train": "a"}}, {"images": {}}, []])
def test_a_report_that_does_not_name_its_sets_is_refused(broken, tmp_path):
    whole = {"sha256": {"generated": "a"}, "images": {"generated": 1}}
    provenance = whole | broken if broken else broken
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "encoders": {}, "provenance": provenance}))
    with pytest.raises(ValueError, match="does not say of which images it is .*audit again"):
        read_report(tmp_path)


def test_warnings_of_a_comparison_come_in_one_order():
    provenance = {"sha256": {}, "images": {"generated": 1}}
    a, b = ({"encoders": dict.fromkeys(names), "provenance": provenance} for names in ("hgfe", "badc"))
    assert [text[-2] for text in side_by_side(a, b)["warnings"]] == list("abcdefgh")


def test_the_figures_are_written_even_if_the_page_cannot_be(tmp_path, monkeypatch):
    def too_large(page, path):
        raise ValueError("the page is too large without pictures")

    monkeypatch.setattr("temperance.auditing.document.write_page", too_large)
    report = audit(TRAIN, REST[:20], HELDOUT, quality_limit=2)
    with pytest.raises(ValueError, match="without pictures"):
        write(report, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_flags_of_mirrored_copies_count_for_the_class_that_was_copied():
    """Of eight classes that take turns, six mirrored copies of the first one."""
    train = replace(Images(TRAIN), labels=np.arange(100) % 8)
    copies = np.ascontiguousarray(TRAIN[::8][:6, :, ::-1])
    found = audit(train, np.concatenate([copies, REST[:40]]), HELDOUT, quality_limit=2)
    flagged = {row.label: row.flagged for row in found.classes["pixels"]}
    assert flagged["0"] >= 6 and sum(flagged.values()) == found.flags["pixels"] <= 8
