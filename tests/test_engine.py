"""The engine against the float64 formulas: on random data and on data made to break it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from temperance import empirical
from temperance.distance import neighbors
from temperance.engine import EmpiricalDenoiser, ladder, paths, scan, survivors, tempered_mean
from temperance.engine.law import Gaussian
from temperance.engine.screen import Integer, Single, principal
from temperance.engine.table import Table

pytestmark = pytest.mark.usefixtures("screens")
MB = 1 << 20
SIGMAS = (0.002, 0.05, 0.3, 1.0, 3.0, 20.0, 80.0)


def cluster(seed: int, n: int, d: int) -> Tensor:
    """Points with near ties, duplicates and very different norms."""
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, d, generator=g) * (0.05 + torch.rand(n, 1, generator=g))
    p[1], p[2] = p[0], p[0] + 1e-6
    p[3:6] = p[6] + 1e-3 * torch.randn(3, d, generator=g)
    return p


def noisy(p: Tensor, seed: int, sigma: float, batch: int = 12) -> Tensor:
    """Rows near points, half-way between points, at points, and far away."""
    g = torch.Generator().manual_seed(seed)
    x = p[torch.randint(len(p), (batch,), generator=g)].double() + sigma * torch.randn(batch, p.shape[1], generator=g)
    x[0] = (p[0].double() + p[7].double()) / 2
    x[1] = (p[3].double() + p[4].double()) / 2
    x[2] = p[0].double()
    x[3] *= 10
    return x


DATA = {
    "random": lambda: torch.randn(300, 24, generator=torch.Generator().manual_seed(1)),
    "cluster": lambda: cluster(2, 400, 40),
    "offset": lambda: cluster(3, 200, 30) + 500,
    "wide": lambda: cluster(4, 300, 700),
    "double": lambda: cluster(5, 200, 20).double(),
    "half": lambda: cluster(6, 200, 20).half(),
    "low rank": lambda: torch.randn(300, 3, generator=torch.Generator().manual_seed(7)) @ torch.ones(3, 600),
    "one point": lambda: torch.ones(1, 5),
    "equal": lambda: torch.ones(20, 5),
}


@pytest.fixture(params=list(DATA))
def points(request) -> Tensor:
    return DATA[request.param]()


@pytest.fixture
def eager(monkeypatch):
    """Screens for any number of points and rows."""
    monkeypatch.setattr(ladder, "SMALL", 0)
    monkeypatch.setattr(ladder, "WORTH", 0)


def weights_over_all(posterior: empirical.Posterior, n: int) -> Tensor:
    if posterior.index is None:
        return posterior.weights
    return torch.zeros(len(posterior.weights), n, dtype=torch.float64).scatter_add_(
        1, posterior.index, posterior.weights
    )


def reference(x: Tensor, p: Tensor, sigma: Tensor, mode: str) -> empirical.Posterior:
    """Formulas on differences in float64, where the product form of `squared` would cancel."""
    q, y = p.double() - p.double().mean(0), x - p.double().mean(0)
    every = torch.arange(len(p)).expand(len(x), -1)
    if mode == "unconditional":
        return empirical.noise_unconditional(y, q, 0.01, 50.0, index=every)
    hot = (1 / sigma).clamp(min=1) if mode == "temperature" else 1.0
    return empirical.noise_conditional(y, q, sigma, index=every, temperature=hot)


def options(mode: str) -> dict:
    return {
        "unconditional": {"sigma_min": 0.01, "sigma_max": 50.0},
        "temperature": {"sigma_collapse": 1.0},
    }.get(mode, {})


@pytest.mark.parametrize("mode", ["conditional", "unconditional", "temperature"])
@pytest.mark.parametrize("screens", [True, False], ids=["screens", "plain"])
def test_agrees_with_the_formulas(points, mode, screens, request):
    if screens:
        request.getfixturevalue("eager")
    if len(points) < 8:
        points = points.expand(8, -1).clone()
    engine = EmpiricalDenoiser(points, mode, tol=1e-10, **options(mode))
    for sigma in SIGMAS:
        level = torch.full((12,), sigma, dtype=torch.float64)
        x = noisy(points, 5, sigma)
        expected = reference(x, points, level, mode)
        mean = empirical.denoise(expected, points.double())
        got = engine(x, level)
        stats = engine.stats
        assert stats is not None and len(stats.path) == 12
        seen = torch.cdist(x, points.double()).amin(1) / x.shape[1] ** 0.5 if mode == "unconditional" else level
        assert float(((got - mean).abs().amax(1) / seen.clamp(min=0.05)).max()) <= 1e-5
        entropy = -torch.special.xlogy(expected.weights, expected.weights).sum(1)
        torch.testing.assert_close(stats.effective_sample_size, entropy.exp(), rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(stats.top_weight, expected.weights.amax(1), rtol=2e-4, atol=1e-8)
        assert float(stats.dropped.max()) <= 1e-10
        over_all = weights_over_all(engine.posterior(x, level), len(points))
        torch.testing.assert_close(over_all, expected.weights, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["conditional", "unconditional"])
def test_score_and_log_partition(mode):
    p = cluster(1, 200, 30)
    x, level = noisy(p, 2, 0.3), torch.full((12,), 0.3, dtype=torch.float64)
    engine = EmpiricalDenoiser(p, mode, tol=1e-10, **options(mode))
    every = torch.arange(len(p)).expand(12, -1)
    if mode == "conditional":
        expected = empirical.noise_conditional(x, p.double(), level, index=every)
        engine(x, level)
        r2 = torch.cdist(x, p.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
        log_partition = torch.logsumexp(-r2 / (2 * 0.3**2), 1)
        torch.testing.assert_close(engine.stats.log_partition, log_partition, rtol=1e-9, atol=1e-6)
    else:
        expected = empirical.noise_unconditional(x, p.double(), 0.01, 50.0, index=every)
    score = empirical.score(expected, x, p.double())
    torch.testing.assert_close(engine.score(x, level), score, rtol=1e-6, atol=1e-6 * float(score.abs().max()))


def screens_of(table: Table) -> list:
    axes = [principal(table, min(table.d, k)) for k in (3, 16)]
    return [Single(table), Integer(table, math.inf), Integer(table, 0.0), *(Integer(table, math.inf, a) for a in axes)]


@pytest.mark.parametrize("seed", range(8))
def test_screens_are_upper_bounds(points, seed):
    """Thousands of rows times points: no bound is ever below the float64 affinity."""
    points = points if len(points) >= 8 else points.expand(8, -1).clone()
    table = Table(points, MB)
    x = torch.cat([noisy(points, seed, s) for s in (1e-6, 0.01, 1.0, 1e4)])
    query, centered = x - table.mean, points.double() - table.mean
    affinity = query @ centered.T - table.half
    for screen in screens_of(table):
        upper = torch.cat([u for _, u in screen.look(query).upper], 1).double()
        assert upper.shape == affinity.shape
        assert bool((upper >= affinity - 1e-12 * affinity.abs()).all()), screen.name


@pytest.mark.parametrize("seed", range(3))
def test_survivors_hold_all_but_tol_of_the_weight(seed):
    """The certificate: the true share of dropped points is below the bound, which is below tol."""
    p = cluster(seed, 500, 48)
    table = Table(p, MB)
    for sigma in SIGMAS:
        x = noisy(p, seed, sigma, 20)
        law = Gaussian(torch.full((20,), sigma).double(), torch.ones(20).double())
        expected = reference(x, p, law.sigma, "conditional").weights
        for screen in screens_of(table):
            nats = survivors.nats_for(1e-6, table.n)
            found = survivors.find(x, table, law, screen, nats, survivors.Caps.none(table.n))
            weighed, _ = survivors.weigh(x, table, law, found, nats, table.n)
            kept = torch.zeros_like(expected, dtype=torch.bool)
            kept[weighed.pairs.row, weighed.pairs.point] = True
            missing = torch.where(kept, 0.0, expected).sum(1)
            assert not bool(found.over.any())
            assert float(missing.max()) <= 1e-6
            sums = survivors.gather(weighed, (x - table.mean).square().sum(1), table, law)
            assert bool(((table.n - kept.sum(1)) * math.exp(-nats) / sums.mass >= missing - 1e-15).all())


def test_a_failed_screen_falls_back_and_says_so(eager, monkeypatch):
    p = torch.randn(600, 30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(paths, "FEW", 0)
    engine = EmpiricalDenoiser(p)
    x = torch.cat([p[:6] + 0.001, torch.zeros(6, 30)])
    sigma = torch.cat([torch.full((6,), 0.1), torch.full((6,), 5.0)])
    got = engine(x, sigma)
    assert engine.stats.path == ("int8",) * 6 + ("int8>dense",) * 6
    expected = empirical.denoise(empirical.noise_conditional(x, p, sigma), p)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_many_near_ties_at_low_sigma_go_through_float64(eager, monkeypatch):
    g = torch.Generator().manual_seed(0)
    p = torch.randn(1, 64, generator=g).expand(300, -1) + 1e-3 * torch.randn(300, 64, generator=g)
    p = torch.cat([p, 5 * torch.randn(20, 64, generator=g)])
    monkeypatch.setattr(paths, "FEW", 0)
    engine = EmpiricalDenoiser(p)
    x, sigma = p[:4].double() + 0.01, torch.full((4,), 0.002, dtype=torch.float64)
    got = engine(x, sigma)
    assert engine.stats.path == ("int8>dense64",) * 4
    expected = empirical.denoise(reference(x, p, sigma, "conditional"), p.double())
    assert float((got - expected).abs().max()) <= 1e-5 * 0.002


@pytest.mark.parametrize("mode", ["conditional", "unconditional"])
def test_does_not_depend_on_blocks_batches_or_threads(eager, mode):
    p = cluster(8, 3000, 64)
    sigma = torch.logspace(-2, 1, 60, dtype=torch.float64)
    x = torch.cat([noisy(p, i, float(s), 6) for i, s in enumerate(sigma[::6])])
    first = EmpiricalDenoiser(p, mode, tol=1e-9)(x, sigma)
    small = EmpiricalDenoiser(p, mode, tol=1e-9, block_bytes=MB)(x, sigma)
    engine = EmpiricalDenoiser(p, mode, tol=1e-9)
    singly = torch.cat([engine(x[i : i + 1], sigma[i : i + 1]) for i in range(60)])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = EmpiricalDenoiser(p, mode, tol=1e-9)(x, sigma)
    finally:
        torch.set_num_threads(threads)
    for other in (small, singly, one):
        # The noise that is there, which is what sigma stands for, but also in rows far from all points.
        unit = torch.maximum((x - first).norm(dim=1) / 8, sigma)
        assert float(((other - first).abs().amax(1) / unit).max()) <= 1e-5


@pytest.mark.parametrize("shape", [(3, 5), (4, 1024), (5, 3001), (2, 4096)])
def test_scans_are_argmax_and_nonzero(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[0, -1] = 9
    top, place = scan.best(values)
    assert torch.equal(place, values.argmax(1)) and torch.equal(top, values.amax(1))
    for mask in (values > 2, values > -9, values > 99):
        for mine, theirs in zip(scan.where(mask), mask.nonzero(as_tuple=True)):
            assert torch.equal(mine, theirs)


def test_limits():
    p = cluster(1, 100, 12)
    x = noisy(p, 1, 0.1)
    engine = EmpiricalDenoiser(p)
    mean = p.double().mean(0).expand(12, -1)
    torch.testing.assert_close(engine(x, torch.full((12,), 1e6)), mean, atol=1e-6, rtol=0)
    index = torch.cdist(x, p.double()).argmin(1)
    near = engine(x[4:], torch.full((8,), 1e-4))
    torch.testing.assert_close(near, p.double()[index[4:]], atol=1e-6, rtol=0)


def test_shape_and_type_are_kept():
    p = torch.rand(50, 3, 4, 4)
    for dtype in (torch.float32, torch.float64, torch.float16):
        x = torch.rand(5, 3, 4, 4).to(dtype)
        got = EmpiricalDenoiser(p)(x, torch.ones(5))
        assert got.shape == x.shape and got.dtype == dtype
    assert EmpiricalDenoiser(p)(x[:0], torch.ones(0)).shape == (0, 3, 4, 4)


def test_topk():
    p = cluster(3, 200, 20)
    x, sigma = noisy(p, 3, 1.0), torch.full((12,), 1.0, dtype=torch.float64)
    expected = reference(x, p, sigma, "conditional").weights.topk(5)
    got = EmpiricalDenoiser(p, tol=1e-9).topk(x, sigma, 5)
    torch.testing.assert_close(got.weights, expected.values, rtol=1e-6, atol=1e-9)


def test_tangent_is_the_formula():
    p = torch.rand(60, 3, 4, 4)
    table = neighbors(p.flatten(1), 6)
    engine = EmpiricalDenoiser(p, "tangent", neighbors=table, h=0.6)
    x, sigma = torch.rand(4, 3, 4, 4), torch.tensor([0.05, 0.2, 1.0, 9.0])
    expected = empirical.tangent(p.flatten(1), table, 0.6)(x, sigma)
    torch.testing.assert_close(engine(x, sigma), expected, atol=1e-6, rtol=1e-5)
    assert engine.stats.path == ("tangent",) * 4 and engine.small is None


def test_tangent_is_one_pass_within_block_bytes(monkeypatch):
    p, x, sigma = torch.rand(500, 20), torch.rand(20, 20), torch.linspace(0.05, 2, 20)
    table = neighbors(p, 4)
    model = empirical.tangent(p, table, 0.6)
    weights, expected, log_density = model.posterior(x, sigma).weights, model(x, sigma), model.log_density(x, sigma)
    engine = EmpiricalDenoiser(p, "tangent", neighbors=table, h=0.6, block_bytes=MB)
    seen, logits = [], empirical.Tangent._logits
    monkeypatch.setattr(
        empirical.Tangent, "_logits", lambda self, x, sigma: seen.append(len(x)) or logits(self, x, sigma)
    )
    torch.testing.assert_close(engine(x, sigma), expected)
    assert seen == [8, 8, 4]  # a row takes 64 * 500 * 4 bytes
    stats = engine.stats
    assert stats is not None
    torch.testing.assert_close(stats.log_partition, log_density)
    torch.testing.assert_close(stats.effective_sample_size, (-torch.special.xlogy(weights, weights).sum(1)).exp())
    torch.testing.assert_close(stats.top_weight, weights.amax(1))
    torch.testing.assert_close(engine.posterior(x, sigma).weights, weights)
    assert seen == [8, 8, 4] * 2


def test_tempered_mean_is_the_formula():
    p = cluster(3, 300, 50)
    x, sigma = noisy(p, 4, 0.2).float(), torch.linspace(0.05, 0.6, 12)
    index = torch.randint(300, (12, 9), generator=torch.Generator().manual_seed(0))
    hot = (1 / sigma).clamp(min=1)
    expected = empirical.denoise(empirical.noise_conditional(x, p, sigma, index=index, temperature=hot), p)
    torch.testing.assert_close(tempered_mean(x, p, index, sigma, hot), expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="sigma and temperature must be finite"):
        tempered_mean(x, p, index, sigma * 0)


def test_memory_mapped_points(tmp_path, eager):
    p = cluster(9, 2000, 64)
    np.save(tmp_path / "p.npy", p.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "p.npy", mmap_mode="r+"))
    (tmp_path / "p.bin").write_bytes(p.numpy().tobytes())
    filed = torch.from_file(str(tmp_path / "p.bin"), size=p.numel(), dtype=torch.float32).view(p.shape)
    x, sigma = noisy(p, 1, 0.5), torch.full((12,), 0.5)
    expected = EmpiricalDenoiser(p)(x, sigma)
    for other in (mapped, filed):
        torch.testing.assert_close(EmpiricalDenoiser(other, block_bytes=MB)(x, sigma), expected, atol=1e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the same code runs on the CPU above")
@pytest.mark.parametrize("mode", ["conditional", "unconditional", "temperature"])
def test_cuda_agrees_with_cpu(mode):
    p = cluster(9, 2000, 64)
    for s in SIGMAS:
        x, sigma = noisy(p, 1, s), torch.full((12,), s, dtype=torch.float64)
        expected = EmpiricalDenoiser(p, mode, **options(mode))(x, sigma)
        got = EmpiricalDenoiser(p.cuda(), mode, **options(mode))(x.cuda(), sigma.cuda())
        seen = torch.cdist(x, p.double()).amin(1) / 64**0.5 if mode == "unconditional" else sigma
        assert float(((got.cpu() - expected).abs().amax(1) / seen.clamp(min=0.05)).max()) <= 1e-5


P = torch.rand(10, 4)
X, S = torch.rand(2, 4), torch.ones(2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EmpiricalDenoiser(P.clone().fill_(math.nan)), "points holds 40 non-finite"),
        (lambda: EmpiricalDenoiser(P[:0]), "points must be"),
        (lambda: EmpiricalDenoiser(P[:, 0]), "points must be"),
        (lambda: EmpiricalDenoiser(P, tol=0.0), "tol must be between 0 and 1, got 0.0"),
        (lambda: EmpiricalDenoiser(P, block_bytes=5), "block_bytes must be at least 1 MB, got 5"),
        (lambda: EmpiricalDenoiser(P, "temperature"), "sigma_collapse must be given"),
        (lambda: EmpiricalDenoiser(P, "temperature", sigma_collapse=-1.0), "sigma_collapse must be > 0, got -1.0"),
        (lambda: EmpiricalDenoiser(P, "unconditional", sigma_min=2.0, sigma_max=1.0), "sigma_min=2.0"),
        (lambda: EmpiricalDenoiser(P, "tangent", h=1.0), "neighbors must be given"),
        (lambda: EmpiricalDenoiser(P, h=1.0), "h has no meaning in mode 'conditional'"),
        (lambda: EmpiricalDenoiser(P, sigma_min=0.1), "sigma_min has no meaning in mode 'conditional'"),
        (lambda: EmpiricalDenoiser(P)(X[:, :3], S), r"x must be \[batch, 4\], got \(2, 3\)"),
        (lambda: EmpiricalDenoiser(P)(X / 0, S), "x holds 8 non-finite"),
        (lambda: EmpiricalDenoiser(P)(X, S * 0), r"sigma must be finite and > 0, got \[0.0, 0.0\]"),
        (lambda: EmpiricalDenoiser(P)(X, None), "sigma must be given"),
        (lambda: EmpiricalDenoiser(P)(X, torch.ones(3)), r"sigma must be \[batch=2\], got \(3,\)"),
        (lambda: EmpiricalDenoiser(P).topk(X, S, 11), "k must be between 1 and the number of points 10, got 11"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_few_points_go_through_float64_unless_differences_are_called_for():
    p = cluster(4, 200, 30)
    x, engine = noisy(p, 4, 0.3), EmpiricalDenoiser(p)
    for sigma in (0.002, 0.3):
        level = torch.full((12,), sigma, dtype=torch.float64)
        expected = empirical.denoise(reference(x, p, level, "conditional"), p.double())
        got = engine(x, level)
        assert engine.stats is not None and engine.stats.path == ("float64",) * 12
        assert float((got - expected).abs().max()) <= 1e-5 * sigma
    for sigma in (1e-6, 1e-5):  # float64 products cannot tell points apart to a millionth of a nat
        engine(x, torch.full((12,), sigma, dtype=torch.float64))
        assert engine.stats is not None and "float64" not in engine.stats.path


def test_a_screen_that_was_of_no_use_is_skipped_at_more_noise_and_tried_again_later(eager, monkeypatch):
    p = torch.randn(600, 30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(paths, "FEW", 0)
    monkeypatch.setattr(ladder, "RETRY", 4)
    engine, far = EmpiricalDenoiser(p), torch.zeros(6, 30)
    seen = []
    for sigma in (5.0, 5.0, 6.0, 6.0):
        got = engine(far, torch.full((6,), sigma))
        seen.append(engine.stats.path[0])
        torch.testing.assert_close(got, EmpiricalDenoiser(p)(far, torch.full((6,), sigma)), atol=1e-6, rtol=1e-5)
    assert seen == ["int8>dense", "dense", "dense", "int8>dense"]
    engine(p[:6] + 0.001, torch.full((6,), 0.1))
    assert engine.stats.path == ("int8",) * 6


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_posteriors_of_very_few_points(n):
    g = torch.Generator().manual_seed(0)
    points, x = torch.randn(n, 5, generator=g), torch.randn(3, 5, generator=g)
    level = torch.full((3,), 0.7)
    expected = empirical.noise_conditional(x.double(), points.double(), level.double()).weights
    engine = EmpiricalDenoiser(points)
    for found in (engine.posterior(x, level), engine.topk(x, level, n)):
        torch.testing.assert_close(weights_over_all(found, n), expected)
    assert EmpiricalDenoiser(points, "unconditional").score(x, None).isfinite().all()
