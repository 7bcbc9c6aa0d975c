"""Shares at a stated rate, extraction, variety and likelihood, against what is known or computed naively."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from rows import cdist, sets
from temperance import metrics as tm
from temperance.data import load

# ---- shares at a stated rate, extraction, variety, likelihood ----


def near(distance, second=None, index=None):
    """A proximity with known distances."""
    d = torch.tensor(distance, dtype=torch.float32)
    return tm.Proximity(
        torch.arange(len(d)) if index is None else torch.tensor(index),
        d,
        torch.ones(len(d)) if second is None else torch.tensor(second, dtype=torch.float32),
    )


def test_adaptive_threshold_is_the_heldout_quantile():
    heldout = near([0.50, 0.52, 0.6, 0.7, 0.8, 0.9, 0.91, 0.92, 0.93, 0.94])
    generated = near([0.1, 0.49, 0.5, 0.51, 0.99])
    m = tm.memorized_adaptive(generated, heldout, rate=0.1)  # one of ten may lie below: the threshold is .52
    assert (m.value, m.null, m.n) == (0.8, 2 / 11, 5)  # a further unseen image is below .52 as often as any rank
    assert tm.memorized_fraction(generated).value == 0.2  # the fixed 1/3 sees one of the four
    none = tm.memorized_adaptive(generated, heldout, rate=0.05)  # less than one of ten: below all of them
    assert (none.value, none.null) == (0.4, 1 / 11)
    with pytest.raises(ValueError, match="rate must lie between 0 and 1, got 1.5"):
        tm.memorized_adaptive(generated, heldout, rate=1.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_no_more_than_the_rate_of_the_null_is_below(values, rate):
    x = torch.tensor(values).double()
    value, low, high, null = tm.share_below(x, x, rate)
    assert value <= rate + 1e-9
    assert null == pytest.approx((value * len(x) + 1) / (len(x) + 1))
    assert 0 <= low <= value <= high <= 1


def test_interval_at_an_estimated_threshold_covers():
    g = torch.Generator().manual_seed(0)
    true = 0.5 * math.erfc((1.6448536 - 1) / math.sqrt(2))  # P(N(-1, 1) below the 5 % point of N(0, 1))
    ends = [
        tm.share_below(torch.randn(300, generator=g) - 1, torch.randn(400, generator=g), 0.05)[1:3] for _ in range(200)
    ]
    assert np.mean([low <= true <= high for low, high in ends]) >= 0.95


@pytest.mark.parametrize("m", [5, 20, 50, 99, 100])
def test_few_unseen_images_never_prove_a_leak_that_is_not_there(m):
    g = torch.Generator().manual_seed(0)
    found = [tm.share_below(torch.randn(500, generator=g), torch.randn(m, generator=g), 0.01) for _ in range(200)]
    values, lows, _, nulls = zip(*found)
    assert np.mean([low > 0.01 for low in lows]) <= 0.05
    assert np.mean(values) == pytest.approx(np.mean(nulls), rel=0.25)  # what to expect of a model that leaks nothing


def test_extraction_counts_images_within_delta():
    width = 16  # a distance of .2 * 4 = .8 is a tenth of the range, root mean square
    m = tm.extracted_fraction(near([0.0, 0.79, 0.8, 0.81]), width, near([2.0, 0.1]))
    assert (m.value, m.null) == (0.75, 0.5)
    a, b = torch.full((1, width), -1.0), torch.full((1, width), -0.8)
    d = float((a - b).norm())
    assert tm.extracted_fraction(near([d]), width).value == 1  # .2 of 2 in every pixel, rounding included
    assert tm.extracted_fraction(near([d * 1.001]), width).value == 0


def test_eidetic_k_is_the_crowd_around_the_rarest():
    g = torch.Generator().manual_seed(0)
    lone, often = torch.rand(2, 1, 64, generator=g)
    rest = torch.rand(20, 64, generator=g) * 2 - 1
    train = torch.cat([often + 0.001 * torch.randn(5, 64, generator=g), rest, -lone - 1])
    found = tm.eidetic_k(tm.proximity(often, train), train)
    assert (found.value, found.n) == (5, 1)
    both = tm.eidetic_k(tm.proximity(torch.cat([often, -lone - 1]), train), train, tm.proximity(often, train))
    assert (both.value, both.n, both.null) == (1, 2, 5)
    assert tm.eidetic_k(tm.proximity(torch.zeros(3, 64) + 0.9, train), train) is None


def test_eidetic_k_in_blocks(monkeypatch):
    _, train = sets(1, 50, 4)
    whole = tm.eidetic_k(tm.proximity(train, train), train, delta=0.3)
    monkeypatch.setattr("temperance.metrics.extraction.POINTS", 7)
    monkeypatch.setattr("temperance.metrics.extraction.QUERIES", 3)
    assert tm.eidetic_k(tm.proximity(train, train), train, delta=0.3) == whole
    assert whole.value == int((cdist(train, train) <= 0.3 * 2 * 2).sum(1).min())


def test_dcr_share_known_answers():
    x, train = sets(80, 60, 4)
    heldout = sets(1, 60, 4, seed=9)[1]
    a, b = (cdist(x, y).min(1).values for y in (train, heldout))
    assert tm.dcr_share(x, train, heldout).value == pytest.approx(float((a < b).double().mean()))
    assert tm.dcr_share(train, train, heldout).value == 1
    assert tm.dcr_share(heldout, train, heldout).value == 0
    tied = tm.dcr_share(x, train, train)
    assert (tied.value, tied.null) == (0.5, 0.5)
    with pytest.raises(ValueError, match="equal size, got 60 and 59"):
        tm.dcr_share(x, train, heldout[1:])


@pytest.mark.parametrize("modes", [1, 3, 5])
def test_dcr_share_interval_covers_where_samples_show_a_few_modes(modes):
    """Each mode is an unseen point: nothing is copied, and a half is right, however many samples show it."""
    g = torch.Generator().manual_seed(0)
    hit = 0
    for _ in range(40):
        train, heldout = torch.randn(2, 120, 8, generator=g)
        centers = torch.randn(modes, 8, generator=g)
        x = centers[torch.arange(300) % modes] + 1e-3 * torch.randn(300, 8, generator=g)
        found = tm.dcr_share(x, train, heldout)
        assert found.low is not None and found.high is not None
        hit += found.low <= 0.5 <= found.high
    assert hit >= 36


def test_a_share_that_hangs_on_one_training_image_is_no_certain_one():
    """One training image amid samples makes them nearer to training images: without it none of them is."""
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    turn = torch.arange(40) * math.tau / 40
    around = torch.stack([turn.cos(), turn.sin()], 1)
    found = tm.dcr_share(x, torch.cat([torch.zeros(1, 2), 50 * around[1:]]), 4 * around)
    assert found.value > 0.8 and found.low < 0.5


def test_dcr_share_interval_covers():
    g = torch.Generator().manual_seed(0)
    hit = 0
    for _ in range(40):
        m = tm.dcr_share(*(torch.randn(60, 3, generator=g) for _ in range(3)))
        hit += m.low <= 0.5 <= m.high
    assert hit >= 37


def test_no_end_of_an_interval_is_less_than_one_different_row():
    m = tm.vendi_score(torch.eye(2)[[0] * 19 + [1]])
    assert m.low == 1 < m.value < 1.3


def test_rows_of_zeros_are_all_alike():
    found = tm.vendi_score(torch.zeros(30, 4), torch.zeros(30, 4))
    assert (found.value, found.low, found.high, found.null) == (1, 1, 1, 1)
    one = torch.zeros(30, 4)
    one[0] = 1  # without it, in the jackknife, none points anywhere
    found = tm.vendi_score(one)
    assert (found.value, found.low) == (pytest.approx(1), 1)


def test_vendi_score_known_answers():
    assert tm.vendi_score(torch.eye(7)).value == pytest.approx(7)
    assert tm.vendi_score(torch.ones(9, 4)).value == pytest.approx(1)
    assert tm.vendi_score(torch.eye(4).repeat(5, 1)).value == pytest.approx(4)  # copies add nothing
    x, y = sets(30, 30, 5)
    k = cosine_similarity(x.double())
    part = np.linalg.eigvalsh(k / 30)
    part = part[part > 1e-12]
    m = tm.vendi_score(x, y)
    assert m.value == pytest.approx(np.exp(-(part * np.log(part)).sum()))
    assert m.null == tm.vendi_score(y).value
    wide = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    k = np.linalg.eigvalsh(cosine_similarity(wide.double()) / 6)
    assert tm.vendi_score(wide).value == pytest.approx(np.exp(-(k * np.log(k)).sum()))


def naive_fld_nll(x, centers, data):
    """The published objective, minimized by a general optimizer instead of expectation maximization."""
    from scipy.optimize import minimize

    f = data.shape[1]
    d2 = np.concatenate(
        [((data[:, None] - centers) ** 2).sum(-1), 0.81 * ((data - data.mean(0)) ** 2).sum(1)[:, None]], 1
    )
    log_weight = np.append(np.full(len(centers), -np.log(len(centers))), 0.0)

    def log_p(squares, s, w):
        terms = w - 0.5 * (squares * np.exp(-s) + f * (s + np.log(2 * np.pi)))
        top = terms.max(1, keepdims=True)
        return (top[:, 0] + np.log(np.exp(terms - top).sum(1))).mean()

    start = np.append(np.log((d2[:, :-1].min(0) + 1e-3) / f), 0.0)
    s = minimize(lambda s: -log_p(d2, s, log_weight), start, bounds=[(-20, 20)] * len(start), method="L-BFGS-B").x
    return -log_p(((x[:, None] - centers) ** 2).sum(-1), s[:-1], log_weight[:-1]) / f


def test_fld_agrees_with_a_general_optimizer(monkeypatch):
    monkeypatch.setattr("temperance.metrics.likelihood.STEPS", 3000)
    monkeypatch.setattr("temperance.metrics.likelihood.ROUNDS", 1)
    x, train = sets(12, 24, 3, seed=4)
    heldout = sets(1, 20, 3, seed=5)[1]
    real = torch.cat([train, heldout]).double()
    a, b, c = (((v.double() - real.mean(0)) / real.std(0)).numpy() for v in (x, train, heldout))
    g = torch.Generator().manual_seed(0)
    line = torch.randn(3, generator=g, dtype=torch.float64).numpy()
    a, c = a[np.argsort(a @ line)], c[np.argsort(c @ line)]
    p, q = (torch.randperm(len(v), generator=g).numpy() for v in (a, c))
    gaps = []
    for i, j in ((p, q), (p[::-1], q[::-1])):  # half of either set as centers, six, then the opposite ones
        asked = c[j[6:]]
        gaps.append(naive_fld_nll(asked, a[i[:6]], b) - naive_fld_nll(asked, c[j[:6]], b))
    m = tm.fld(x, train, heldout)
    assert m.value == pytest.approx(100 * np.mean(gaps), abs=0.05)
    assert (m.low, m.high, m.null) == (None, None, None)  # 12 rows are too few


def real_digits(n, seed):
    """Three sets of n real images that share none."""
    x = load("digits").tensor().flatten(1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [x[order[i * n : (i + 1) * n]] for i in range(3)]


@pytest.mark.parametrize(("n", "draws"), [(20, 20), (50, 20), (200, 5)])
def test_fld_of_real_data_is_0_within_its_interval(n, draws):
    found = [tm.fld(*real_digits(n, seed)) for seed in range(draws)]
    value = torch.tensor([m.value for m in found])
    assert abs(value.mean()) < 3 * value.std() / math.sqrt(draws)
    assert value.std() < 10  # the line above allows nothing wild
    assert sum(not m.low < 0 < m.high for m in found) <= 1 + draws // 10  # one in twenty is expected


def test_fld_of_copied_digits_is_above_real_data():
    for n in (20, 50, 200):
        fresh, train, heldout = real_digits(n, 0)
        assert tm.fld(train, train, heldout).low > 1e6
    half = tm.fld(torch.cat([train[:100], fresh[100:]]), train, heldout)
    assert half.low > 0 and half.value > tm.fld(fresh, train, heldout).value + 5


def test_fld_sees_copying_shift_and_lost_variety():
    g = torch.Generator().manual_seed(0)
    train, heldout, fresh = (torch.randn(300, 6, generator=g) for _ in range(3))
    real = tm.fld(fresh, train, heldout)
    assert real.low < 0 < real.high and real.null == 0
    for worse in (train, fresh + 2, fresh[:3].repeat(100, 1), torch.cat([train[:240], fresh[:60]])):
        m = tm.fld(worse, train, heldout)
        assert m.value > real.value + 3 and m.low > real.high
    assert tm.fld(fresh.flip(0), train.flip(0), heldout.flip(0)).value == pytest.approx(real.value)
    one = torch.ones(300, 1)  # a feature that says nothing changes nothing
    assert tm.fld(*(torch.cat([v, one], 1) for v in (fresh, train, heldout))) == real
    for same in ((train, torch.ones(5, 6)), (torch.ones(5, 6), heldout)):
        with pytest.raises(ValueError, match="every feature is constant"):
            tm.fld(fresh, *same)
    with pytest.raises(ValueError, match="got 1, 300 and 300"):
        tm.fld(fresh[:1], train, heldout)


def test_fd_ratio_is_below_one_for_copies():
    g = torch.Generator().manual_seed(0)
    train, heldout = torch.randn(2, 200, 5, generator=g)
    m = tm.fd_ratio(heldout + 0.2, train, heldout)
    expected = tm.frechet_distance(heldout + 0.2, train).value / tm.frechet_distance(heldout + 0.2, heldout).value
    assert m.value == pytest.approx(expected)
    assert m.low <= m.value <= m.high
    copied = tm.fd_ratio(train, train, heldout)
    assert copied.value == pytest.approx(0, abs=1e-9) and copied.high < 1
    assert tm.fd_ratio(train, heldout, train) is None or tm.fd_ratio(train, heldout, train).value > 1e6


def test_coverage_of_identical_sets_is_one_although_neighbors_tie():
    """A strict < would leave every point outside its own neighborhood where all distances are equal."""
    x = torch.eye(12)
    q = tm.quality(x, x, k=3)
    assert (q.coverage.value, q.precision.value, q.recall.value) == (1, 1, 1)
    assert q.density.value == pytest.approx(12 / 3)  # all points are at the third neighbor's distance


@pytest.mark.parametrize(
    "measure",
    [
        lambda x, y: tm.memorized_adaptive(tm.proximity(x, y), tm.proximity(y * 1.1, y), rate=0.1),
        lambda x, y: tm.extracted_fraction(tm.proximity(x, y), x.shape[1]),
        lambda x, y: tm.dcr_share(x, y, y * 1.1),
        lambda x, y: tm.vendi_score(x),
        lambda x, y: tm.fld(x, y, y * 1.1 + 0.1),
        lambda x, y: tm.fd_ratio(x, y, y * 1.1),
        lambda x, y: tm.memorized_fraction(tm.proximity(x, y)),
        lambda x, y: tm.ratio_median(tm.proximity(x, y)),
        lambda x, y: tm.copy_auc(tm.proximity(x, y).distance, tm.proximity(y * 1.1, y).distance),
        lambda x, y: tm.ct_score(tm.proximity(x, y).distance, tm.proximity(y * 1.1, y).distance),
        lambda x, y: tm.authpct(tm.proximity(x, y), tm.proximity(y, y).second),
        lambda x, y: tm.mifid(x, y, tm.frechet_distance(x, y)),
        tm.frechet_distance,
        tm.kid,
        lambda x, y: tm.quality(x, y).precision,
        lambda x, y: tm.quality(x, y).recall,
        lambda x, y: tm.quality(x, y).density,
        lambda x, y: tm.quality(x, y).coverage,
    ],
)
def test_contract_of_every_metric(measure):
    x, y = sets(60, 60, 5, 2)
    m = measure(x, y)
    assert m.source
    assert math.isfinite(m.value)
    assert m.low <= m.value <= m.high
    permuted = measure(x[torch.randperm(60, generator=torch.Generator().manual_seed(1))], y)
    assert permuted.value == pytest.approx(m.value, rel=1e-9)
    assert measure(x.double(), y.double()).value == pytest.approx(m.value, rel=1e-5)


def test_subsample_is_deterministic_and_keeps_order():
    x = torch.arange(50.0)[:, None]
    part = tm.subsample(x, 10, seed=3)
    assert torch.equal(part, tm.subsample(x, 10, seed=3))
    assert bool((part.diff(dim=0) > 0).all())
    assert not torch.equal(part, tm.subsample(x, 10, seed=4))
    assert tm.subsample(x, 60) is x


@pytest.mark.parametrize("n", [1, 2])
def test_one_image_is_enough_to_measure_copying(n):
    x, train = sets(30, 30)
    one, rest = tm.proximity(x[:n], train), tm.proximity(x[n:], train)
    for m in (
        tm.memorized_fraction(one, rest),
        tm.ratio_median(one, rest),
        tm.copy_auc(one.distance, rest.distance),
        tm.ct_score(one.distance, rest.distance),
    ):
        assert m.low is not None and m.high is not None and m.low <= m.value <= m.high
