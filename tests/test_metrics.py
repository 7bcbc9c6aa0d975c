"""Distances of samples to training rows, against what is known or computed naively."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from rows import cdist, sets
from temperance import metrics as tm
from temperance.data import Images
from temperance.distance import duplicates
from temperance.features import Pixels
from temperance.guard import Guard
from temperance.metrics.interval import student
from temperance.report import Measurement

# ---- proximity and copying ----


def test_proximity_agrees_with_loops():
    x, train = sets()
    found = tm.proximity(x, train)
    d = cdist(x, train).sort(1)
    assert torch.equal(found.index, d.indices[:, 0])
    torch.testing.assert_close(found.distance.double(), d.values[:, 0])
    torch.testing.assert_close(found.second.double(), d.values[:, 1])


@pytest.mark.parametrize("copies", [2, 5, 40])
def test_duplicates_in_train_do_not_hide_copies(copies):
    x, train = sets()
    doubled = torch.cat([train[:1].repeat(copies, 1), train])
    once, often = tm.proximity(train, train), tm.proximity(train, doubled)
    assert tm.memorized_fraction(often).value == 1
    torch.testing.assert_close(once.second, often.second)
    torch.testing.assert_close(tm.proximity(x, train).ratio, tm.proximity(x, doubled).ratio)


def test_blocks_hold_as_many_rows_as_memory_allows():
    assert [tm.block_rows(width) for width in (1, 3072, 16_384, 16_385, 196_608, 10**9)] == [4096] * 3 + [4095, 341, 64]
    assert tm.block_rows(3072, 131) == 131


def test_wide_rows_are_looked_up_in_smaller_blocks_to_the_same_distances(monkeypatch):
    x, train = sets(300, 250, 12)
    whole, sizes, real = tm.proximity(x, train), [], tm.nearest.nearest

    def counted(rows, block, k):
        sizes.append((len(rows), len(block)))
        return real(rows, block, k)

    monkeypatch.setattr(tm.nearest, "nearest", counted)
    monkeypatch.setattr(tm.nearest, "BYTES", 4 * 12 * 100)
    assert all(torch.equal(a, b) for a, b in zip(tm.proximity(x, train), whole))
    assert max(sizes) == (100, 100) and len(sizes) == 9


def test_a_guard_encodes_as_many_views_as_memory_allows(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1)).astype(np.uint8)
    train, others = Images(pixels[:110]), Images(pixels[110:]).tensor()
    plain = Guard(train, None, 1.0)
    monkeypatch.setattr(tm.nearest, "BYTES", 4 * 64 * 70)
    sizes = []

    class Counting(Pixels):
        def __call__(self, x):
            sizes.append(len(x))
            return super().__call__(x)

    guard = Guard(train, Counting(), 1.0)
    assert torch.equal(guard.index.whole, plain.index.whole) and torch.equal(guard.index.inner, plain.index.inner)
    found, expected = guard.nearest(others), plain.nearest(others)
    assert all(torch.equal(a, b) for one, other in zip(found, expected) for a, b in zip(one, other))
    assert max(sizes) <= 70


def test_near_duplicates_need_their_groups():
    x, train = sets()
    near = torch.cat([train, train + 1e-3])
    assert tm.memorized_fraction(tm.proximity(train + 6e-4, near)).value < 0.1
    group = duplicates(near, radius=0.01)
    assert tm.memorized_fraction(tm.proximity(train + 6e-4, near, group)).value == 1


def test_one_distinct_training_image_is_refused_in_one_line():
    with pytest.raises(ValueError, match="1 distinct image among 3"):
        tm.proximity(torch.zeros(2, 4), torch.ones(3, 4))


def test_copycat_is_found_and_heldout_is_its_own_null():
    x, train = sets(200, 100, 12)
    copy, heldout = tm.proximity(train, train), tm.proximity(x, train)
    assert tm.memorized_fraction(copy, heldout) == Measurement(
        "memorized_fraction", 1.0, tm.wilson(1.0, 100)[0], 1.0, 100, False, "Yoon 2023; Gu 2023", 0.0
    )
    assert tm.copy_auc(copy.distance, heldout.distance).value == 1
    assert tm.ratio_median(copy).value == 0
    same = tm.memorized_fraction(heldout, heldout)
    assert same.value == same.null
    assert tm.copy_auc(heldout.distance, heldout.distance).value == 0.5
    assert tm.ct_score(heldout.distance, heldout.distance).value == 0


def test_the_null_of_a_share_has_its_threshold():
    x, train = sets(200, 100, 12)
    heldout = tm.proximity(sets(150, 1, 12, seed=2)[0], train)
    found = tm.memorized_fraction(tm.proximity(x, train), heldout, threshold=0.95)
    assert found.null == float((heldout.ratio < 0.95).double().mean()) > 0


def test_the_interval_of_the_median_is_between_order_statistics():
    ratio = torch.arange(100.0) / 100
    near = tm.Proximity(torch.arange(100), ratio[torch.randperm(100)], torch.ones(100))
    m = tm.ratio_median(near)  # 50 -+ 1.96 * 5
    assert (m.value, m.low, m.high) == pytest.approx((0.495, 0.40, 0.60))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_adding_copies_never_lowers_memorization(seed, copies):
    x, train = sets(20, 30, 3, seed)
    before, after = tm.proximity(x, train), tm.proximity(torch.cat([x, train[:copies]]), train)
    heldout = tm.proximity(sets(25, 1, 3, seed + 1)[0], train)
    assert tm.memorized_fraction(after).value >= tm.memorized_fraction(before).value
    assert tm.ratio_median(after).value <= tm.ratio_median(before).value
    auc = [tm.copy_auc(p.distance, heldout.distance).value for p in (before, after)]
    assert auc[1] >= auc[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.lists(st.integers(0, 9), min_size=2, max_size=30))
def test_copy_auc_agrees_with_sklearn_at_ties(a, b):
    value = tm.copy_auc(torch.tensor(a).float(), torch.tensor(b).float())
    expected = roc_auc_score([1] * len(a) + [0] * len(b), [-v for v in a + b])
    assert value.value == pytest.approx(expected)
    assert 0 <= value.low <= value.value <= value.high <= 1


def test_copy_auc_interval_covers():
    g = torch.Generator().manual_seed(0)
    hit = 0
    for _ in range(300):
        a, b = torch.randn(60, generator=g), torch.randn(80, generator=g) + 1
        m = tm.copy_auc(a, b)
        hit += m.low <= 0.5 * (1 + math.erf(0.5)) <= m.high  # P(N(0,1) < N(1,1)) = Phi(1/sqrt 2)
    assert 0.91 <= hit / 300 <= 0.98


@pytest.mark.parametrize(("n", "m", "least"), [(1000, 3, 0.83), (1000, 10, 0.87), (10, 1000, 0.88), (10, 10, 0.93)])
def test_copy_auc_interval_with_few_images_of_one_kind(n, m, least):
    g = torch.Generator().manual_seed(0)
    hit = 0
    for _ in range(400):
        found = tm.copy_auc(torch.randn(n, generator=g) - 1.5, torch.randn(m, generator=g))
        hit += found.low <= 0.5 * (1 + math.erf(0.75)) <= found.high
    assert hit / 400 >= least


@pytest.mark.parametrize(("n", "m"), [(100, 4), (4, 100)])
def test_copy_auc_of_copies_is_as_sure_as_the_smaller_set(n, m):
    found = tm.copy_auc(torch.zeros(n), torch.ones(m))
    assert (found.low, found.high) == tm.wilson(1.0, 4, student(3))
    one = tm.copy_auc(torch.ones(1), torch.tensor([0.0, 2.0]))  # of one image the variance is taken to be 1/4
    assert (one.low, one.high) == pytest.approx(tm.wilson(0.5, 0.5, student(2)))


def test_wilson_known_values():
    assert tm.wilson(0.0, 100) == (0, pytest.approx(0.036995, abs=1e-5))
    assert tm.wilson(0.5, 100) == (pytest.approx(0.403832, abs=1e-5), pytest.approx(0.596168, abs=1e-5))


def test_p_values_and_their_floor():
    p = tm.p_values(torch.tensor([0.0, 1.0, 2.5, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert p.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_benjamini_hochberg_known_answer():
    p = torch.tensor([0.01, 0.04, 0.03, 0.005, 0.9])
    assert tm.benjamini_hochberg(p, 0.05).tolist() == [True, True, True, True, False]
    assert not tm.benjamini_hochberg(torch.tensor([0.2, 0.9]), 0.05).any()
    assert tm.benjamini_hochberg(torch.tensor([0.01], dtype=torch.float64), 0.01).all()  # on the step


@pytest.mark.parametrize(("n", "fdr"), [(742, 0.01), (144, 0.05), (1000, 0.1)])
def test_benjamini_hochberg_rejects_p_values_on_its_steps(n, fdr):
    steps = torch.tensor([fdr * i / n for i in range(1, n + 1)], dtype=torch.float64)
    assert tm.benjamini_hochberg(steps, fdr).all()


def test_false_discoveries_stay_below_the_rate():
    g = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        heldout, null = torch.randn(400, generator=g).exp(), torch.randn(90, generator=g).exp()
        flagged = tm.benjamini_hochberg(tm.p_values(torch.cat([null, torch.zeros(30)]), heldout), 0.1)
        assert flagged[90:].all()
        shares.append(float(flagged[:90].sum()) / int(flagged.sum()))
    assert np.mean(shares) <= 0.1


@pytest.mark.parametrize(("n", "m", "fdr", "least"), [(100, 999, 0.05, 2), (1000, 1000, 0.05, 20), (10, 19, 0.5, 1)])
def test_fewest_flags_is_the_least_that_is_flagged(n, m, fdr, least):
    heldout = torch.ones(m)
    assert tm.Null(heldout).fewest(n, fdr) == least
    for count in (least - 1, least):
        distance = torch.full((n,), 2.0)
        distance[:count] = 0
        assert int(tm.benjamini_hochberg(tm.p_values(distance, heldout), fdr).sum()) == (count if count == least else 0)


def test_authpct_of_copies_and_strangers():
    _, train = sets()
    spacing = tm.proximity(train, train).second
    assert tm.authpct(tm.proximity(train, train), spacing).value == 0
    assert tm.authpct(tm.proximity(train + 100, train), spacing).value == 100
    tied = tm.Proximity(torch.arange(len(train)), spacing, spacing)  # as far as its own neighbor: not farther
    assert tm.authpct(tied, spacing).value == 0
    x = sets(seed=3)[0]
    d, own = cdist(x, train), cdist(train, train).fill_diagonal_(math.inf).min(1).values
    naive = np.mean([float(d[i].min() > own[d[i].argmin()]) for i in range(len(x))])
    assert tm.authpct(tm.proximity(x, train), spacing).value == pytest.approx(100 * naive)


def test_ct_score_agrees_with_scipy_and_points_down_for_copies():
    from scipy.stats import mannwhitneyu

    a, b = torch.tensor([1.0, 2, 2, 3, 5, 1, 0]), torch.tensor([2.0, 3, 4, 4, 5, 6])
    u = mannwhitneyu(a.double(), b.double(), use_continuity=False, method="asymptotic")
    z = tm.ct_score(a, b).value
    assert math.erfc(abs(z) / math.sqrt(2)) == pytest.approx(u.pvalue, rel=1e-9)
    assert z < 0


def test_mifid_averages_over_generated_images():
    x, train = sets(80, 60)
    fd = tm.frechet_distance(x, train)
    naive = (1 - np.abs(cosine_similarity(x.double(), train.double()))).min(1)
    np.testing.assert_allclose(tm.cosine_distance(x, train), naive, atol=1e-6)
    assert tm.mifid(x, train, fd, threshold=1.0).value == pytest.approx(fd.value / naive.mean(), rel=1e-4)
    assert tm.mifid(x, train, fd, threshold=0.0).value == fd.value
    five = train[:5].repeat(16, 1)
    assert tm.mifid(five, train, tm.frechet_distance(five, train)).value > 1e6
    assert tm.mifid(train, train, tm.frechet_distance(train, train)).value > 1e6  # 0 times anything is not the best


def test_cosine_distance_of_orthogonal_rows_is_one():
    basis = torch.eye(4)
    assert tm.copying.cosine_distance(basis[:2], basis[2:]).tolist() == [1.0, 1.0]
