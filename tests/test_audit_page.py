"""The page of an audit: every figure, what was attacked, keyboard, planted controls, and a real browser."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from pages import Outline, audited, measured
from temperance import report as tr
from temperance.report.audit_tables import MEASURES
from temperance.report.blocks import at_most
from temperance.report.planted_block import planted_blocks


def test_audit_page_shows_every_number_with_interval_null_and_source():
    shown = tr.audit_page(audited())
    (table,) = [b for b in shown.blocks if b.title == "Measurements · pixels"]
    heads = [c.label for c in table.columns]
    assert heads == ["Measurement", "Value", "95 % interval", "Real data", "Better", "Source"]
    assert [r.group for r in table.rows if r.group] == list(MEASURES)
    for cells in (r.cells for r in table.rows):
        assert cells[0].detail.endswith(".") and cells[5].text == "Someone 2020"
        assert all(c.text != "" for c in cells)
    copied = table.rows[0].cells
    assert (copied[1].text, copied[1].detail) == ("0.0 %", "0 of 150")
    assert copied[2].detail == "at most 2.0 % (3/n)"
    assert "on 150 images of each set" in table.caption
    rarest = {r.cells[0].text: r.cells for r in table.rows}["Rarest extracted"]
    assert rarest[2].text == "–"  # a count of what was found has no interval


def test_audit_page_breaks_copying_down_by_class():
    (table,) = [b for b in tr.audit_page(audited()).blocks if b.title.startswith("By class")]
    cat, dog = ([c.text for c in r.cells] for r in table.rows)
    assert cat[:4] == ["cat", "50", "140", "0.0 %"] and table.rows[0].cells[4].detail == "at most 2.2 % (3/n)"
    assert dog == ["dog", "40", "0", "–", "–", "–", "0"]


def test_audit_page_says_what_equals_a_training_image_first():
    shown = tr.audit_page(audited(identical={"pixels": 50, "dct": 1}))
    assert "In pixels: 50 equal a training image, as it is, mirrored or moved; 0 of 150" in shown.lede
    assert "In dct: 1 equals a training image, as it is or mirrored; 0 of 150" in shown.lede
    assert shown.tiles[0].value == "50 of 150"
    lone = tr.audit_page(audited(identical={"pixels": 50}, sizes={"train": 90, "generated": 150}, nulls={}))
    assert "90 training images; 50 equal a training image, as it is, mirrored or moved. No held-out" in lone.lede
    assert [(t.value, t.label) for t in shown.tiles if "equal" in t.label] == [
        ("50 of 150", "equal a training image · pixels"),
        ("1 of 150", "equal a training image · dct"),
    ]
    assert [t.detail for t in shown.tiles if "equal" in t.label] == [
        "as it is, mirrored or moved",
        "as it is or mirrored",
    ]
    assert "equal" not in tr.audit_page(audited()).lede


def test_audit_page_names_only_the_ways_that_were_looked_for():
    """A search for plain copies tells nothing of mirrored ones, and moved ones are looked for in pixels only."""
    settings = {"settings": {"moved": False}}
    shown = tr.audit_page(audited(identical={"pixels": 7, "dct": 7}, provenance=settings))
    assert "In pixels: 7 equal a training image, as it is; 0 of 150" in shown.lede and "mirrored" not in shown.lede
    assert [t.detail for t in shown.tiles if "equal" in t.label] == ["as it is", "as it is"]
    lone = tr.audit_page(audited(identical={"dct": 2}, sizes={"train": 90, "generated": 150}, nulls={}))
    assert "; 2 equal a training image, as it is or mirrored. No held-out" in lone.lede


def test_audit_page_says_how_many_could_not_be_flagged():
    null = {"heldout": 40, "identical_heldout": 40, "fewest_flags": 9}
    shown = tr.audit_page(audited(flags={"pixels": 0, "dct": 3}, nulls={"pixels": null, "dct": null}))
    assert "40 real images that the model never saw went through" in shown.lede  # not the 80 that were given
    assert "fewer than 9 cannot be flagged here." in shown.lede and "3 are closer than chance allows." in shown.lede
    assert [t.detail for t in shown.tiles if t.label.startswith("closer than chance")] == [
        "fewer than 9 cannot be flagged",
        "flagged at the chosen rate",
    ]


def test_audit_page_says_where_none_can_be_flagged():
    null = {"heldout": 40, "identical_heldout": 40, "fewest_flags": 1345}
    shown = tr.audit_page(audited(flags={"pixels": 0, "dct": None}, nulls={"pixels": null, "dct": None}))
    assert "; none can be flagged here." in shown.lede and "1345" not in shown.lede
    assert [t.detail for t in shown.tiles if t.label.startswith("closer than chance")] == ["none can be flagged"]


def test_audit_page_does_not_call_training_images_unseen():
    copied = dict.fromkeys(MEASURES["Copying"], measured("memorized_fraction", 0.3))
    report = audited(measurements={"pixels": copied}, nulls={"pixels": {"heldout": 80, "identical_heldout": 60}})
    mixed = tr.audit_page(report)
    assert "80 held-out images, of which 60 are training images, went through" in mixed.lede
    assert "30.0 % are copies by d1/d2 (held-out images: 5.0 %)" in mixed.lede
    assert not any("unseen" in text for text in (mixed.lede, *(t.label + t.detail for t in mixed.tiles)))
    assert "(unseen real images: 5.0 %)" in tr.audit_page(replace(report, nulls={})).lede


@pytest.mark.parametrize(("n", "said"), [(2, "100.0"), (150, "2.0"), (500, "0.6"), (12_000, "0.025"), (7, "42.9")])
def test_an_upper_bound_is_never_rounded_down(n, said):
    assert at_most(n) == f"at most {said} %"
    assert float(said) >= min(100, 300 / n) - 1e-9


def test_audit_page_says_what_was_attacked_and_what_not():
    with_model, without = tr.html(tr.audit_page(audited())), tr.html(tr.audit_page(audited(membership=())))
    assert "Membership test" in with_model and "optimistic choice" in with_model
    assert "none was given" not in with_model and "The model itself: none was given" in without
    assert "Membership test" not in without


def test_audit_page_is_reachable_by_keyboard_and_can_be_signed():
    text = tr.html(tr.audit_page(audited()))
    found = Outline(text)
    first = next(a for tag, a in found.tags if tag == "a")
    assert first["href"] == "#content" and first["class"] == "skip"
    assert all(link[1:] in found.ids for link in found.links)
    assert ":focus-visible" in text and ".skip:focus" in text
    assert all(a.get("tabindex") == "0" for tag, a in found.tags if a.get("class") == "scroll")
    assert all("scope" in a for tag, a in found.tags if tag == "th")
    assert [text.count(f"<dt>{blank}</dt>") for blank in ("Name", "Decision", "Date", "Signature")] == [1] * 4
    assert not re.search(r"\b(anonymous|anonymized|safe|safely)\b", text, re.IGNORECASE)


@pytest.mark.parametrize(("calibration", "null", "said"), [(30, "conformal", True), (60, "tail", False)])
def test_planted_controls_say_when_nothing_could_be_found(calibration, null, said):
    kind = {
        "recall": 0.0, "recall_ci": [0.0, 0.06], "fdr": 0.0, "source_named": 1.0,
        "curve": [{"fdr": 0.05, "recall": 0.0, "false": 0.0}],
    }  # fmt: skip
    planted = {
        "copies": 60, "share": 0.01, "rounds": 50, "calibration": calibration, "negatives": calibration, "null": null,
        "chosen_fdr": 0.05, "kinds": {"exact": kind},
    }  # fmt: skip
    page = tr.html(tr.Page("t", "l", (), tuple(planted_blocks("pixels", planted, 0)), "k"))
    assert ("nothing can be flagged" in page) == said


# ---- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(path, profile):
    """What a browser says on its console, which addresses the page asks for, and how wide it is at 1280 pixels."""
    log = profile / "net.json"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--enable-logging=stderr",
        f"--log-net-log={log}", "--window-size=1280,900", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    text = log.read_text().rstrip()
    events = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")["events"]
    seen = [e["params"] for e in events if "url" in e.get("params", {})]
    # The browser's own requests (updates, the clock) have no origin; the page's have one.
    asked = {p["url"] for p in seen if p.get("initiator", "not an origin") != "not an origin"}
    return re.findall(r"CONSOLE.*", done.stderr), asked, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium to open the page in a browser")
def test_a_browser_opens_the_page_without_errors_or_requests(tmp_path):
    good = tr.write_page(tr.audit_page(audited()), tmp_path / "report.html")
    assert good.stat().st_size < 5_000_000
    says, asked, dom = opened(good, tmp_path / "a")
    assert says == [] and asked == set()
    assert "Measurements · pixels" in dom and dom.count("<svg") == 8


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium to open the page in a browser")
def test_the_browser_test_can_fail(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://example.org/a.png"><script>console.error("boom")</script>')
    says, asked, _ = opened(bad, tmp_path / "b")
    assert "boom" in says[0] and asked == {"http://example.org/a.png"}
