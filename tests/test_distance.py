"""Distances in one place: exact at ties and duplicates, whatever the offset; bad input is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temperance import distance
from temperance.distance import direct, duplicates, fingerprint, nearest, neighbors, squared


def data(seed: int, n: int, d: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, d, generator=g) * (0.1 + torch.rand(n, 1, generator=g))
    p[1] = p[0]
    return p


def brute(x: Tensor, p: Tensor) -> Tensor:
    return (x.double()[:, None] - p.double()[None]).square().sum(2)


@pytest.mark.parametrize("offset", [0.0, 50.0, 1000.0])
def test_squared_and_direct(offset):
    p = data(0, 40, 30) + offset
    x = p[:7] + 0.01
    expected = brute(x, p)
    torch.testing.assert_close(squared(x, p), expected, rtol=1e-9, atol=1e-10)
    every = torch.arange(40).expand(7, -1)
    assert torch.equal(direct(x, p, every), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 70), st.sampled_from([0.0, 3.0, 500.0]))
def test_nearest_is_exact(seed, n, d, offset):
    p = data(seed, n, d) + offset
    x = torch.cat([p[: min(n, 5)], data(seed + 1, 4, d) + offset])
    k = 1 + seed % n
    found, r2 = nearest(x, p, k), brute(x, p)
    torch.testing.assert_close(found.distance.double(), r2.sort(1).values[:, :k].sqrt(), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(r2.gather(1, found.index).sqrt().float(), found.distance)
    assert float(found.distance[:2, 0].max()) == 0.0


def test_ties_go_to_the_lower_index():
    p = torch.tensor([[1.0], [-1.0], [1.0], [3.0]])
    assert nearest(torch.zeros(1, 1), p, 3).index.tolist() == [[0, 1, 2]]


def test_neighbors_leave_out_the_point_itself():
    p = data(3, 50, 8)
    table = neighbors(p, 4)
    assert not bool((table.index == torch.arange(50)[:, None]).any())
    assert table.index[0, 0] == 1 and table.index[1, 0] == 0
    same = neighbors(torch.ones(6, 2), 2)
    assert not bool((same.index == torch.arange(6)[:, None]).any()) and float(same.distance.max()) == 0


def test_neighbors_of_the_same_label():
    p, labels = data(4, 60, 8), torch.arange(60) % 4
    table = neighbors(p, 3, labels)
    assert torch.equal(labels[table.index], labels[:, None].expand(-1, 3))
    with pytest.raises(ValueError, match="k=15 neighbors need at least 16 points, got 15"):
        neighbors(p, 15, labels)


def test_duplicates_form_chains():
    p = torch.tensor([[0.0], [5.0], [0.1], [0.2], [5.0], [9.0]])
    assert duplicates(p).tolist() == [0, 1, 2, 3, 1, 5]
    assert duplicates(p, 0.11).tolist() == [0, 1, 0, 0, 1, 5]


class Streamed:
    """Rows made on demand, which say how many were asked for at once."""

    def __init__(self, points: Tensor):
        self.points, self.most = points, 0

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, key) -> Tensor:
        self.most = max(self.most, len(self.points[key]))
        return self.points[key]


@pytest.mark.parametrize("radius", [0.0, 0.5])
def test_a_hundred_copies_are_one_point(radius):
    p = torch.cat([torch.ones(100, 3), 10 * torch.eye(3)])[torch.randperm(103)]
    group = duplicates(p, radius)
    assert len(group.unique()) == 4
    for g in group.unique():
        member = (group == g).nonzero()[:, 0]
        assert int(member[0]) == g and bool((p[member] == p[g]).all())


def test_a_cloud_and_a_long_chain_within_a_radius():
    """More than 32 neighbors within the radius, and a chain whose ends are far apart, in an order that hides it."""
    g = torch.Generator().manual_seed(0)
    cloud = 1e-3 * torch.randn(200, 2, generator=g)
    chain = torch.stack([10 + 0.1 * torch.arange(300.0), torch.zeros(300)], 1)
    order = torch.randperm(500, generator=g)
    group = duplicates(torch.cat([cloud, chain])[order], 0.1001)
    assert sorted(group.unique(return_counts=True)[1].tolist()) == [200, 300]
    broken = torch.cat([chain[:150], chain[151:]])
    assert sorted(duplicates(broken, 0.1001).unique(return_counts=True)[1].tolist()) == [149, 150]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 4), st.sampled_from([0.0, 1000.0]))
def test_duplicates_agree_with_loops(seed, n, d, offset):
    g = torch.Generator().manual_seed(seed)
    p = torch.randint(0, 6, (n, d), generator=g).float() + offset  # many distances are equal to the radius
    for radius in (0.0, 1.0, 2.0**0.5):
        linked = brute(p, p).sqrt().float() <= radius
        group = torch.arange(n)
        for _ in range(n):
            group = torch.where(linked, group, n).amin(1)
        assert torch.equal(duplicates(p, radius), group)


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_duplicates_of_rows_made_on_demand(radius, monkeypatch):
    p = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    p[150], p[190] = -0.0, 0.0
    p[40:60] = p[3]
    whole, rows = duplicates(p, radius), Streamed(p)
    monkeypatch.setattr(distance, "ROWS", 17)
    assert torch.equal(duplicates(rows, radius), whole) and rows.most == 17
    assert whole[150] == whole[190] and bool((whole[40:60] == whole[3]).all())
    assert torch.equal(duplicates(p.double(), radius), whole)


def test_fingerprints_of_saved_tables_stay_as_they_are():
    p = torch.arange(6.0).view(2, 3)
    known = {torch.float32: "e20933188a476ce2", torch.float64: "d962763c32cc4423", torch.int64: "2821a902fcfe5cd0"}
    assert {dtype: fingerprint(p.to(dtype))[:16] for dtype in known} == known


def test_fingerprint_knows_type_shape_and_values():
    p = torch.arange(6.0)
    prints = {fingerprint(t) for t in (p, p.double(), p.bfloat16(), p.view(2, 3), p + 1, p.flip(0))}
    assert len(prints) == 6
    assert fingerprint(p) == fingerprint(p.clone())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: nearest(p, p, 0), "k must be between 1 and the number of points 9, got 0"),
        (lambda p: nearest(p, p, 10), "k must be between 1 and the number of points 9, got 10"),
        (lambda p: nearest(p / 0, p, 1), "x holds 27 non-finite values"),
        (lambda p: nearest(p, p / 0, 1), "points holds 27 non-finite values"),
        (lambda p: nearest(p, p[:0], 1), "points is empty"),
        (lambda p: duplicates(p / 0), "points holds 27 non-finite values"),
        (lambda p: duplicates(p.view(3, 3, 3)), r"x and points must be \[batch, d\] and \[n, d\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(data(5, 9, 3))


def test_no_rows():
    assert nearest(torch.empty(0, 3), torch.rand(4, 3), 2).index.shape == (0, 2)
    assert duplicates(torch.empty(0, 3)).tolist() == duplicates(torch.empty(0, 3), 1.0).tolist() == []
