"""Sharding, tracked steps, the curve of p_MN: the parts of the engine that need more than a few rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from temperance import engine
from temperance.empirical import _marginal, denoise, noise_conditional, noise_unconditional
from temperance.engine import EmpiricalDenoiser, approximate, ladder, neighbors, tracked_heun
from temperance.engine.curve import Curve
from temperance.sample import Noise, heun, integrate
from temperance.schedule import Edm

pytestmark = pytest.mark.usefixtures("screens")
RANK = """
import sys, torch
from torch import distributed
from temperance.engine import EmpiricalDenoiser, ShardedDenoiser
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
data = torch.load(folder + "/data.pt")
out = {}
for mode, options in data["modes"].items():
    mine = data["points"].tensor_split([int(len(data["points"]) * f) for f in (0.2, 0.7)][: world - 1])[rank]
    denoiser = ShardedDenoiser(EmpiricalDenoiser(mine, mode, tol=1e-9, **options))
    out[mode] = denoiser(data["x"], data["sigma"])
    stats = denoiser.stats
    out[mode + " stats"] = torch.stack([stats.log_partition, stats.effective_sample_size, stats.top_weight])
torch.save(out, f"{folder}/{world}-{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_one_two_and_three_ranks_agree(tmp_path):
    g = torch.Generator().manual_seed(0)
    points = torch.randn(400, 30, generator=g)
    points[300] = points[10]
    modes = {
        "conditional": {},
        "unconditional": {"sigma_min": 0.01, "sigma_max": 50.0},
        "temperature": {"sigma_collapse": 1.0},
    }
    sigma = torch.logspace(-2, 1.3, 40)
    x = points[:40] + sigma[:, None] * torch.randn(40, 30, generator=g)
    torch.save({"points": points, "x": x, "sigma": sigma, "modes": modes}, tmp_path / "data.pt")
    source = str(Path(engine.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    for world in (1, 2, 3):
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK, str(r), str(world), str(tmp_path)], env=env)
            for r in range(world)
        ]
        assert [r.wait(timeout=80) for r in ranks] == [0] * world
    for mode, options in modes.items():
        whole = EmpiricalDenoiser(points, mode, tol=1e-9, **options)
        expected = whole(x, sigma)
        for world in (1, 2, 3):
            for rank in range(world):
                got = torch.load(tmp_path / f"{world}-{rank}.pt")
                assert float((got[mode] - expected).abs().max()) <= 1e-6
                s = torch.stack(
                    [
                        whole.stats.log_partition,
                        whole.stats.effective_sample_size,
                        whole.stats.top_weight,
                    ]
                )
                torch.testing.assert_close(got[mode + " stats"], s, rtol=1e-4, atol=1e-4)


def smooth(n: int, d: int) -> torch.Tensor:
    """Points near a low-dimensional plane, as images are."""
    g = torch.Generator().manual_seed(1)
    basis = torch.randn(60, d, generator=g) / torch.arange(1, 61)[:, None]
    return torch.randn(n, 60, generator=g) @ basis * 0.4 + 0.02 * torch.randn(n, d, generator=g)


@pytest.mark.parametrize("mode", ["conditional", "temperature"])
def test_tracked_heun_is_heun(mode, monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 0)
    points = smooth(800, 600)
    options = {"sigma_collapse": 0.5} if mode == "temperature" else {}
    denoiser = EmpiricalDenoiser(points, mode, **options)
    assert denoiser.ladder.axes() is not None
    x = 80 * torch.randn(24, 600, generator=torch.Generator().manual_seed(2))
    sigmas = Edm().grid(18)
    calls = 0

    def by_evaluations(x, sigma):
        nonlocal calls
        calls += 1
        return denoiser(x, sigma)

    plain, tracked = list(heun(by_evaluations, x, sigmas)), list(heun(denoiser, x, sigmas))
    assert len(plain) == len(tracked) == 17 and calls == 34
    for a, b, sigma in zip(plain, tracked, sigmas[1:].tolist()):
        assert float((a - b).abs().max()) <= 5e-3 * max(sigma, 0.05)
    assert float((plain[-1] - tracked[-1]).abs().max()) <= 1e-4
    (only,) = tracked_heun(denoiser, x, sigmas, last=True)
    torch.testing.assert_close(only, tracked[-1], atol=1e-5, rtol=0)


def test_without_integer_products_there_are_no_screens_and_the_mean_is_the_same(monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 0)
    points, sigmas = smooth(800, 600), Edm().grid(18)
    x, sigma = (
        points[:24] + 0.3 * torch.randn(24, 600, generator=torch.Generator().manual_seed(3)),
        torch.full((24,), 0.3),
    )
    screened, plain = EmpiricalDenoiser(points), EmpiricalDenoiser(points)
    assert len(screened.ladder.screens(ladder.WORTH)) == 2
    expected = screened(x, sigma)
    monkeypatch.setattr(ladder, "integers_pay", lambda: False)
    torch.testing.assert_close(plain(x, sigma), expected, atol=1e-6, rtol=0)
    assert [s.name for s in plain.ladder.screens(ladder.WORTH)] == ["float32"] and plain.ladder.axes() is None
    *_, walked = heun(plain, 80 * x, sigmas)
    *_, other = heun(screened, 80 * x, sigmas)
    torch.testing.assert_close(walked, other, atol=1e-4, rtol=0)


