"""Limits that a report must keep, and two reports side by side."""

import json

import numpy as np
import pytest

from pictures import fields
from temperance.auditing import as_json, audit
from temperance.auditing.comparison import comparison_page, read_report, side_by_side
from temperance.auditing.gate import MEASURES, broken, limits
from temperance.report import Table, audit_page, html

COLOR, UNSEEN = fields(60, 0), fields(150, 1)


@pytest.fixture(scope="module")
def report():
    """Six copies, three of them mirrored, among 66."""
    generated = np.concatenate([COLOR[:3], np.ascontiguousarray(COLOR[3:6, :, ::-1]), fields(60, 2)])
    return audit(COLOR, generated, UNSEEN)


def test_gates_hold_every_measure_in_every_encoder(report):
    found = as_json(report)
    assert broken(found, limits(["0.99", "copy_auc=0.99", "flagged=6"], ["recall=0"])) == []
    (message,) = broken(found, limits(["flagged=5"], []))
    assert "flagged 6 in pixels is above --fail-above flagged=5" in message
    assert len(broken(found, limits(["0.01", "flagged_fraction=0.01"], ["vendi=1e9"]))) == 3
    (message,) = broken(found, limits(["memorized_at_most=0.1"], []))  # none can be stated where copies are found
    assert f"{found['encoders']['pixels']['memorized_ci'][1]:.4g} in pixels" in message
    none = {**found, "encoders": {"x": found["encoders"]["pixels"] | {"extracted_fraction": 0.0, "eidetic_k": None}}}
    assert broken(none, limits([], ["eidetic_k=2"])) == []  # nothing was extracted
    assert len(broken(none, limits(["eidetic_k=2"], []))) == 1
    with pytest.raises(ValueError, match="eidetic_k was not measured"):
        broken({**found, "encoders": {"x": dict.fromkeys(found["encoders"]["pixels"])}}, limits(["eidetic_k=1"], []))


def test_generated_images_that_are_held_out_are_told():
    again = np.concatenate([UNSEEN[:5], np.ascontiguousarray(UNSEEN[5:7, :, ::-1]), COLOR[:2], fields(20, 2)])
    found = audit(COLOR, again, np.concatenate([UNSEEN, COLOR[:1]]))
    told = as_json(found)
    assert told["encoders"]["pixels"]["heldout_copies"] == 7
    assert "heldout copies 7 in pixels is above" in broken(told, limits(["heldout_copies=6"], []))[0]
    page = html(audit_page(found))
    assert "7 equal held-out images" in page and "7 generated images equal" in page
    plain = audit(COLOR, fields(20, 2), UNSEEN)
    assert broken(as_json(plain), limits(["heldout_copies=0"], [])) == []
    assert "equal held-out images" not in html(audit_page(plain))
    with pytest.raises(ValueError, match="needs --heldout"):
        limits(["heldout_copies=0"], [], heldout=False)


def test_every_measure_of_a_gate_is_in_the_report(report):
    assert set(MEASURES) - {"flagged_fraction"} <= set(as_json(report)["encoders"]["pixels"])


def test_a_gate_that_nothing_could_have_failed_does_not_pass():
    few = as_json(audit(COLOR, COLOR[:9], UNSEEN[:9]))
    assert few["encoders"]["pixels"]["flagged"] == 0
    for text in ("flagged=0", "flagged_fraction=0.01"):
        with pytest.raises(ValueError, match=f"{text} cannot be checked in pixels: with 9 held-out images nothing can"):
            broken(few, limits([text], []))
    assert len(broken(few, limits(["flagged=0", "identical=0"], []))) == 1  # what is beyond its limit comes first
    seen = as_json(audit(COLOR, np.concatenate([COLOR[:40], fields(4, 2)]), np.concatenate([COLOR[:40], UNSEEN[:20]])))
    for text in ("flagged=0", "copy_auc=0.9", "memorized_adaptive=1"):
        with pytest.raises(ValueError, match="most held-out images are training images"):
            broken(seen, limits([text], []))
    assert broken(seen, limits(["identical=40"], [])) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("copy_au=1", "did you mean copy_auc"),
        ("copy_auc=low", "MEASURE=NUMBER, got 'copy_auc=low'"),
        ("5", "memorized_fraction lies between 0 and 1; 5 % is 0.05"),
        ("recall=-1", "recall lies between 0 and 1"),
        ("vendi=inf", "vendi takes a number"),
        ("copy_auc=nan", "MEASURE=NUMBER, got 'copy_auc=nan'"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_at_once(text, told):
    with pytest.raises(ValueError, match=told):
        limits([text], [])


def test_two_reports_stand_side_by_side(report, tmp_path):
    a = as_json(report)
    b = as_json(audit(COLOR, fields(66, 2), UNSEEN))
    (tmp_path / "report.json").write_text(json.dumps(a))
    found = side_by_side(read_report(tmp_path), b)
    rows, flagged = found["encoders"]["pixels"], b["encoders"]["pixels"]["flagged"]
    assert (rows["flagged"]["a"], rows["flagged"]["b"], rows["flagged"]["difference"]) == (6, flagged, flagged - 6)
    assert rows["memorized_fraction"]["null_a"] == rows["memorized_fraction"]["null_b"]
    assert found["warnings"] == []
    page = comparison_page(found, ("a.json", "b.json"))
    (table,) = page.blocks
    assert isinstance(table, Table) and len(table.rows) == len(rows)  # nothing measured is left out
    assert "Side by side" in html(page)
    a["membership"], b["membership"] = ({"auc": v, "auc_ci": [v - 0.05, v + 0.05]} for v in (0.9, 0.6))
    told, back = side_by_side(a, b)["membership"], side_by_side(b, a)["membership"]
    assert told["difference"] == pytest.approx(-0.3) and told["overlap"] is back["overlap"] is False
    b["provenance"]["sha256"]["train"] = "other"
    b["provenance"]["settings"]["fdr"] = 0.2
    assert "different train sets" in side_by_side(a, b)["warnings"][0]
    b["provenance"]["settings"] |= {"moved": 0, "duplicate_radius": 7, "quality_limit": 8}
    told = side_by_side(a, b)["warnings"][1:]
    assert "settings of fdr: 0.05 and 0.2" in told[0] and len(told) == 4
    (tmp_path / "report.json").write_text(json.dumps({**a, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        read_report(tmp_path / "report.json")
