"""Whole-set distances, fidelity and variety, against what is known or computed naively."""

import numpy as np
import pytest
import torch
from scipy import linalg

from rows import cdist, sets
from temperance import metrics as tm
from temperance.auditing import Encoded
from temperance.auditing import fidelity as audited
from temperance.metrics import fidelity

# ---- quality ----


@pytest.mark.parametrize(("n", "f"), [(200, 5), (40, 100), (3000, 8)])
def test_frechet_distance_agrees_with_scipy(n, f):
    a, b = sets(n, n - 3, f)
    b = b * 1.3 + 0.2
    cov = [np.cov(v.double().numpy(), rowvar=False) for v in (a, b)]
    if n > f:
        root = np.trace(linalg.sqrtm(cov[0] @ cov[1])).real
    else:
        root = np.sqrt(np.clip(np.linalg.eigvals(cov[0] @ cov[1]).real, 0, None)).sum()
    gap = np.sum((a.double().mean(0) - b.double().mean(0)).numpy() ** 2)
    m = tm.frechet_distance(a, b)
    assert m.value == pytest.approx(gap + np.trace(cov[0]) + np.trace(cov[1]) - 2 * root, rel=1e-4 if f > n else 1e-8)
    assert m.low is not None and m.high is not None
    assert m.low <= m.value <= m.high


def test_frechet_distance_known_answers():
    a, _ = sets(100, 1, 4)
    assert tm.frechet_distance(a, a).value == pytest.approx(0, abs=1e-12)
    assert tm.frechet_distance(a, a + 2).value == pytest.approx(16, rel=1e-6)
    far = tm.frechet_distance(a + 1e3, a + 1e3).value
    assert far == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="generated holds 1 image"):
        tm.frechet_distance(a[:1], a)


def test_a_ratio_to_rounding_is_none():
    train, heldout = sets(60, 60, 5)
    assert tm.fd_ratio(heldout, train, heldout.flip(0)) is None
    found = tm.fd_ratio(train, train, heldout)
    assert found is not None and found.value == pytest.approx(0, abs=1e-9)


def test_a_small_distance_to_held_out_images_still_has_a_ratio():
    train, heldout = sets(60, 60, 5)
    x = heldout + 0.01
    near, far = (tm.frechet_distance(x, reference).value for reference in (train, heldout))
    found = tm.fd_ratio(x, train, heldout)
    assert far < 1e-3 and found is not None and found.value == pytest.approx(near / far)


def test_the_jackknife_of_a_mean_is_the_error_of_the_mean_of_its_folds():
    x = sets(200, 1, 1)[0].double()
    fold = tm.interval.fold_of(200, 10)
    means = np.array([float(x[fold == i].mean()) for i in range(10)])
    margin = 2.262157 * means.std(ddof=1) / 10**0.5  # Student's t with 9 degrees
    low, high = tm.jackknife(lambda part: float(part.mean()), [x], float(x.mean()))
    assert (low, high) == pytest.approx((float(x.mean()) - margin, float(x.mean()) + margin), rel=1e-6)


def test_kid_agrees_with_loops_and_is_unbiased():
    x, y = sets(12, 9, 4)

    def k(a, b):
        return (float(a.double() @ b.double()) / 4 + 1) ** 3

    within = [np.mean([k(v[i], v[j]) for i in range(len(v)) for j in range(len(v)) if i != j]) for v in (x, y)]
    across = np.mean([k(a, b) for a in x for b in y])
    assert tm.kid(x, y).value == pytest.approx(sum(within) - 2 * across)
    a, b = sets(2000, 2000, 4)
    m = tm.kid(a, b, block=200)
    assert m.low is not None and m.high is not None
    assert m.low < 0 < m.high
    assert abs(m.value) < abs(tm.kid(a, b + 1, block=200).value) / 20


