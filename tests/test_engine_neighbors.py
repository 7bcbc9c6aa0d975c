"""Nearest points and the neighbor table: exact, resumable, grouped, restricted."""

import pytest
import torch
from torch import Tensor

from temperance.distance import nearest
from temperance.engine import Finder, neighbor_table, neighbors
from temperance.engine import nearest as nearest_module
from temperance.engine.screen import Integer


def data(seed: int, n: int, d: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, d, generator=g) * (0.1 + torch.rand(n, 1, generator=g))
    p[5] = p[6] = p[7]
    p[8] = p[9] + 1e-5
    return p


def brute(x: Tensor, p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Differences in float64; ties to the lower index."""
    r = (x.double()[:, None] - p.double()[None]).square().sum(2)
    order = r.argsort(dim=1, stable=True)[:, :k]
    return order, r.gather(1, order).sqrt()


@pytest.mark.parametrize("shape", [(3000, 400), (900, 30), (40, 7), (3000, 350)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("k", [1, 10, 40])
def test_finder_is_exact(shape, offset, k):
    p = data(1, *shape) + offset
    x = torch.cat([p[:20], data(2, 12, shape[1]) + offset])
    finder = Finder(p, block_bytes=16 << 20)
    assert isinstance(finder.screen, Integer) == (p.numel() >= 1 << 20)
    got = finder(x, k)
    index, distance = brute(x, p, k)
    assert torch.equal(got.index, index)
    torch.testing.assert_close(got.distance, distance.float())
    if offset == 0:
        assert float(got.distance[:8, 0].max()) == 0.0


def test_finder_excludes_and_does_not_depend_on_groups(monkeypatch):
    p = data(3, 2500, 500)
    own = torch.arange(60)
    whole = Finder(p)(p[:60], 5, own)
    monkeypatch.setattr(nearest_module, "ROWS", 7)
    assert torch.equal(Finder(p, block_bytes=1 << 20)(p[:60], 5, own).index, whole.index)
    index, _ = brute(p[:60], p, 6)
    kept = torch.stack([row[row != i][:5] for i, row in enumerate(index)])
    assert torch.equal(whole.index, kept)
    assert Finder(p)(p[:0], 5).index.shape == (0, 5)


def test_finder_among_equal_points():
    p = torch.ones(300, 4000)
    got = Finder(p)(p[:3], 4)
    assert torch.equal(got.index, torch.arange(4).expand(3, -1)) and float(got.distance.max()) == 0


def test_table_groups_duplicates():
    p = data(5, 300, 20)
    table = neighbor_table(p, 4)
    assert torch.equal(table.index[5], table.index[6]) and torch.equal(table.index[5], table.index[7])
    assert float(table.distance.min()) > 0
    assert not bool(torch.isin(table.index, torch.tensor([6, 7])).any())
    keep = torch.tensor([i for i in range(300) if i not in (6, 7)])
    plain = nearest(p[keep], p[keep], 5)
    assert torch.equal(table.index[keep], keep[plain.index[:, 1:]])


def test_table_within_labels_and_in_another_space():
    p, labels = data(6, 200, 12), torch.arange(200) % 3
    table = neighbor_table(p, 3, labels=labels)
    assert torch.equal(labels[table.index], labels[:, None].expand(-1, 3))
    labels[6], labels[7] = labels[5], (labels[5] + 1) % 3  # 5 and 6 are one point of their label; 7 is not theirs
    same = neighbor_table(p, 3, labels=labels)
    assert torch.equal(same.index[5], same.index[6]) and float(same.distance.min()) > 0
    assert torch.equal(labels[same.index[7]], labels[7].expand(3))
    space = data(7, 200, 5)
    assert torch.equal(neighbor_table(p, 3, space=space).index, neighbor_table(space, 3).index)


def test_table_is_written_once_mapped_and_resumed(tmp_path, monkeypatch):
    p, path = data(8, 300, 12), tmp_path / "table.safetensors"
    monkeypatch.setattr(neighbors, "PART", 64)
    expected = neighbor_table(p, 3)
    calls = []
    find = Finder.__call__

    def counted(self, x, k, exclude=None):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(self, x, k, exclude)

    monkeypatch.setattr(Finder, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        neighbor_table(p, 3, path=path)
    assert len(list((tmp_path / "table.safetensors.parts").iterdir())) == 2
    table = neighbor_table(p, 3, path=path)
    assert calls == [64, 64, 64, 64, 64, 42] and list(tmp_path.iterdir()) == [path]
    again = neighbor_table(p, 3, path=path)
    assert len(calls) == 6
    for found in (table, again):
        assert torch.equal(found.index, expected.index) and torch.equal(found.distance, expected.distance)
    path.write_bytes(b"damaged")
    assert torch.equal(neighbor_table(p, 3, path=path).index, expected.index) and len(calls) == 11
    neighbor_table(p + 1, 3, path=path)
    assert len(calls) == 16


def test_processes_that_write_one_table_do_not_meet(tmp_path, monkeypatch):
    p, path = data(8, 200, 12), tmp_path / "table.safetensors"
    monkeypatch.setattr(neighbors, "PART", 64)
    expected, find = neighbor_table(p, 3), Finder.__call__

    def interrupted(self, x, k, exclude=None):
        if len(x) < 64:  # the last part: meanwhile the other process has ended
            monkeypatch.setattr(Finder, "__call__", find)
            neighbor_table(p, 3, path=path)
        return find(self, x, k, exclude)

    monkeypatch.setattr(Finder, "__call__", interrupted)
    assert torch.equal(neighbor_table(p, 3, path=path).index, expected.index)
    assert torch.equal(neighbor_table(p, 3, path=path).index, expected.index) and list(tmp_path.iterdir()) == [path]


def test_a_table_of_another_question_is_not_taken_from_the_file(tmp_path):
    p, path = data(8, 60, 12), tmp_path / "table.safetensors"
    parity, halves = torch.arange(60) % 2, torch.arange(60) // 30
    for k in (3, 4):  # from one question to the next only one thing changes
        for asked in ({}, {"labels": parity}, {"labels": halves}, {}, {"space": p[:, :5]}, {"space": p[:, :2]}):
            found, expected = neighbor_table(p, k, path=path, **asked), neighbor_table(p, k, **asked)
            assert torch.equal(found.index, expected.index) and torch.equal(found.distance, expected.distance)


def test_a_table_of_any_floating_type_is_kept(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        p, path = data(8, 40, 6).to(dtype), tmp_path / str(dtype)
        assert torch.equal(neighbor_table(p, 3, path=path).index, neighbor_table(p.double(), 3).index)
        assert torch.equal(neighbor_table(p, 3, path=path).index, neighbor_table(p, 3).index)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: Finder(p)(p, 41), "k must be between 1 and 40 for 40 points, got 41"),
        (lambda p: Finder(p)(p, 40, torch.arange(40)), "k must be between 1 and 39"),
        (lambda p: Finder(p)(p[:, :3], 1), r"x must be \[batch, 7\]"),
        (lambda p: Finder(p)(p / 0, 1), "x holds non-finite values"),
        (lambda p: neighbor_table(p, 38), "need at least 39 distinct points, got 38"),
        (lambda p: neighbor_table(p, 2, labels=torch.ones(3, dtype=torch.long)), "labels must have 40 rows, got 3"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(data(9, 40, 7))
