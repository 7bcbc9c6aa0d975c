"""Copy detection with error control: disguises, the null, planted controls, sharing and resuming."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing

from pictures import fields
from temperance import metrics as tm
from temperance.auditing import as_json, audit
from temperance.auditing.blocks import in_blocks
from temperance.auditing.combined import combine, verdict
from temperance.auditing.matching import Matcher, see, undone, view_name
from temperance.auditing.planted import controls, disguises
from temperance.data import Images

DIGITS = (
    (load_digits().images / 16 * 255).round().astype(np.uint8)[..., None][np.random.default_rng(0).permutation(1797)]
)
TRAIN, HELDOUT, REST = DIGITS[:100], DIGITS[100:900], DIGITS[900:]


COLOR, UNSEEN = fields(60, 0), fields(150, 1)


@pytest.fixture(scope="module")
def matcher():
    return Matcher(Images(COLOR))


def matched(matcher, pixels):
    near = tm.proximity(Images(pixels).tensor().flatten(1), matcher.train.tensor().flatten(1))
    return matcher(Images(pixels), near.index)


@pytest.mark.parametrize("kind", ["exact", "flipped", "shifted", "jpeg", "jpeg_other"])
def test_a_disguised_copy_is_at_no_distance_from_its_source(matcher, kind):
    found = matched(matcher, disguises(Images(COLOR), 3)[kind].pixels)
    assert found.index.tolist() == list(range(60))
    unseen = matched(matcher, UNSEEN).distance
    limit = 0.1 * float(unseen.min()) if kind == "jpeg_other" else 1e-4
    share = float((found.distance <= limit).double().mean())
    assert share >= 0.95 if "jpeg" in kind else share == 1  # where quality 50 does less harm than 75, it is not tried


@pytest.mark.parametrize("kind", ["brightened", "cropped"])
def test_a_relit_or_cropped_copy_is_nearest_to_its_source(matcher, kind):
    found = matched(matcher, disguises(Images(COLOR), 3)[kind].pixels)
    assert float((found.index == torch.arange(60)).double().mean()) >= 0.95
    assert float(found.distance.median()) < 0.5 * float(matched(matcher, UNSEEN).distance.min())


def test_every_brightened_copy_has_its_own_shade():
    dark = disguises(Images(np.zeros((40, 8, 8, 1), np.uint8)), 0)["brightened"].pixels
    assert set(dark[:, 0, 0, 0].tolist()) == {0, 13}


def test_the_view_is_named_and_undone(matcher):
    wide = np.pad(COLOR[:1], ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    moved = np.ascontiguousarray(wide[:, 1:17, 4:20][:, :, ::-1])  # two to the left, one down, mirrored
    found = matched(matcher, moved)
    name = view_name(int(found.view), (16, 16, 3))
    assert name.startswith("mirrored, shifted by") and float(found.distance) < 1e-4
    over = undone(Images(moved).tensor(), int(found.view))
    inner = (..., slice(2, -2), slice(2, -2))
    assert torch.equal(over[inner], Images(COLOR[:1]).tensor()[inner])
    assert view_name(0, (16, 16, 3)) == "as it is"


def test_the_distance_is_what_its_definition_says(matcher):
    """Against all views and all training images, one pair at a time in float64; no unseen image needs a recoding."""
    found = matched(matcher, UNSEEN[:6])
    train = Images(COLOR).tensor()
    luma = torch.tensor(((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813)))
    for row, view, index, distance in zip(UNSEEN[:6], found.view, found.index, found.distance):
        if "cropped" in view_name(int(view), (16, 16, 3)) or "JPEG" in view_name(int(view), (16, 16, 3)):
            continue
        x = undone(Images(row[None]).tensor(), int(view))
        a, b = (see(torch.einsum("kc,nchw->nkhw", luma, z), 2) for z in (x, train[index][None]))
        va, vb = a.vector[0].double(), b.vector[0].double()
        gain = min(1.25, max(0.8, float((va @ vb) / (vb @ vb))))
        excess = max(0.0, abs(float(a.mean.double() - gain * b.mean.double())) - 0.25)
        assert float(distance) == pytest.approx(float((va - gain * vb).norm() ** 2 + 144 * excess**2) ** 0.5, abs=2e-5)


def test_jpeg_is_what_a_file_would_hold():
    buffer = io.BytesIO()
    Image.fromarray(COLOR[0]).save(buffer, "JPEG", quality=75)
    assert np.array_equal(disguises(Images(COLOR), 0)["jpeg"].pixels[0], np.asarray(Image.open(buffer)))


def test_matches_do_not_depend_on_batch_or_order(matcher):
    whole = matched(matcher, UNSEEN)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    turned = matched(matcher, UNSEEN[order.numpy()])
    assert torch.equal(turned.index, whole.index[order])
    assert torch.allclose(turned.distance, whole.distance[order], atol=2e-5)
    single = matched(matcher, UNSEEN[7:8])
    assert int(single.index) == int(whole.index[7]) and float(single.distance) == pytest.approx(
        float(whole.distance[7]), abs=2e-5
    )


# The null -------------------------------------------------------------------------------------------------------------


def power_law(m, seed, power=6.0):
    """Distances with P(d < t) = t^power."""
    return torch.rand(m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** (1 / power)


def test_the_fitted_tail_gives_the_p_values_of_a_power_law():
    heldout = power_law(2000, 0)
    null = tm.fit_null(heldout, 1000, 0.05)
    assert null.kind == "tail" and null.shape < 0.2
    for p in (0.05, 0.01, 1e-3, 4e-5):
        assert p / 4 < float(null.p(torch.tensor([p ** (1 / 6)]))) < 4 * p
    resolved = torch.cat([heldout, heldout + 1e-3])  # from the closest held-out image on, counting is not undercut
    assert torch.equal(null.p(resolved), tm.p_values(resolved, heldout))
    t = torch.linspace(0, 1.2, 200)
    assert bool((null.p(t).diff() >= -1e-12).all())
    assert float(null.p(torch.zeros(1))) == null.least == pytest.approx(1 / 2001 / 1000)


def test_p_values_of_unseen_images_are_uniform_and_small_ones_rare():
    """Few held-out images and many to judge, where the scale of the tail is least known."""
    false = torch.tensor([0.0, 0.0])
    for seed in range(200):
        null = tm.fit_null(power_law(100, seed), 2000, 0.05)
        p = null.p(power_law(2000, 1000 + seed))
        false += torch.tensor([float((p <= 0.05).double().mean()), float(tm.benjamini_hochberg(p, 0.05).any())])
    share, families = (false / 200).tolist()
    assert share == pytest.approx(0.05, abs=0.01)
    assert families <= 0.05  # nothing is copied: any flag is a false one


def test_the_share_of_the_tail_is_the_rank_of_its_edge():
    heldout = power_law(100, 0)
    null = tm.fit_null(heldout, 2000, 0.05)
    assert (null.edge, null.share) == (float(heldout.sort().values[10]), 11 / 101)


def test_near_twins_among_held_out_images_make_the_tail_heavier():
    plain = power_law(500, 0)
    twins = torch.cat([plain, torch.full((8,), 1e-3).double() * torch.linspace(1, 3, 8)])
    at = torch.tensor([5e-3])
    assert float(tm.fit_null(twins, 1000, 0.05).p(at)) > 100 * float(tm.fit_null(plain, 1000, 0.05).p(at))


def test_counting_is_used_where_it_is_enough_and_where_a_tail_cannot_be_fitted():
    assert tm.fit_null(power_law(30, 0), 1000, 0.05).kind == "conformal"
    enough = tm.fit_null(power_law(500, 0), 10, 0.05)
    assert enough.kind == "conformal"
    d = power_law(40, 2)
    assert torch.equal(enough.p(d), tm.p_values(d, enough.distance))


def test_held_out_images_that_collide_stay_in_the_null_as_ties():
    d = torch.cat([power_law(200, 0), torch.zeros(5)])
    null = tm.fit_null(d, 1000, 0.05)
    assert (len(null.distance), null.kind, null.ties) == (205, "conformal", 5)
    assert float(null.p(torch.zeros(1))) == null.least == pytest.approx(6 / 206)
    assert null.fewest(100, 0.05) == 59  # 59 of p 6/206 pass a step of 59 * 0.05 / 100, 58 do not
    coarse = (power_law(500, 0) * 20).ceil()  # distances of a hash: no smooth tail
    assert tm.fit_null(coarse, 1000, 0.05).kind == "conformal"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.integers(1, 20))
def test_adding_copies_never_lowers_what_is_measured(have, more):
    def measured(copies):
        pixels = np.concatenate([TRAIN[:copies], REST[:40]])
        near = tm.proximity(Images(pixels).tensor().flatten(1), Images(TRAIN).tensor().flatten(1))
        return tm.memorized_fraction(near).value

    assert measured(have + more) >= measured(have)


# Planted controls -----------------------------------------------------------------------------------------------------


def test_controls_find_what_is_easy_and_miss_what_is_impossible():
    heldout, group = power_law(600, 0), torch.arange(60)

    def match(images):
        exact = (images.pixels == COLOR[chosen]).all((1, 2, 3))
        return torch.as_tensor(chosen), torch.where(torch.as_tensor(exact), 0.0, 0.9).double()

    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(5))[:100].numpy()
    found = controls(Images(COLOR), heldout, group, match, 0.05, 5)
    assert found is not None
    kinds = found["kinds"]
    assert kinds["exact"]["recall"] == 1 and kinds["exact"]["source_named"] == 1
    assert kinds["flipped"]["recall"] < 0.05  # as far away as unseen images are
    assert all(point["false"] <= point["fdr"] + 0.1 for point in kinds["exact"]["curve"])
    assert (found["calibration"], found["negatives"]) == (300, 300)


def test_no_more_is_planted_than_there_is():
    """Of 24 training images 24 copies, among 3,000 where a hundredth would be 30."""
    near = torch.arange(24), torch.zeros(24, dtype=torch.float64)
    found = controls(Images(COLOR[:24]), power_law(6000, 0), torch.arange(24), lambda _: near, 0.05, 5)
    assert found is not None and found["share"] == 24 / 3024


def test_controls_need_held_out_images():
    assert controls(Images(COLOR), torch.ones(19), torch.arange(60), lambda _: pytest.fail("asked"), 0.05, 0) is None


@pytest.fixture(scope="module")
def report():
    generated = np.concatenate([COLOR[:3], np.ascontiguousarray(COLOR[3:6, :, ::-1]), fields(60, 2)])
    return audit(COLOR, generated, UNSEEN)


def test_every_report_holds_planted_controls(report):
    found = as_json(report)["planted"]["pixels"]
    assert set(found["kinds"]) == {"exact", "flipped", "shifted", "jpeg", "jpeg_other", "brightened", "cropped"}
    for kind in ("exact", "flipped", "shifted", "jpeg"):
        assert found["kinds"][kind]["recall"] >= 0.95 and found["kinds"][kind]["fdr"] <= 0.05


def test_single_copies_are_flagged_through_the_tail_and_it_is_said(report):
    found = as_json(report)
    assert {c["generated"] for c in found["copies"] if c["flagged"]} == set(range(6))
    assert all(c["train"] == c["generated"] for c in found["copies"] if c["flagged"])
    assert {c["view"] for c in found["copies"] if 3 <= c["generated"] < 6} == {"mirrored"}
    assert found["encoders"]["pixels"]["null"]["kind"] == "tail"
    assert all(c["p_conformal"] >= 1 / 151 > c["p_value"] for c in found["copies"] if c["flagged"])
    assert any("Pareto tail" in note for note in found["provenance"]["settings"]["notes"])


def test_held_out_images_as_generated_are_at_their_null():
    found = as_json(audit(TRAIN, DIGITS[900:1700], HELDOUT, quality_limit=2))["encoders"]["pixels"]
    assert found["copy_auc"] == pytest.approx(0.5, abs=0.03)
    assert found["flagged"] <= 2
    assert found["memorized_fraction"] == pytest.approx(found["heldout_memorized_fraction"], abs=0.005)


def test_a_copycat_is_caught():
    found = as_json(audit(TRAIN, TRAIN, HELDOUT, quality_limit=2))["encoders"]["pixels"]
    assert (found["memorized_fraction"], found["copy_auc"], found["flagged"]) == (1, 1, 100)


def test_copies_of_duplicated_training_images_are_flagged_and_all_named():
    train = np.concatenate([TRAIN, TRAIN[:2], TRAIN[:1]])
    found = as_json(audit(train, np.concatenate([TRAIN[:2], REST[:50]]), HELDOUT, quality_limit=2))
    first = {c["generated"]: c for c in found["copies"]}
    assert first[0]["train"] == 0 and first[0]["train_duplicates"] == [100, 102] and first[0]["flagged"]
    assert first[1]["train_duplicates"] == [101] and first[1]["ratio"] == 0


def test_encoders_are_combined_by_bonferroni():
    p = {"a": torch.tensor([1e-4, 0.5, 0.9]), "b": torch.tensor([0.7, 1e-3, 0.8])}
    found = combine(p, Images(COLOR[:3]), 0.05)
    assert found is not None
    assert [(i["generated"], i["encoder"]) for i in found["images"]] == [(0, "a"), (1, "b")]
    assert found["images"][0]["p_value"] == pytest.approx(2e-4)
    assert combine({"a": p["a"]}, Images(COLOR[:3]), 0.05) is None


def test_an_image_that_every_encoder_flags_is_flagged_by_all_of_them():
    """Each null can just reject one image by counting, at p 1/2000; twice that p-value could not."""
    found = {}
    for seed, name in enumerate(("a", "b")):
        null = tm.fit_null(power_law(1999, seed), 100, 0.05)
        distance = torch.cat([torch.zeros(1), power_law(99, 10 + seed).clamp(min=0.5)])
        assert null.kind == "conformal" and tm.benjamini_hochberg(null.p(distance), 0.05).tolist()[0]
        found[name] = null, distance
    images = Images(np.zeros((100, 4, 4, 1), np.uint8))
    counted = combine({name: null.p(distance) for name, (null, distance) in found.items()}, images, 0.05)
    judged = verdict(found, images, 0.05)
    assert counted is not None and counted["flagged"] == 0
    assert judged is not None and (judged["flagged"], judged["fewest_flags"]) == (1, 1)
    assert {null["kind"] for null in judged["nulls"].values()} == {"tail"}  # and it is said
    assert judged["images"][0]["generated"] == 0 and judged["encoders"] == ["a", "b"]
    assert verdict({"a": found["a"]}, images, 0.05) is None


def test_the_fewest_flags_of_a_verdict_are_the_least_that_are_flagged():
    """40 held-out images are too few for a tail: p is 1/41 at least, and twice that must be on a step."""
    nulls = {name: tm.fit_null(power_law(40, seed), 100, 0.2) for seed, name in enumerate("ab")}
    images = Images(np.zeros((100, 4, 4, 1), np.uint8))

    def judged(copies):
        distance = torch.cat([torch.zeros(copies), torch.full((100 - copies,), 2.0)]).double()
        found = verdict({name: (null, distance) for name, null in nulls.items()}, images, 0.2)
        assert found is not None
        return found["flagged"], found["fewest_flags"]

    assert judged(24) == (0, 25) and judged(25) == (25, 25)


# Blocks: sharing and resuming -----------------------------------------------------------------------------------------


def test_blocks_of_large_images_are_shorter():
    starts = []
    in_blocks(200, 1, lambda rows: starts.append(rows.start) or torch.zeros(1, 1), name="a", width=3 * 512 * 512)
    assert starts == [0, 85, 170]


def test_finished_blocks_are_found_again_unless_they_are_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("temperance.auditing.blocks.ROWS", 10)
    done = []

    def compute(rows):
        if rows.start == 20 and len(done) == 2:
            raise KeyboardInterrupt
        done.append(rows.start)
        return torch.arange(rows.start, rows.stop)[:, None]

    with pytest.raises(KeyboardInterrupt):
        in_blocks(35, 1, compute, name="a", work=tmp_path)
    done.append(-1)
    out = in_blocks(35, 1, compute, name="a", work=tmp_path)
    assert out[:, 0].tolist() == list(range(35)) and done == [0, 10, -1, 20, 30]
    in_blocks(35, 1, compute, name="another", work=tmp_path)
    assert len(done) == 9
    kept = tmp_path / "a-10.safetensors"
    kept.write_bytes(kept.read_bytes().replace(np.float64(12).tobytes(), np.float64(13).tobytes()))
    assert torch.equal(in_blocks(35, 1, compute, name="a", work=tmp_path), out) and done[9:] == [10]


def test_an_interrupted_audit_goes_on_to_the_same_report(tmp_path, monkeypatch):
    monkeypatch.setattr("temperance.auditing.blocks.ROWS", 40)
    whole = audit(TRAIN, REST[:100], HELDOUT[:100], quality_limit=2)
    calls = []
    real = tm.proximity

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("temperance.metrics.proximity", stopping)
        audit(TRAIN, REST[:100], HELDOUT[:100], quality_limit=2, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert as_json(audit(TRAIN, REST[:100], HELDOUT[:100], quality_limit=2, work=tmp_path)) == as_json(whole)


def _rank(rank, world, folder):
    import temperance.auditing.blocks as blocks

    torch.set_num_threads(1)
    blocks.ROWS = 16
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    _write(world, rank, Path(folder))
    distributed.destroy_process_group()


def _write(world, rank, folder):
    report = audit(TRAIN, np.concatenate([TRAIN[:3], REST[:50]]), HELDOUT[:120], quality_limit=2)
    (folder / f"{world}-{rank}.json").write_text(json.dumps(as_json(report), sort_keys=True))


@pytest.mark.slow
def test_one_two_and_three_ranks_write_the_same_report(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("temperance.auditing.blocks.ROWS", 16)
        _write(1, 0, tmp_path)
    for world in (2, 3):
        multiprocessing.spawn(_rank, (world, str(tmp_path)), nprocs=world)
    texts = {p.read_text() for p in tmp_path.glob("*.json")}
    assert len(list(tmp_path.glob("*.json"))) == 6 and len(texts) == 1