def test_kid_of_sets_sorted_by_class_is_that_of_shuffled_ones():
    label = torch.randint(3, (3000, 1), generator=torch.Generator().manual_seed(1))
    x, y = (v + 4 * label for v in sets(3000, 3000, 4))
    order = y.sum(1).argsort()
    mixed, by_class = tm.kid(x, y, block=500).value, tm.kid(x, y[order], block=500).value
    exact = tm.kid(x, y, block=3000).value
    assert abs(by_class - exact) < 3 * abs(mixed - exact) + 0.1 * tm.kid(x, y + 0.5, block=3000).value


class Rows(Encoded):
    """Rows that are features already."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return self.rows[key]


def test_intervals_do_not_depend_on_the_order_of_rows():
    """Samples of a class-conditional model come in turns of its classes: no fold may be a class."""
    draw = torch.Generator().manual_seed(0)
    places = 4 * torch.randn(10, 6, generator=draw)
    x, train, heldout = (places.repeat(n // 10, 1) + torch.randn(n, 6, generator=draw) for n in (400, 300, 300))
    order = torch.randperm(400, generator=draw)
    for figure in (tm.frechet_distance, tm.kid):
        turns, mixed = (figure(rows, heldout) for rows in (x, x[order]))
        assert turns.high - turns.low == pytest.approx(mixed.high - mixed.low, rel=0.7), figure
    order = torch.randperm(300, generator=draw)
    turns, mixed = tm.dcr_share(x, train, heldout), tm.dcr_share(x, train[order], heldout[order])
    assert turns.high - turns.low < 1.5 * (mixed.high - mixed.low)


def test_intervals_know_that_references_are_samples_too():
    """Few directions, few images: the two references differ by as much as the generated rows do."""
    mix = torch.randn(8, 24, generator=torch.Generator().manual_seed(1))

    def drawn(seed):
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(60, 8, generator=draw) @ mix + 0.1 * torch.randn(60, 24, generator=draw)

    held = {"fd_ratio": 0, "kid": 0}
    for seed in range(0, 120, 3):
        x, train, heldout = map(drawn, range(seed, seed + 3))
        for found, truth in ((tm.fd_ratio(x, train, heldout), 1), (tm.kid(x, heldout), 0)):
            held[found.name] += found.low <= truth <= found.high
    assert min(held.values()) >= 36, held


def test_the_interval_of_kid_from_two_blocks_holds_as_often_as_it_says():
    held = 0
    for seed in range(100):
        x, y = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(seed))
        found = tm.kid(x, y, block=30)  # the truth is 0
        held += found.low <= 0 <= found.high
    assert held >= 88


def test_variety_and_likelihood_of_sets_sorted_by_class_are_those_of_all_classes(monkeypatch):
    """These two take few rows of each set; the first few would be of one class."""
    monkeypatch.setattr(audited, "LIKELIHOOD", 60)
    apart = 20 * torch.eye(4)[torch.arange(4).repeat_interleave(100)]  # four classes at right angles, in order
    x, train, heldout = (v + apart for v in sets(400, 400, 4) + sets(400, 1, 4, seed=5)[:1])
    rows = {"generated": Rows(x.flip(0)), "train": Rows(train), "heldout": Rows(heldout)}
    found = audited.fidelity(rows, 400, 0)
    assert found["vendi"].value == pytest.approx(4, abs=0.2) and found["vendi"].null == pytest.approx(4, abs=0.2)
    assert found["fld"].value == pytest.approx(0, abs=20)


def test_every_figure_stands_beside_the_same_of_real_data():
    """What a report calls the null: held-out for generated images where the reference is train, train elsewhere."""
    x, train, heldout = (1.2 * sets(60, 1, 4)[0] + 0.3, sets(60, 1, 4, seed=1)[0], sets(60, 1, 4, seed=2)[0])
    rows = {"generated": Rows(x), "train": Rows(train), "heldout": Rows(heldout)}
    found = audited.fidelity(rows, 60, 0)
    real, floor = tm.quality(train, heldout)._asdict(), tm.frechet_distance(heldout, train)
    expected = {
        "fd_train": (tm.frechet_distance(x, train), floor),
        "fd_heldout": (tm.frechet_distance(x, heldout), floor),
        "kid_train": (tm.kid(x, train), tm.kid(heldout, train)),
        "kid": (tm.kid(x, heldout), tm.kid(heldout, train)),
        "mifid": (tm.mifid(x, train, tm.frechet_distance(x, train)), tm.mifid(heldout, train, floor)),
        "vendi": (tm.vendi_score(x), tm.vendi_score(heldout)),
    } | {key: (m, real[key]) for key, m in tm.quality(x, heldout)._asdict().items()}
    for key, (value, null) in expected.items():
        assert (found[key].value, found[key].null) == (value.value, null.value), key
    assert found["fd_floor"].value == floor.value and real["precision"].value != real["recall"].value


def naive_quality(x, y, k):
    d = cdist(x, y).numpy()
    ry = np.sort(cdist(y, y).numpy(), 1)[:, k]
    rx = np.sort(cdist(x, x).numpy(), 1)[:, k]
    inside = d <= ry
    return (
        inside.any(1).mean(),
        (d <= rx[:, None]).any(0).mean(),
        inside.sum(1).mean() / k,
        inside.any(0).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_quality_agrees_with_loops(k, monkeypatch):
    x, y = sets(70, 65, 3)
    expected = naive_quality(x, y * 0.8 + 0.3, k)
    assert [m.value for m in tm.quality(x, y * 0.8 + 0.3, k=k)] == pytest.approx(expected)
    monkeypatch.setattr(fidelity, "ROWS", 16)
    assert [m.value for m in tm.quality(x, y * 0.8 + 0.3, k=k)] == pytest.approx(expected)


def test_quality_has_the_neighbors_of_its_sources():
    x, y = sets(70, 65, 3)
    three, five = (naive_quality(x, y * 0.8 + 0.3, k) for k in (3, 5))
    assert [m.value for m in tm.quality(x, y * 0.8 + 0.3)] == pytest.approx([*three[:2], *five[2:]])
    assert three[0] != five[0] and three[3] != five[3]


def test_a_set_in_which_every_image_repeats_covers_itself():
    """Balls of radius 0, and distances that rounding lifts above 0."""
    x = sets(20, 1, 50)[0].repeat(8, 1) + 3
    q = tm.quality(x, x)
    assert (q.precision.value, q.recall.value, q.coverage.value) == (1, 1, 1)


def test_identical_sets_have_full_quality_and_far_sets_none():
    x, _ = sets()
    for shifted in (x, x + 1e3):
        q = tm.quality(shifted, shifted)
        assert (q.precision.value, q.recall.value, q.coverage.value) == (1, 1, 1)
        assert q.density.value == pytest.approx((1 + 5) / 5, abs=0.2)
    assert [m.value for m in tm.quality(x, x + 1e3)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="reference holds 5 images; k=5 needs at least 6"):
        tm.quality(x, x[:5])


def test_copycat_has_precision_without_recall():
    x, train = sets(200, 200, 2)
    q = tm.quality(train[:8].repeat(25, 1), train)
    assert q.precision.value == 1
    assert q.recall.value < 0.1


@pytest.mark.parametrize("repeated", ["train", "heldout"])
def test_equal_images_of_the_real_sets_count_as_one(repeated):
    """A set that repeats its images lies farther from everything; then nothing, or all, looks copied."""
    rows = dict(zip(("generated", "train", "heldout"), (sets(240, 1, 5, seed)[0] for seed in range(3))))
    rows[repeated] = rows[repeated][:60]
    once = audited.fidelity({key: Rows(v) for key, v in rows.items()}, 200, 0)
    rows[repeated] = rows[repeated].repeat(4, 1)
    found = audited.fidelity({key: Rows(v) for key, v in rows.items()}, 200, 0)
    assert found == once and found["dcr_share"].n == 60
    assert found["dcr_share"].low < 0.5 < found["dcr_share"].high
