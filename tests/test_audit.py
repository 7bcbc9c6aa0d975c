import json
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pictures import fields
from temperance.auditing import KEYS, Encoded, as_json, audit, gate, write
from temperance.auditing.comparison import side_by_side
from temperance.auditing.sets import in_train, overlapping
from temperance.data import Images
from temperance.features import Pixels
from temperance.recipe import closed_form
from temperance.report import audit_page, html

DIGITS = (
    (load_digits().images / 16 * 255).round().astype(np.uint8)[..., None][np.random.default_rng(0).permutation(1797)]
)
TRAIN, HELDOUT, REST = DIGITS[:100], DIGITS[100:900], DIGITS[900:]


def planted(copies=10, n=200):
    return np.concatenate([TRAIN[:copies], REST[: n - copies]])


@pytest.fixture(scope="module")
def report():
    return audit(TRAIN, planted(), HELDOUT)


def test_planted_copies_are_found_with_their_source(report):
    best = report.copies[:10]
    assert sorted(c["generated"] for c in best) == list(range(10))
    assert all(c["train"] == c["generated"] and c["distance"] == 0 and c["flagged"] for c in best)
    assert sum(c["generated"] >= 10 for c in report.copies) <= 4
    found = report.measurements["pixels"]["memorized_fraction"]
    assert (found.value, found.n, found.null) == (0.05, 200, 0.00125)


def test_json_has_every_key_of_the_interface(report, tmp_path):
    page, data = write(report, tmp_path)
    loaded = json.loads(data.read_text())
    promised = {*KEYS, "memorized_ci", "heldout_memorized_fraction", "heldout_ratio_median", "flagged", "fdr"}
    assert loaded["schema"] == 1
    assert promised <= loaded["encoders"]["pixels"].keys()
    assert all(loaded["encoders"]["pixels"][key] is not None for key in promised)
    assert {"generated", "train", "encoder", "distance", "ratio", "p_value"} <= loaded["copies"][0].keys()
    assert {"sha256", "versions", "seed", "settings"} <= loaded["provenance"].keys()
    assert set(loaded["provenance"]["sha256"]) == {"train", "generated", "heldout"}
    assert page.stat().st_size < 5_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_page_shows_values_beside_their_null_and_promises_nothing(report):
    text = html(audit_page(report))
    assert not re.search(r"\b(anonymous|safe)\b", text, re.IGNORECASE)
    assert "What was not" in text
    table = next(b for b in audit_page(report).blocks if b.kind == "table")
    heads = [c.label for c in table.columns]
    copied = dict(zip(heads, (c.text for c in table.rows[0].cells)))
    assert (copied["Measurement"], copied["Value"], copied["Real data"]) == ("Copied", "5.0 %", "0.1 %")
    assert text.count("identical") >= 10


def test_same_input_gives_the_same_report(report):
    again = audit(TRAIN, planted(), HELDOUT)
    assert as_json(again) == as_json(report)
    assert html(audit_page(again)) == html(audit_page(report))


def test_no_copies_is_at_most_three_in_n():
    report = audit(TRAIN, REST[:150], HELDOUT)
    text = html(audit_page(report))
    assert report.measurements["pixels"]["memorized_fraction"].value == 0
    assert "0 of 150" in text and "at most 2.0 %" in text
    assert abs(report.measurements["pixels"]["copy_auc"].value - 0.5) < 0.1


def test_without_heldout_the_null_keys_are_null():
    report = audit(TRAIN, planted())
    found = as_json(report)["encoders"]["pixels"]
    for key in (
        "heldout_memorized_fraction", "heldout_ratio_median", "copy_auc", "flagged",
        "fd_heldout", "fd_ratio", "ct_score",
    ):  # fmt: skip
        assert found[key] is None
    assert {c["generated"] for c in report.copies} >= set(range(10))
    assert all(c["p_value"] is None for c in report.copies)
    assert report.provenance["settings"]["reference"] == "train"
    page = html(audit_page(report))
    assert "No held-out" in page and "KID to training" in page and "KID to unseen" not in page
    both = side_by_side(as_json(report), as_json(report))["encoders"]["pixels"]
    assert "kid_train" in both and "kid" not in both


