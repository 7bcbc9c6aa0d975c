import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from temperance.analyze import analyze
from temperance.data import Images
from temperance.diagnostics import (
    collapse_sigma,
    dominance,
    effective_sample_size,
    entropy,
    expansion_factor,
    mean_effective_sample_size,
    near_duplicate_share,
    near_duplicates,
    suggest_h,
    suggest_k,
    suggest_temperature,
)
from temperance.distance import Neighbors, neighbors
from temperance.empirical import Posterior, denoise, noise_conditional
from temperance.engine import EmpiricalDenoiser


def digits(n=100):
    return torch.from_numpy(load_digits().data[:n]).float() / 8 - 1


def posterior(*rows):
    weights = torch.tensor(rows, dtype=torch.float64)
    return Posterior(weights, torch.ones(len(weights), 1, dtype=torch.float64), None)


def test_a_data_set_of_one_image_is_refused_by_name(tmp_path):
    images = Images(np.full((4, 5, 5, 1), 7, np.uint8), source="copies")
    with pytest.raises(ValueError, match="copies: all 4 images are the same; give at least two that differ"):
        analyze(images, tmp_path, heldout=None, k=None, seed=0, progress=False)


def test_effective_sample_size_of_known_weights():
    p = posterior([0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1])
    last = math.exp(-0.7 * math.log(0.7) - 0.3 * math.log(0.1))
    assert effective_sample_size(p).tolist() == pytest.approx([4, 1, 2, last])
    assert entropy(p).tolist() == pytest.approx([math.log(4), 0, math.log(2), math.log(last)])
    assert dominance(p).tolist() == pytest.approx([0.25, 1, 0.5, 0.7])


def test_mean_effective_sample_size_goes_from_one_to_n():
    points = digits()
    sizes = mean_effective_sample_size(points, (1e-3, 0.8, 1.5, 1e4))
    assert sizes == sorted(sizes)
    assert sizes[0] == pytest.approx(1, abs=1e-6)
    assert sizes[-1] == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.01, 100.0])
def test_collapse_sigma_is_bracketed(scale):
    points = scale * digits()
    sigma = collapse_sigma(points)
    below, above = mean_effective_sample_size(points, (0.97 * sigma, 1.03 * sigma))
    assert below < 1.5 < above
    assert sigma == pytest.approx(scale * collapse_sigma(digits()), rel=0.02)
    assert collapse_sigma(points, size=3.0) > sigma


def test_collapse_sigma_of_stored_pixels_is_that_of_the_same_numbers():
    stored = ((digits(60) + 1) * 8).round()
    assert collapse_sigma(stored.to(torch.uint8)) == collapse_sigma(stored)


def test_collapse_sigma_of_two_far_clusters_is_that_of_a_cluster():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(40, 16, generator=g)
    far = torch.cat([points[:20], points[20:] + 1000])
    assert collapse_sigma(far) == pytest.approx(collapse_sigma(points[:20]), rel=0.15)


def test_collapse_sigma_refuses_what_cannot_separate():
    with pytest.raises(ValueError, match="between 1 and the 3 different points, got 5"):
        collapse_sigma(torch.randn(3, 4), size=5.0)
    two = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert collapse_sigma(two) == collapse_sigma(two[[0, 1, 1]]) < 5 * float((two[0] - two[1]).norm())
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


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float64, 0.01), (torch.float32, 0.05)])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_expansion_factor_of_two_points_is_the_slope_between_them(sigma, dtype, slack):
    points = torch.tensor([[-0.9, 0.2, 0.0], [0.8, -0.4, 0.5]], dtype=dtype)
    r2 = float((points[0] - points[1]).square().sum())

    def empirical(x, level):
        return denoise(noise_conditional(x, points, level), points)

    found = expansion_factor(empirical, points, sigma)
    torch.testing.assert_close(found, torch.full_like(found, 0.9 + 0.1 * r2 / (4 * sigma**2)), rtol=slack, atol=0)


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


def test_suggest_temperature_finds_one_at_any_noise_level():
    points = digits()
    table = neighbors(points, 10)
    x = points + 0.02 * torch.randn(points.shape, generator=torch.Generator().manual_seed(7))
    group = torch.cat([torch.arange(100)[:, None], table.index], 1)
    strength = suggest_temperature(points, table, 0.02)
    shared = noise_conditional(x, points, torch.full((100,), 0.02), index=group, temperature=strength / 0.02)
    assert float(effective_sample_size(shared).mean()) == pytest.approx(5.5, rel=0.1)


def test_suggest_temperature_of_one_neighbor_lets_it_share():
    points = digits()
    table, sigma = neighbors(points, 1), collapse_sigma(points)
    x = points + sigma * torch.randn(points.shape, generator=torch.Generator().manual_seed(7))
    group = torch.cat([torch.arange(100)[:, None], table.index], 1)
    heat = suggest_temperature(points, table, sigma) / sigma
    shared = noise_conditional(x, points, torch.full((100,), sigma), index=group, temperature=heat)
    assert float(effective_sample_size(shared).mean()) == pytest.approx(1.5, rel=0.05)


def test_a_near_duplicate_is_nearer_than_a_fifth_of_the_last_distance():
    first = torch.tensor([0.0, 0.19, 0.21, 1.0])
    table = Neighbors(torch.zeros(4, 5, dtype=torch.long), torch.cat([first[:, None], torch.ones(4, 4)], 1))
    assert near_duplicates(table).tolist() == [True, True, False, False]


