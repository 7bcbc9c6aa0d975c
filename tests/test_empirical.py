"""Closed forms against the float64 oracle, their limits, and scores as gradients."""

import math

import pytest
import torch

import oracle
from clouds import DIMS, HIGH, LOW, agree, cloud, full
from temperance.distance import neighbors
from temperance.empirical import (
    Tangent,
    _marginal,
    best_level,
    denoise,
    noise_conditional,
    noise_unconditional,
    paper_temperature,
    score,
    tangent,
)

# ---- closed forms against the oracle ----


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("temperature", [1.0, 7.0])
@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("d", DIMS)
def test_conditional_agrees_with_the_oracle(d, sigma, temperature, scale):
    x, points = cloud(6, d, scale=scale)
    x = x[:3] if sigma < 1 else x  # at low noise and far away, r^2 / sigma^2 has no digits left after the point
    expected = [(oracle.conditional(r, points.tolist(), sigma, temperature), [sigma] * 6) for r in x.tolist()]
    agree(noise_conditional(x, points, full(sigma, x), temperature=temperature), expected, x, points)


@pytest.mark.parametrize("d", DIMS)
def test_far_rows_at_low_noise_go_to_the_nearest_point(d):
    x, points = cloud(6, d)
    weights = noise_conditional(x[3:], points, full(0.01, x[3:])).weights[0]
    r2 = [oracle.squared_distance(x[3].tolist(), mu) for mu in points.tolist()]
    nearest = [j for j in range(6) if r2[j] <= min(r2) * (1 + 1e-12)]
    assert float(weights[nearest].sum()) == pytest.approx(1)


def test_every_row_has_its_own_sigma_and_temperature():
    x, points = cloud(6, 3)
    sigma = torch.tensor([0.2, 0.5, 1.0, 40.0], dtype=torch.float64)
    temperature = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    got = noise_conditional(x, points, sigma, temperature=temperature).weights
    for row in range(4):
        args = x[row].tolist(), points.tolist(), float(sigma[row]), float(temperature[row])
        assert got[row].numpy() == pytest.approx(oracle.conditional(*args), abs=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("d", DIMS)
def test_unconditional_agrees_with_a_brute_force_sum_over_levels(d, temperature):
    x, points = cloud(6, d)
    # In one and two dimensions the definition is the plain sum over 1,000 levels; else the integral.
    levels = oracle.plain_levels(LOW, HIGH) if d <= 2 else oracle.fine_levels(LOW, HIGH, 200_000)
    expected = [oracle.unconditional(r, points.tolist(), levels, temperature) for r in x.tolist()]
    got = noise_unconditional(x, points, LOW, HIGH, temperature=temperature)
    agree(got, expected, x, points, rtol=1e-8 if d <= 2 else 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("d", DIMS)
def test_best_level_agrees_with_the_oracle(d, temperature):
    x, points = cloud(6, d)
    expected = [oracle.best_level(r, points.tolist(), LOW, HIGH, temperature) for r in x.tolist()]
    agree(best_level(x, points, LOW, HIGH, temperature=temperature), expected, x, points, rtol=1e-7)


@pytest.mark.parametrize("d", [3, 8, 64])
@pytest.mark.parametrize("r2", [1e-6, 0.5, 30.0, 4e3, 1e6])
def test_best_level_is_the_argmax_over_levels(d, r2):
    levels = oracle.fine_levels(LOW, HIGH, 100_000)
    brute = levels[int(oracle.level_logit(r2, d, levels).argmax())]
    x = torch.zeros(1, d, dtype=torch.float64)
    mu = torch.zeros(1, d, dtype=torch.float64)
    mu[0, 0] = math.sqrt(r2)
    assert float(best_level(x, mu, LOW, HIGH).sigma) == pytest.approx(brute, rel=2e-4)


@pytest.mark.parametrize("d", DIMS)
def test_paper_temperature_agrees_with_the_oracle(d):
    x, points = cloud(6, d)
    expected = [oracle.paper(r, points.tolist(), LOW, HIGH, 0.7) for r in x.tolist()]
    agree(paper_temperature(x, points, LOW, HIGH, 0.7), expected, x, points, rtol=1e-7)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0, 50.0])