def test_too_few_heldout_images_for_the_rate_is_said():
    report = audit(TRAIN, planted(10, 200), HELDOUT[:15])
    (note,) = report.provenance["settings"]["notes"]
    assert "1/16" in note and "cannot be reached" in note
    assert note.replace("'", "&#39;") in html(audit_page(report))
    assert as_json(report)["encoders"]["pixels"]["flagged"] == 0
    assert len(report.copies) == 10  # identical images are copies without any statistics


def test_copies_that_no_figure_counts_are_told_first():
    mirrored = np.concatenate([np.ascontiguousarray(TRAIN[:20, :, ::-1]), REST[:180]])
    report = audit(TRAIN, mirrored, HELDOUT[:40])
    found = as_json(report)["encoders"]["pixels"]
    assert (found["memorized_fraction"], found["flagged"], found["identical"]) == (0, 0, 20)
    assert found["null"]["fewest_flags"] > 20 and "In pixels: 20 equal a training image" in audit_page(report).lede
    assert gate.broken(as_json(report), gate.limits(["identical=0"], []))


def test_sets_of_different_size_are_refused_with_both_names():
    with pytest.raises(ValueError, match="train is 8x8 with 1 channel and generated is 6x8 with 1 channel"):
        audit(TRAIN, TRAIN[:, :6])
    with pytest.raises(ValueError, match="train is 8x8 with 1 channel and heldout is 8x8 with 3 channels"):
        audit(TRAIN, TRAIN, TRAIN.repeat(3, 3))