def test_near_duplicates_are_points_with_another_one_close_by():
    points = digits(60)
    again = points[:12] + 0.02 * torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    both = torch.cat([points, again])
    found = near_duplicates(neighbors(both, 10))
    assert found.nonzero()[:, 0].tolist() == [*range(12), *range(60, 72)]
    assert near_duplicate_share(both) == pytest.approx(24 / 72)
    assert not near_duplicates(neighbors(points, 10)).any() and near_duplicate_share(points) == 0
    assert near_duplicate_share(torch.cat([points, points])) == 0  # exact ones are one point
    assert not near_duplicates(neighbors(both, 4)).any()  # too few to tell
    bursts = points[:20].repeat(8, 1)
    bursts = bursts + 0.02 * torch.randn(160, 64, generator=torch.Generator().manual_seed(1))
    assert near_duplicate_share(bursts) == 1  # seven others are near: it is the tenth that tells
    assert (
        near_duplicate_share(torch.cat([points[:2], again[:2]])) == near_duplicate_share(points[:1].repeat(9, 1)) == 0
    )


def test_beside_a_twin_images_have_the_settings_that_the_page_on_images_tells():
    """Why `near_duplicates` are told: 100 digits, and each a second time one gray level of 255 off."""
    pixels = (load_digits().data[:100] / 16 * 255).round()
    found = []
    for kind in (pixels, np.concatenate([pixels, np.where(pixels < 255, pixels + 1, pixels - 1)])):
        points = torch.from_numpy(kind).float() / 127.5 - 1
        found.append((suggest_h(points, neighbors(points, 10)).h, collapse_sigma(points)))
    assert found[0] == pytest.approx((0.915, 0.738), abs=0.01) and found[1] == pytest.approx((0.125, 0.035), abs=0.01)


def test_suggest_h_keeps_the_distance_of_unseen_points():
    points = digits()
    table = neighbors(points, 10)
    found = suggest_h(points, table)
    assert found.nearer[0] == 1.0 and all(a > b for a, b in itertools.pairwise(found.nearer))  # h = 0: the points
    assert found == suggest_h(points, table)
    # The oracle, in float64, on noise of its own: at this width neither is nearer.
    x, g = points.double(), torch.Generator().manual_seed(1)
    row = torch.randint(100, (4000,), generator=g)
    z = torch.randn(4000, 10, generator=g, dtype=torch.float64) / 10**0.5
    displaced = x[row] + found.h * torch.einsum("bk,bkd->bd", z, x[table.index[row]] - x[row, None])
    between = torch.cdist(x, x).fill_diagonal_(torch.inf).amin(1)
    share = float((torch.cdist(displaced, x).amin(1)[:, None] < between).double().mean())
    assert share == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("nearer", [0.75, 0.5])
def test_suggest_h_of_a_span_keeps_the_distance_of_what_is_cut_to_it(nearer):
    points = digits()
    table = neighbors(points, 10)
    found = suggest_h(points, table, span=(-1.0, 1.0))
    assert found.h == found.at(0.5) > 1.2 * suggest_h(points, table).h  # digits have black pixels: half is cut off
    x, g = points.double(), torch.Generator().manual_seed(1)
    row = torch.randint(100, (4000,), generator=g)
    z = torch.randn(4000, 10, generator=g, dtype=torch.float64) / 10**0.5
    moved = x[row] + found.at(nearer) * torch.einsum("bk,bkd->bd", z, x[table.index[row]] - x[row, None])
    between = torch.cdist(x, x).fill_diagonal_(torch.inf).amin(1)
    share = float((torch.cdist(moved.clamp(-1, 1), x).amin(1)[:, None] < between).double().mean())
    assert share == pytest.approx(nearer, abs=0.04)


def test_suggest_h_has_no_unit_and_does_not_count_copies():
    points = digits()
    h = suggest_h(points, neighbors(points, 10)).h
    assert suggest_h(3 * points + 1, neighbors(3 * points + 1, 10)).h == pytest.approx(h, rel=1e-3)
    twice = torch.cat([points, points])  # every point has a copy: distances to others are as before
    table = neighbors(points, 10)
    again = suggest_h(twice, Neighbors(table.index.repeat(2, 1), table.distance.repeat(2, 1)))
    assert again.h == pytest.approx(h, abs=0.1)


def test_suggest_h_takes_the_widest_where_displaced_points_stay_near():
    g = torch.Generator().manual_seed(0)
    line = torch.randn(80, 1, generator=g) @ torch.ones(1, 12)
    table = neighbors(line, 1)
    assert suggest_h(line, table, candidates=(0.0, 0.1, 0.2)).h == 0.2


def test_suggest_h_needs_two_points():
    with pytest.raises(ValueError, match="all points are the same"):
        suggest_h(torch.ones(4, 3), Neighbors(torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 1)))


def test_suggest_k_takes_what_is_there():
    assert (suggest_k(5), suggest_k(11), suggest_k(60_000)) == (4, 10, 10)


def test_collapse_sigma_and_expansion_factor_count_copies_once():
    points = digits()
    once = collapse_sigma(points)
    assert collapse_sigma(torch.cat([points, points])) == once
    factor = expansion_factor(EmpiricalDenoiser(points), points, 0.3)
    twice = points.repeat_interleave(2, 0)
    torch.testing.assert_close(expansion_factor(EmpiricalDenoiser(twice), twice, 0.3), factor, rtol=1e-4, atol=0)


def test_suggest_h_takes_the_narrowest_where_displaced_points_start_far():
    points = digits()
    assert suggest_h(points, neighbors(points, 10), candidates=(4.0, 5.0)).h == 4.0