@pytest.mark.parametrize(("d", "h"), [(1, 0.7), (2, 0.7), (3, 0.0), (3, 1.2), (64, 0.5)])
def test_tangent_agrees_with_explicit_covariances(d, h, sigma):
    x, points = cloud(7, d)
    x = x[:3]
    table = neighbors(points, 3)
    model = tangent(points, table, h)
    means, logs = model(x, full(sigma, x)), model.log_density(x, full(sigma, x))
    for row in range(3):
        log, mean = oracle.tangent(x[row].numpy(), points.numpy(), table.index.tolist(), h, sigma)
        assert means[row].numpy() == pytest.approx(mean, rel=1e-6, abs=1e-6)
        assert float(logs[row]) == pytest.approx(log, rel=1e-7, abs=1e-6)


def test_tangent_density_integrates_to_one():
    points = torch.tensor([[0.0], [1.0], [3.0], [3.5]], dtype=torch.float64)
    grid = torch.linspace(-15, 20, 20_001, dtype=torch.float64)[:, None]
    density = tangent(points, neighbors(points, 2), 0.6).log_density(grid, full(0.3, grid)).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("d", [3, 4, 64, 784, 3072, 12_288])
def test_the_log_level_integral_is_right_up_to_large_images(d):
    """From on a training point to far outside the data: gamma tails underflow on both sides there."""
    r2 = torch.tensor([0.0, 1e-6, 1e-2, 0.3, 5.0, d * 1e-4, d * 0.3, d * 9.0, d * 2500.0, d * 1e5])
    r2 = r2.double()[None]
    log_weight, log_precision = _marginal(r2, d, LOW, HIGH)
    assert log_weight.isfinite().all() and log_precision.isfinite().all()
    for j, value in enumerate(r2[0].tolist()):
        # The integrand can be as narrow as 1 / max(d, r^2 / sigma^2): sum where it is within exp(-60) of its top.
        levels = oracle.fine_levels(LOW, HIGH, 1_000_000)
        f = oracle.level_logit(value, d, levels)
        seen = levels[f > f.max() - 60]
        low, high = max(LOW, seen[0] * (1 - 1e-5)), min(HIGH, seen[-1] * (1 + 1e-5))
        weight, precision = oracle.marginal(value, d, oracle.fine_levels(low, high, 100_000))
        weight += math.log(math.log(high / low) / 100_000)
        # The closed form leaves out the factor 1/2 of du = -2 u dlog sigma, which cancels between points.
        assert float(log_weight[0, j]) - math.log(2) == pytest.approx(weight, rel=1e-11, abs=1e-6)
        assert float(log_precision[0, j]) == pytest.approx(precision, abs=1e-6)


# ---- limits ----


def views(sigma_high):
    return {
        "conditional": lambda x, p: denoise(noise_conditional(x, p, full(sigma_high, x)), p),
        "tangent": lambda x, p: tangent(p, neighbors(p, 2), 0.5)(x, full(sigma_high, x)),
    }


@pytest.mark.parametrize("name", ["conditional", "tangent"])
def test_at_infinite_noise_the_mean(name):
    x, points = cloud(6, 5)
    got = views(1e6)[name](x[:3], points)
    torch.testing.assert_close(got, points.mean(0).expand(3, -1), rtol=1e-6, atol=1e-6)


def test_at_no_noise_the_nearest_point():
    x, points = cloud(6, 5)
    x = x[:3]
    nearest = points[torch.cdist(x, points).argmin(1)]
    got = denoise(noise_conditional(x, points, full(1e-3, x)), points)
    torch.testing.assert_close(got, nearest, rtol=0, atol=1e-9)