@pytest.mark.parametrize(
    ("fdr", "count", "words"),
    [
        (0.0, 5, "fdr must lie between 0 and 1, got 0.0; 0.05 is usual"),
        (1.0, 5, "fdr must lie between 0 and 1, got 1.0; 0.05 is usual"),
        (0.05, 0, "generated holds no images; give at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(fdr, count, words):
    with pytest.raises(ValueError) as error:
        audit(TRAIN, REST[:count], fdr=fdr)
    assert str(error.value) == words


@pytest.mark.parametrize("n", [1, 2, 5])
def test_very_small_sets_work(n, tmp_path):
    whole_set = ("fd_train", "kid", "mifid")
    for sets in ((TRAIN, REST[:n], HELDOUT[:n]), (TRAIN[: n + 1], REST[:n]), (TRAIN, REST[:n])):
        report = audit(*sets)
        page, data = write(report, tmp_path)
        found = json.loads(data.read_text())["encoders"]["pixels"]
        assert list(report.sizes.values()) == [len(s) for s in sets]
        assert [found[key] is not None for key in whole_set] == [n >= 2] * 3  # no spread in one image
        assert found["precision"] is None  # needs 20 images
        assert found["quality_n"] == (n if n > 1 else None)
        assert 0 < found["ratio_median"] <= 1 and 0 <= found["memorized_fraction"] <= 1
        assert found["flagged"] == (0 if len(sets) == 3 else None)
        assert page.read_text().count("<li><div") == n


def test_a_matched_set_that_is_constant_has_no_likelihood():
    """Of blank training images with some others the matched sample may hold the blank ones alone."""
    blank = np.concatenate([TRAIN[:2], np.zeros((400, *TRAIN.shape[1:]), np.uint8)])
    assert "fld" not in audit(blank, REST[:20], HELDOUT[:60]).measurements["pixels"]


@pytest.mark.parametrize("n", [1, 3])
def test_one_distinct_training_image_is_refused_before_any_work(n, capsys):
    with pytest.raises(ValueError, match=f"1 distinct image among {n};"):
        audit(TRAIN[:1].repeat(n, 0), REST[:3], progress=True)
    assert capsys.readouterr().err == ""


def test_identical_sets_work(tmp_path):
    report = audit(TRAIN, TRAIN, TRAIN)
    write(report, tmp_path)
    found = report.measurements["pixels"]
    assert found["memorized_fraction"].value == found["memorized_fraction"].null == 1
    assert found["copy_auc"].value == 0.5
    assert found["coverage"].value == found["recall"].value == 1
    assert found["fd_train"].value == pytest.approx(0, abs=1e-9)
    assert report.flags["pixels"] == 0


def test_moved_copies_are_found_in_the_right_view():
    moved = np.concatenate([TRAIN[:10, :, ::-1], REST[:190]])
    plain = audit(TRAIN, moved, HELDOUT, moved=False)
    seen = audit(TRAIN, moved, HELDOUT)
    hits = {c["generated"] for c in seen.copies if c["distance"] == 0 and c["train"] == c["generated"]}
    assert hits == set(range(10))
    assert not hits & {c["generated"] for c in plain.copies if c["distance"] == 0}
    assert {c["view"] for c in seen.copies if c["generated"] < 10} == {"mirrored"}
    assert {p.generated: p.neighbors[0].name for p in seen.pairs["pixels"]}["3"] == "3"


def test_a_moved_copy_at_no_distance_is_listed_where_nothing_can_be_flagged():
    shifted = np.roll(TRAIN[:3], 1, 2)  # digits have borders of their own to lose
    found = audit(TRAIN, np.concatenate([shifted, REST[:40]]), HELDOUT[:10], quality_limit=2)
    certain = [c for c in found.copies if c["distance"] == 0]
    assert found.flags["pixels"] == 0 and {c["generated"] for c in certain} <= {0, 1, 2} and certain


def test_an_encoder_that_is_named_twice_is_looked_through_once_and_sets_are_described():
    found = audit(TRAIN, REST[:30], HELDOUT, encoders=(Pixels(), Pixels()), quality_limit=2)
    once = audit(TRAIN, REST[:30], HELDOUT, quality_limit=2)
    assert found.copies == once.copies and found.combined is None
    assert found.provenance["shape"] == [8, 8, 1] and found.provenance["left_out"] == {
        "train": 0, "generated": 0, "heldout": 0,
    }  # fmt: skip


def test_what_differs_in_brightness_alone_is_no_equal():
    """Relit copies lie at distance 0 of the match, and are listed; a moved one of the same pixels is equal."""
    train = np.concatenate([fields(40, 0), np.full((1, 16, 16, 3), 120, np.uint8)])
    dark = fields(1, 0) // 2 + 60
    others = [dark + 25, np.full((1, 16, 16, 3), 128, np.uint8), np.roll(train[5:6], 2, 1), train[6:7, :, ::-1]]
    found = audit(
        np.concatenate([train, dark]), np.concatenate([*others, fields(30, 1)]), fields(60, 2), quality_limit=2
    )
    assert found.identical["pixels"] == 2
    assert {0, 2, 3} <= {c["generated"] for c in found.copies if c["distance"] == 0}


def test_flat_images_of_other_shades_do_not_blind_the_flags():
    """Blank tiles: one that is trained on, two of other shades held out."""
    flat = [np.full((1, 16, 16, 3), shade, np.uint8) for shade in (120, 100, 135)]
    train, heldout, new = fields(150, 0), fields(120, 1), np.concatenate([fields(150, 0)[:3], fields(97, 2)])
    plain = audit(train, new, heldout, quality_limit=2)
    mixed = audit(np.concatenate([train, flat[0]]), new, np.concatenate([heldout, *flat[1:]]), quality_limit=2)
    assert mixed.flags == plain.flags == {"pixels": 3} and mixed.nulls["pixels"]["fewest_flags"] == 1


def test_mirrored_copies_are_found_in_any_space():
    class Left:
        name = "left"

        def __call__(self, images):
            return images[..., :4].flatten(1)

    moved = np.concatenate([TRAIN[:10, :, ::-1], REST[:40]])
    found = audit(TRAIN, moved, HELDOUT, encoders=(Left(),), quality_limit=2)
    hits = {c["generated"]: (c["train"], c["view"]) for c in found.copies if c["distance"] == 0}
    assert {i: hits[i] for i in range(10)} == {i: (i, "mirrored") for i in range(10)}


def test_finished_work_of_another_question_is_not_taken_for_its_own(tmp_path):
    """One folder of unfinished work, left by an audit with other settings."""
    near = np.concatenate([TRAIN[:30], TRAIN[:30] // 2 * 2])  # pairs a gray level apart
    sets = (near, np.concatenate([TRAIN[30:50, :, ::-1], near[:20]]), HELDOUT[:60])
    for changes in ({}, {"moved": False}, {"duplicate_radius": 0.5}):
        alone, found = (as_json(audit(*sets, quality_limit=2, work=w, **changes)) for w in (None, tmp_path))
        assert found == alone


def test_a_copy_is_named_after_the_first_of_its_near_duplicates():
    near = np.concatenate([TRAIN[:30], np.minimum(TRAIN[:30], 254)])
    found = audit(near, np.concatenate([near[30:33], REST[:40]]), HELDOUT[:60], duplicate_radius=0.5, quality_limit=2)
    named = {c["generated"]: (c["train"], c["train_duplicates"]) for c in found.copies}
    assert [named[i] for i in range(3)] == [(i, [30 + i]) for i in range(3)]


def test_names_of_files_are_reported():
    names = tuple(f"a/{i}.png" for i in range(100))
    report = audit(Images(TRAIN, names=names), Images(TRAIN[5:8], names=("x.png", "y.png", "z.png")))
    assert {(c["generated"], c["train"]) for c in report.copies} == {
        ("x.png", "a/5.png"), ("y.png", "a/6.png"), ("z.png", "a/7.png"),
    }  # fmt: skip


def test_tensors_and_arrays_mean_the_same():
    tensor = Images(planted()).tensor()
    assert as_json(audit(TRAIN, tensor, HELDOUT))["copies"] == as_json(audit(TRAIN, planted(), HELDOUT))["copies"]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (
            torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
            r"got uint8 \[3, 1, 8, 8\]; stored pixels are given as a NumPy array",
        ),
        (torch.zeros(3, 8, 8), r"got float32 \[3, 8, 8\]"),
        (torch.linspace(0, 255, 192).reshape(3, 1, 8, 8), r"in \[-1, 1\], got 0 to 255"),
    ],
)
def test_tensors_that_hold_no_images_from_minus_1_to_1_are_refused(tensor, words):
    with pytest.raises(ValueError, match=words):
        audit(TRAIN, tensor)


def test_samples_that_nobody_clamped_are_accepted():
    loud = Images(planted(5, 20)).tensor() * 1.6  # stored as they would be in a file
    assert audit(TRAIN, loud, quality_limit=2).sizes["generated"] == 20


def test_a_model_without_held_out_images_is_refused_before_any_work(capsys):
    with pytest.raises(ValueError, match="needs non-members"):
        audit(TRAIN, REST[:3], model=lambda x, _: x, progress=True)
    assert capsys.readouterr().err == ""


def test_relit_copies_are_not_called_identical():
    train = TRAIN // 2
    relit = np.concatenate([train[:3] + 20, train[3:6], np.ascontiguousarray(train[6:8, :, ::-1]), REST[:60] // 2])
    report = audit(train, relit, quality_limit=2)
    cards = next(b for b in audit_page(report).blocks if b.kind == "gallery").cards
    facts = {dict(card.facts)["image"]: (dict(card.facts)["match distance"], card.flag) for card in cards}
    assert all(facts[str(i)][0] == "0.000" for i in range(8))
    assert [facts[str(i)][1] == "identical" for i in range(8)] == [False] * 3 + [True] * 5


def test_other_encoders_stand_side_by_side():
    class Halves:
        name = "halves"
        calls = 0

        def __call__(self, images):
            Halves.calls += 1
            return images.flatten(1)[:, ::2]

    report = audit(TRAIN, planted(), HELDOUT, encoders=(Pixels(), Halves()))
    assert set(report.measurements) == {"pixels", "halves"}
    assert {c["encoder"] for c in report.copies} == {"pixels", "halves"}
    assert (
        Halves.calls <= 26
    )  # 3 sets, 2 of them mirrored, 7 planted kinds twice, the pairs, the gallery: never for every block
    assert "halves" in html(audit_page(report))


def test_blocks_do_not_change_the_result(monkeypatch, report):
    monkeypatch.setattr("temperance.metrics.nearest.QUERIES", 131)
    monkeypatch.setattr("temperance.metrics.nearest.POINTS", 47)
    assert as_json(audit(TRAIN, planted(), HELDOUT))["copies"] == list(report.copies)


def test_encoded_rows_are_made_on_demand():
    rows = Encoded(Images(TRAIN), Pixels())
    assert rows[10:12].shape == (2, 64)
    assert torch.equal(rows[torch.tensor([3, 1])], Images(TRAIN[[3, 1]]).tensor().flatten(1))


def test_a_class_has_the_held_out_images_that_are_nearest_to_it_for_its_null():
    far = np.stack([np.full((8, 8, 1), v, np.uint8) for v in (0, 255)])
    train = Images(np.concatenate([TRAIN[:20], far]), labels=np.array([0] * 20 + [1, 1]))
    heldout = np.concatenate([HELDOUT[:20], far[:1] + 3])  # the last is as good as a black one
    one, other = audit(train, np.concatenate([REST[:20], far]), heldout, quality_limit=2).classes["pixels"]
    assert (one.copied.null, other.copied.null) == (0, 1) and (one.generated, other.generated) == (20, 2)


def test_the_seed_decides_which_images_enter_the_quality_figures():
    given = {"moved": False, "quality_limit": 30}
    one, other = (audit(TRAIN, REST[:80], HELDOUT[:80], seed=s, **given).measurements["pixels"] for s in (0, 1))
    assert one["fd_heldout"].value != other["fd_heldout"].value
    assert one["memorized_fraction"] == other["memorized_fraction"]


def test_classes_have_the_names_of_their_folders():
    train = Images(TRAIN[:60], labels=np.arange(60) // 30, classes=("12", "cats"))
    assert [row.label for row in audit(train, REST[:40]).classes["pixels"]] == ["12", "cats"]
    train.labels[:20] = -1  # what data sets from the hub give where there is no label
    assert [row.label for row in audit(train, REST[:40]).classes["pixels"]] == ["unlabeled", "12", "cats"]


class Parity:
    """Two places for all images: different ones collide."""

    name = "parity"

    def __call__(self, images):
        return (images.flatten(1) > 0).sum(1, keepdim=True).float() % 2


def test_new_images_that_collide_with_training_images_are_not_flagged():
    """Only pixels tell whether a held-out image is a training image, and whether a card says identical."""
    heldout = np.concatenate([HELDOUT[:190], TRAIN[:4], np.ascontiguousarray(TRAIN[4:6, :, ::-1])])
    found = audit(TRAIN, REST[:150], heldout, encoders=(Pixels(), Parity()), quality_limit=2)
    nulls = {name: found.nulls[name] for name in ("pixels", "parity")}
    assert all(null["identical_heldout"] == 6 and null["heldout"] == 190 for null in nulls.values())
    assert nulls["parity"]["least_p"] == 1 and found.flags["parity"] == 0
    assert not [c for c in found.copies if c["encoder"] == "parity"]
    assert "parity" in found.provenance["settings"]["notes"][-1]
    cards = next(b for b in audit_page(found).blocks if b.title == "Closest pairs · parity").cards
    assert cards and not any(card.flag == "identical" for card in cards)
    assert any("repeats images" in note for note in found.provenance["settings"]["notes"])
    assert in_train({"train": Images(TRAIN), "x": Images(heldout)}, False)["x"].sum() == 4


def test_training_images_among_held_out_ones_hide_no_copies():
    """A careless split: every figure is what it would be without them."""
    careless = np.concatenate([HELDOUT[:190], TRAIN[:5], np.ascontiguousarray(TRAIN[5:8, :, ::-1])])
    model = closed_form(Images(TRAIN).tensor(), "empirical")
    clean, found = (audit(TRAIN, TRAIN[20:80], held, model=model) for held in (HELDOUT[:190], careless))
    assert found.measurements == clean.measurements and found.membership == clean.membership
    assert found.measurements["pixels"]["memorized_adaptive"].value == 1
    assert found.provenance["images"]["heldout"] == 198 and found.nulls["pixels"]["identical_heldout"] == 8
    assert [overlapping(torch.arange(4) < n) for n in (1, 2, 3)] == [False, False, True]
    mostly = audit(TRAIN, TRAIN[20:80], np.concatenate([HELDOUT[:20], TRAIN[:60]]))
    assert mostly.flags["pixels"] == 0 and "means anything" in mostly.provenance["settings"]["notes"][0]


def test_limits_that_take_a_held_out_set_are_refused_without_it():
    figures = as_json(audit(TRAIN, REST[:20]))["encoders"]["pixels"]
    absent = {name for name in set(gate.MEASURES) - {"flagged_fraction"} if figures[name] is None}
    assert absent - {"eidetic_k"} == set(gate.HELDOUT) - {"flagged_fraction"}  # nothing was extracted here
    with pytest.raises(ValueError, match="--fail-below copy_auc=0.4 needs --heldout"):
        gate.limits([], ["copy_auc=0.4"], heldout=False)
    assert gate.limits(["recall=1"], ["copy_auc=0.4"])
