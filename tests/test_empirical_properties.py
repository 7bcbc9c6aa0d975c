"""What holds for any points: units, orders, sums; and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds import HIGH, LOW, cloud, full
from temperance.distance import check_rows, neighbors
from temperance.empirical import (
    best_level,
    denoise,
    noise_conditional,
    noise_unconditional,
    paper_temperature,
    tangent,
)

# ---- change of units ----


@pytest.mark.parametrize("c", [0.5, 255.0])
def test_tempered_weights_do_not_depend_on_the_unit_of_the_data(c):
    x, points = cloud(6, 16)
    x = x[[0, 2]] * 0.7 + points[[2, 3]] * 0.3
    for call in (noise_unconditional, best_level):
        ours = call(x, points, LOW, HIGH, temperature=5.0).weights
        moved = call(c * x, c * points, c * LOW, c * HIGH, temperature=5.0).weights
        torch.testing.assert_close(moved, ours, rtol=1e-6, atol=1e-9)
    paper = paper_temperature(x, points, LOW, HIGH, 3.0).weights
    moved = paper_temperature(c * x, c * points, c * LOW, c * HIGH, c * 3.0).weights
    assert float((moved - paper).abs().max()) > 0.01


def test_temperature_removes_the_attractors_that_tempering_the_weights_alone_would_leave():
    x, points = cloud(8, 64)
    near = points[3:4] + 1e-3
    pull = noise_unconditional(near, points, LOW, HIGH, temperature=1e3)
    assert float((denoise(pull, points) - points.mean(0)).norm()) < 0.1 * float((near - points.mean(0)).norm())


# ---- properties ----

problems = st.tuples(st.integers(2, 7), st.sampled_from([1, 3, 8]), st.integers(0, 10**6))
few = settings(max_examples=10, deadline=None)


def posteriors(x, points, sigma):
    return [
        noise_conditional(x, points, full(sigma, x)),
        noise_unconditional(x, points, 0.1, 20.0, temperature=2.0),
        best_level(x, points, 0.1, 20.0),
        paper_temperature(x, points, 0.1, 20.0, 1.0),
    ]


@few
@given(problems, st.floats(0.01, 50))
def test_weights_are_a_distribution(problem, sigma):
    n, d, seed = problem
    for posterior in posteriors(*cloud(n, d, seed) if n > 2 else cloud(3, d, seed), sigma):
        assert (posterior.weights >= 0).all()
        torch.testing.assert_close(posterior.weights.sum(1), torch.ones(4, dtype=torch.float64))


@few
@given(problems, st.floats(0.05, 50))
def test_permuting_the_points_permutes_the_weights(problem, sigma):
    n, d, seed = problem
    x, points = cloud(n + 1, d, seed)
    x = x[:3]
    order = torch.randperm(n + 1, generator=torch.Generator().manual_seed(seed))
    for plain, moved in zip(posteriors(x, points, sigma), posteriors(x, points[order], sigma)):
        torch.testing.assert_close(moved.weights, plain.weights[:, order], rtol=1e-6, atol=1e-9)


@few
@given(problems, st.floats(0.05, 50), st.floats(-10, 10))
def test_moving_everything_moves_the_result(problem, sigma, offset):
    n, d, seed = problem
    x, points = cloud(n + 1, d, seed)
    x = x[:3]
    for plain, moved in zip(posteriors(x, points, sigma), posteriors(x + offset, points + offset, sigma)):
        torch.testing.assert_close(moved.weights, plain.weights, rtol=1e-5, atol=1e-8)
        want = denoise(plain, points) + offset
        torch.testing.assert_close(denoise(moved, points + offset), want, rtol=1e-6, atol=1e-6)


@few
@given(problems, st.floats(0.1, 50))
def test_tangent_is_equivariant_under_rotation_and_translation(problem, sigma):
    n, d, seed = problem
    x, points = cloud(n + 2, d, seed)
    x = x[:3]
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    table = neighbors(points, 2)
    plain = tangent(points, table, 0.7)(x, full(sigma, x))
    moved = tangent(points @ turn + 3, table, 0.7)(x @ turn + 3, full(sigma, x))
    torch.testing.assert_close(moved, plain @ turn + 3, rtol=1e-6, atol=1e-6)


# ---- errors ----


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_unusable_sigma_and_temperature_are_refused(bad):
    x, points = cloud(6, 3)
    with pytest.raises(ValueError, match="sigma must be finite"):
        noise_conditional(x, points, full(bad, x))
    with pytest.raises(ValueError, match="temperature must be finite"):
        noise_conditional(x, points, full(1, x), temperature=bad)
    with pytest.raises(ValueError, match="sigma must be finite"):
        tangent(points, neighbors(points, 2), 0.5)(x, full(bad, x))
    with pytest.raises(ValueError, match="sigma must be finite"):
        tangent(points, neighbors(points, 2), 0.5).posterior(x, full(bad, x))


@pytest.mark.parametrize("call", [noise_unconditional, best_level])
@pytest.mark.parametrize("levels", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_unusable_levels_are_refused(call, levels):
    x, points = cloud(6, 3)
    with pytest.raises(ValueError, match="sigma_min"):
        call(x, points, *levels)


def test_unusable_rows_are_refused():
    x, points = cloud(6, 3)
    broken = x.clone()
    broken[1, 1] = math.nan
    with pytest.raises(ValueError, match="x holds 1 non-finite"):
        noise_conditional(broken, points, full(1, x))
    with pytest.raises(ValueError, match="points holds 1 non-finite"):
        noise_unconditional(points, broken, LOW, HIGH)
    with pytest.raises(ValueError, match="points is empty"):
        noise_conditional(x, points[:0], full(1, x))
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(6, 3\)"):
        check_rows(x[:, :2], points)


@pytest.mark.parametrize("entry", [-1, 6])
def test_index_out_of_range_is_refused(entry):
    x, points = cloud(6, 3)
    index = torch.zeros(4, 2, dtype=torch.long)
    index[2, 1] = entry
    with pytest.raises(ValueError, match=r"entries in 0\.\.5"):
        noise_conditional(x, points, full(1, x), index=index)


def test_unusable_tangent_settings_are_refused():
    _, points = cloud(6, 3)
    with pytest.raises(ValueError, match="h must be"):
        tangent(points, neighbors(points, 2), -0.1)
    with pytest.raises(ValueError, match="h must be"):
        tangent(points, neighbors(points, 2), math.nan)
    with pytest.raises(ValueError, match="5 rows for 6 points"):
        tangent(points, neighbors(points[:5], 2), 0.5)