def test_integrate_takes_the_tracked_way_and_counts_what_it_stands_for(monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 0)
    denoiser, sigmas = EmpiricalDenoiser(smooth(800, 600)), Edm().grid(18)
    walked = []
    walk = denoiser.trajectory

    def watched(x, sigmas, *, last=False):
        walked.append(last)
        return walk(x, sigmas, last=last)

    monkeypatch.setattr(denoiser, "trajectory", watched)
    fast = integrate(heun, denoiser, (600,), sigmas, Noise(3, range(8)))
    plain = integrate(heun, lambda x, sigma: denoiser(x, sigma), (600,), sigmas, Noise(3, range(8)))
    assert walked == [True] and fast.nfe == plain.nfe == 35
    torch.testing.assert_close(fast.x, plain.x, atol=1e-4, rtol=0)
    # A constraint changes every evaluation, so the denoiser's own way is not taken.
    bounded = integrate(heun, denoiser, (600,), sigmas, Noise(3, range(8)), project=lambda x: x.clamp(-0.125, 0.125))
    assert walked == [True] and float(bounded.x.abs().max()) <= 0.125


def test_no_temperature_above_sigma_collapse():
    """A strength above sigma_collapse, which the automatic one is, raises nothing there."""
    g = torch.Generator().manual_seed(0)
    points, x = torch.randn(30, 6, generator=g), torch.randn(4, 6, generator=g, dtype=torch.float64)
    for sigma, heat in ((0.5, 6.0), (0.51, 1.0)):
        level = torch.full((4,), sigma, dtype=torch.float64)
        got = EmpiricalDenoiser(points, "temperature", sigma_collapse=0.5, temperature=3.0)(x, level)
        expected = denoise(noise_conditional(x, points, level, temperature=heat), points.double())
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_the_weight_that_was_dropped_is_owned_up_to(monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 0)
    monkeypatch.setattr(ladder, "WORTH", 0)
    points = torch.randn(300, 24, generator=torch.Generator().manual_seed(1))
    x, level = points[:12].double() + 0.5, torch.full((12,), 1.0, dtype=torch.float64)
    made = EmpiricalDenoiser(points, tol=0.1)
    _, stats = made.evaluate(x, level)
    kept = made.posterior(x, level)
    whole = noise_conditional(x, points, level).weights
    missing = 1 - whole.gather(1, kept.index).where(kept.weights > 0, 0).sum(1)
    assert set(stats.path) == {"int8"} and (missing > 0).all()
    assert bool((stats.dropped >= missing).all()) and float(stats.dropped.max()) <= 0.1


def test_tracked_heun_without_axes_is_heun():
    points = smooth(200, 64)
    denoiser = EmpiricalDenoiser(points)
    x, sigmas = 80 * torch.randn(3, 64), Edm().grid(6)
    for a, b in zip(heun(lambda x, s: denoiser(x, s), x, sigmas), heun(denoiser, x, sigmas), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("d", [2, 3, 12, 784, pytest.param(12288, marks=pytest.mark.slow)])
def test_curve_of_the_noise_unconditional_law(d):
    """Values, ratios at ties and wide weights, and the cut, against the closed form at random distances."""
    curve = Curve(d, 0.01, 50.0)
    g = torch.Generator().manual_seed(d)
    log = torch.rand(400, generator=g, dtype=torch.float64) * 22 - 7 + torch.log(torch.tensor(float(d)))
    r2 = torch.cat([log.exp(), torch.tensor([0.0, 1e-30])])
    weight, precision = _marginal(r2, d, 0.01, 50.0)
    # Below three dimensions the formula is a sum over levels, whose derivative is not quite the integral's.
    unit = 1e-8 if d > 2 else 3e-5
    scale = weight.abs().clamp(min=1)
    assert float(((curve.pull(r2) - weight - precision) / scale).abs().max()) <= 2 * unit
    assert float((curve.log_precision(r2) - precision).abs().max()) <= 100 * unit
    # Ties: a relative change of 1e-6 in the distance.
    near, far = r2[:400], r2[:400] * (1 + 1e-6)
    (w0, p0), (w1, p1) = _marginal(near, d, 0.01, 50.0), _marginal(far, d, 0.01, 50.0)
    change = curve.pull(near) - curve.pull(far)
    assert float((change - (w0 + p0 - w1 - p1)).abs().max()) <= 10 * unit + 3e-10 * float(w0.abs().max())
    beyond = curve.cut(near, 20.0)
    assert bool((curve.pull(near) - curve.pull(beyond) >= 20 - 100 * unit).all())


def test_unconditional_denoiser_in_many_dimensions():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(40, 12288, generator=g) * 0.3
    x = points[:6] + torch.tensor([0.02, 0.1, 0.5, 1.0, 5.0, 20.0])[:, None] * torch.randn(6, 12288, generator=g)
    x[0] = (points[0] + points[1]) / 2
    expected = noise_unconditional(x, points, 0.01, 50.0)
    got = EmpiricalDenoiser(points, "unconditional", sigma_min=0.01, sigma_max=50.0).posterior(x, None)
    assert got.index is not None
    whole = torch.zeros(6, 40, dtype=torch.float64).scatter_add_(1, got.index, got.weights)
    torch.testing.assert_close(whole, expected.weights, atol=1e-6, rtol=1e-5)
    level = torch.where(got.weights > 1e-6, got.sigma, expected.sigma.gather(1, got.index))
    torch.testing.assert_close(level, expected.sigma.gather(1, got.index), rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_approximate_neighbors_say_their_recall(capsys, monkeypatch):
    pytest.importorskip("faiss")
    points = smooth(4000, 16)
    with pytest.raises(ValueError, match="approximate is for more than 10000000 points"):
        engine.neighbor_table(points, 5, approximate=True)
    monkeypatch.setattr(neighbors, "HUGE", 1000)
    table = engine.neighbor_table(points, 5, approximate=True)
    assert "recall" in capsys.readouterr().err
    assert approximate.recall(points, table) >= 0.9
    assert not bool((table.index == torch.arange(4000)[:, None]).any())