def test_neighborhood_of_everything_at_temperature_one_is_the_plain_posterior():
    x, points = cloud(6, 5)
    index = torch.arange(6).flip(0).expand(4, -1)
    for call, args in (
        (noise_conditional, (full(0.8, x),)),
        (noise_unconditional, (LOW, HIGH)),
        (best_level, (LOW, HIGH)),
        (paper_temperature, (LOW, HIGH, 0.7)),
    ):
        plain, listed = call(x, points, *args), call(x, points, *args, index=index)
        torch.testing.assert_close(listed.weights.flip(1), plain.weights, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(score(listed, x, points), score(plain, x, points), rtol=1e-6, atol=1e-6)


def test_index_subset_is_the_posterior_over_those_points():
    x, points = cloud(8, 5)
    index = torch.tensor([[0, 3, 5], [7, 1, 2], [4, 4, 6], [2, 0, 1]])
    for row in range(4):
        part = points[index[row]]
        one = x[row : row + 1]
        for call, args in ((noise_unconditional, (LOW, HIGH)), (best_level, (LOW, HIGH))):
            got = call(x, points, *args, index=index)
            want = call(one, part, *args)
            torch.testing.assert_close(got.weights[row], want.weights[0], rtol=1e-5, atol=1e-9)
            torch.testing.assert_close(denoise(got, points)[row], denoise(want, part)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("call", ["conditional", "unconditional", "best_level"])
def test_infinite_temperature_gives_the_mean_of_the_neighborhood(call):
    x, points = cloud(8, 5)
    index = torch.tensor([[0, 3, 5], [7, 1, 2], [4, 3, 6], [2, 0, 1]])
    got = {
        "conditional": lambda: noise_conditional(x, points, full(0.1, x), index=index, temperature=1e14),
        "unconditional": lambda: noise_unconditional(x, points, LOW, HIGH, index=index, temperature=1e14),
        "best_level": lambda: best_level(x, points, LOW, HIGH, index=index, temperature=1e14),
    }[call]()
    torch.testing.assert_close(denoise(got, points), points[index].mean(1), rtol=1e-6, atol=1e-6)


def test_tangent_without_width_is_the_empirical_denoiser():
    x, points = cloud(7, 5)
    x = x[:3]
    want = denoise(noise_conditional(x, points, full(0.6, x)), points)
    for h, slack in ((0.0, 1e-10), (1e-4, 1e-6)):
        got = tangent(points, neighbors(points, 3), h)(x, full(0.6, x))
        torch.testing.assert_close(got, want, rtol=slack, atol=slack)
    far = tangent(points, neighbors(points, 3), 0.7)(x, full(0.6, x))
    assert float((far - want).abs().max()) > 1e-2


def test_squared_ratio_temperature_is_a_floor_under_sigma():
    x, points = cloud(6, 5)
    sigma = torch.tensor([0.1, 0.2, 0.3, 0.6], dtype=torch.float64)
    soft = noise_conditional(x, points, sigma, temperature=(0.9 / sigma) ** 2)
    floor = noise_conditional(x, points, full(0.9, x))
    torch.testing.assert_close(denoise(soft, points), denoise(floor, points), rtol=1e-9, atol=1e-9)


def test_float32_rows_keep_their_dtype():
    x, points = cloud(6, 5)
    x, points = x.float(), points.float()
    posterior = noise_conditional(x, points, torch.ones(4))
    assert posterior.weights.dtype == torch.float64
    assert denoise(posterior, points).dtype == score(posterior, x, points).dtype == torch.float32


# ---- scores are gradients ----


def gradient(log_p, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_p(x).sum(), x)[0]


@pytest.mark.parametrize("d", DIMS)
def test_conditional_score_is_the_gradient_of_log_p(d):
    x, points = cloud(6, d)
    x = x[:3]

    def log_p(v):
        return (-((v[:, None] - points) ** 2).sum(-1) / (2 * 0.5**2)).logsumexp(1)

    got = score(noise_conditional(x, points, full(0.5, x)), x, points)
    torch.testing.assert_close(got, gradient(log_p, x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("d", DIMS)
def test_unconditional_score_is_the_gradient_of_log_p_mn(d):
    x, points = cloud(6, d)
    x = x[[0, 2]]
    s = oracle.plain_levels(0.1, HIGH) if d <= 2 else oracle.fine_levels(0.1, HIGH, 20_000)
    levels = torch.from_numpy(s)

    def log_p(v):
        r2 = ((v[:, None] - points) ** 2).sum(-1)[..., None]
        return (-(d - 2) * levels.log() - r2 / (2 * levels**2)).flatten(1).logsumexp(1)

    got = score(noise_unconditional(x, points, 0.1, HIGH), x, points)
    torch.testing.assert_close(got, gradient(log_p, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_tangent_denoiser_is_the_gradient_of_its_log_density(sigma):
    x, points = cloud(7, 5)
    x = x[:3]
    model = tangent(points, neighbors(points, 3), 0.7)
    level = full(sigma, x)
    want = gradient(lambda v: model.log_density(v, level), x)
    torch.testing.assert_close((model(x, level) - x) / sigma**2, want, rtol=1e-8, atol=1e-8)


def test_a_level_short_is_an_error_and_no_row_is_lost():
    tangent = Tangent(torch.randn(9, 4), neighbors(torch.randn(9, 4), 3), 0.5)
    with pytest.raises(ValueError, match="one level for each of 10 rows, got 1"):
        next(tangent._split(torch.randn(10, 4), torch.ones(1)))
