import math

import pytest
import torch
from sklearn.datasets import load_digits

from temperance.diagnostics import (
    collapse_sigma,
    dominance,
    effective_sample_size,
    entropy,
    expansion_factor,
    mean_effective_sample_size,
    suggest_h,
    suggest_temperature,
)
from temperance.distance import neighbors
from temperance.empirical import Posterior, denoise, noise_conditional


def digits(n=100):
    return torch.from_numpy(load_digits().data[:n]).float() / 8 - 1


def posterior(*rows):
    weights = torch.tensor(rows, dtype=torch.float64)
    return Posterior(weights, torch.ones(len(weights), 1, dtype=torch.float64), None)


def test_effective_sample_size_of_known_weights():
    p = posterior([0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1])
    last = math.exp(-0.7 * math.log(0.7) - 0.3 * math.log(0.1))
    assert effective_sample_size(p).tolist() == pytest.approx([4, 1, 2, last])
    assert entropy(p).tolist() == pytest.approx([math.log(4), 0, math.log(2), math.log(last)])
    assert dominance(p).tolist() == pytest.approx([0.25, 1, 0.5, 0.7])


def test_mean_effective_sample_size_goes_from_one_to_n():
    points = digits()
    sizes = [mean_effective_sample_size(points, s) for s in (1e-3, 0.8, 1.5, 1e4)]
    assert sizes == sorted(sizes)
    assert sizes[0] == pytest.approx(1, abs=1e-6)
    assert sizes[-1] == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.01, 100.0])
def test_collapse_sigma_is_bracketed(scale):
    points = scale * digits()
    sigma = collapse_sigma(points)
    assert mean_effective_sample_size(points, 0.97 * sigma) < 1.5 < mean_effective_sample_size(points, 1.03 * sigma)
    assert sigma == pytest.approx(scale * collapse_sigma(digits()), rel=0.02)
    assert collapse_sigma(points, size=3.0) > sigma


def test_collapse_sigma_of_two_far_clusters_is_that_of_a_cluster():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(40, 16, generator=g)
    far = torch.cat([points[:20], points[20:] + 1000])
    assert collapse_sigma(far) == pytest.approx(collapse_sigma(points[:20]), rel=0.15)


def test_collapse_sigma_refuses_what_cannot_separate():
    with pytest.raises(ValueError, match="at least 3"):
        collapse_sigma(torch.randn(2, 4))
    with pytest.raises(ValueError, match="the same"):
        collapse_sigma(torch.ones(5, 4))


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 30.0])
def test_expansion_factor_of_a_linear_denoiser(gain):
    """D(x) = gain x maps a shift v to (gain + ratio (1 - gain)) v."""
    points = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = expansion_factor(lambda x, sigma: gain * x, points, 0.3, ratio=0.9, draws=10)
    torch.testing.assert_close(found, torch.full((10,), gain + 0.9 * (1 - gain), dtype=torch.float64))


def test_expansion_factor_of_the_empirical_denoiser_grows_as_noise_falls():
    points = digits(60).double()

    def empirical(x, sigma):
        return denoise(noise_conditional(x, points, sigma), points)

    low, high = (float(expansion_factor(empirical, points, s).median()) for s in (0.1, 5.0))
    # Two points at distance r own the boundary: the slope of D along their difference is r^2 / 4 sigma^2.
    r = float(neighbors(points, 1).distance[:, 0].median())
    assert low == pytest.approx(0.1 * r**2 / (4 * 0.1**2), rel=0.3)
    assert high < 1.5


def test_suggest_temperature_makes_half_a_neighborhood_share_the_score():
    points = digits()
    table, sigma = neighbors(points, 10), collapse_sigma(points)
    strength = suggest_temperature(points, table, sigma)
    g = torch.Generator().manual_seed(7)
    x = points + sigma * torch.randn(points.shape, generator=g)
    group = torch.cat([torch.arange(100)[:, None], table.index], 1)
    level = torch.full((100,), sigma)

    def size(t):
        return float(effective_sample_size(noise_conditional(x, points, level, index=group, temperature=t)).mean())

    assert size(1.0) < 2 < size(strength / sigma)
    assert size(strength / sigma) == pytest.approx(5.5, rel=0.1)
    assert suggest_temperature(points, table, sigma, share=0.8) > strength
    doubled = suggest_temperature(2 * points, table, 2 * sigma)  # T is a number, tau = T sigma a length
    assert doubled == pytest.approx(2 * strength, rel=0.02)


def test_suggest_h_on_digits():
    found = suggest_h(digits(), 10, candidates=(0.0, 0.2, 0.4, 0.7, 1.0, 1.5), folds=3)
    assert 0.4 <= found.h <= 1.0
    best = max(found.likelihood)
    assert found.likelihood[found.candidates.index(found.h)] == best
    assert best > found.likelihood[0] + 1  # h = 0: Diracs
    again = [suggest_h(digits(30), 5, candidates=(0.0, 0.7), folds=2) for _ in range(2)]
    assert again[0] == again[1]


def test_suggest_h_spreads_points_along_a_line():
    g = torch.Generator().manual_seed(0)
    line = torch.randn(80, 1, generator=g) @ torch.ones(1, 12) + 1e-3 * torch.randn(80, 12, generator=g)
    found = suggest_h(line, 3, candidates=(0.0, 0.5, 1.0))
    assert found.h > 0 and max(found.likelihood) > found.likelihood[0] + 3


def test_suggest_h_refuses_too_many_neighbors():
    with pytest.raises(ValueError, match="k=10"):
        suggest_h(digits(12), 10)
