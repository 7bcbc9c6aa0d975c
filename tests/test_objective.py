import pytest
import torch
from sklearn.datasets import load_digits

from temperance.distance import neighbors
from temperance.empirical import denoise, noise_conditional, tangent
from temperance.objective import (
    NoiseConditional,
    NoiseUnconditional,
    TangentSmoothed,
    Target,
    TemperatureSmoothed,
    loss,
)
from temperance.schedule import Edm, Ve

N, K = 60, 5
POINTS = (torch.from_numpy(load_digits().images[:N]).float() / 8 - 1)[:, None]
TABLE = neighbors(POINTS.flatten(1), K)
COLLAPSE = 0.8

OBJECTIVES = {
    "conditional": lambda s, told: NoiseConditional(s) if told else NoiseUnconditional(s),
    "temperature": lambda s, told: TemperatureSmoothed(s, POINTS, TABLE, COLLAPSE, told=told),
    "temperature strength": lambda s, told: TemperatureSmoothed(s, POINTS, TABLE, COLLAPSE, 5.0, told=told),
    "tangent": lambda s, told: TangentSmoothed(s, POINTS, TABLE, 0.7, told=told),
}
INDEX = torch.arange(N).repeat(3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, told=True, schedule=None):
    return OBJECTIVES[name](schedule or Edm(), told)


def same(a, b):
    return all((p is None and q is None) or torch.equal(p, q) for p, q in zip(a, b))


@pytest.mark.parametrize("schedule", [Edm(), Ve()], ids=str)
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_contract(name, told, schedule):
    objective = make(name, told, schedule)
    target = objective(POINTS[INDEX], INDEX, generator())
    assert target.x.shape == target.denoised.shape == (3 * N, 1, 8, 8)
    assert target.sigma.shape == target.weight.shape == (3 * N,)
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in target if part is not None)
    if told:
        assert torch.equal(target.condition, target.sigma)
    else:
        assert target.condition is None
    torch.testing.assert_close(target.weight, schedule.weight(target.sigma))
    assert same(target, objective(POINTS[INDEX], INDEX, generator()))
    assert not torch.equal(target.x, objective(POINTS[INDEX], INDEX, generator(1)).x)
    state = torch.get_rng_state()
    objective(POINTS[INDEX], INDEX, generator())
    assert torch.equal(state, torch.get_rng_state())  # nothing else is random


@pytest.mark.parametrize("name", ["conditional", "tangent"])
def test_the_noise_is_standard_normal_times_sigma(name):
    target = make(name)(POINTS[INDEX], INDEX, generator())
    eps = (target.x - target.denoised) / target.sigma[:, None, None, None]
    assert float(eps.mean()) == pytest.approx(0, abs=0.03)
    assert float(eps.std()) == pytest.approx(1, abs=0.03)


def test_told_or_not_only_the_condition_differs():
    for name in OBJECTIVES:
        told, blind = (make(name, told)(POINTS[INDEX], INDEX, generator()) for told in (True, False))
        assert same(told._replace(condition=None), blind)


def test_loss_is_one_weighted_number_per_row():
    target = make("conditional")(POINTS[:4], INDEX[:4], generator())
    assert loss(target.denoised, target).tolist() == [0, 0, 0, 0]
    got = loss(target.denoised + 2, target)
    torch.testing.assert_close(got, 4 * target.weight)
    assert isinstance(target, Target) and got.shape == (4,)


@pytest.mark.parametrize("name", ["temperature", "temperature strength"])
def test_temperature_is_the_plain_target_above_sigma_collapse(name):
    plain = make("conditional")(POINTS[INDEX], INDEX, generator())
    soft = make(name)(POINTS[INDEX], INDEX, generator())
    assert torch.equal(plain.x, soft.x)
    high = soft.sigma > COLLAPSE
    assert 10 < int(high.sum()) < 170
    assert torch.equal(soft.denoised[high], plain.denoised[high])
    moved = (soft.denoised[~high] - plain.denoised[~high]).flatten(1).norm(dim=1)
    assert (moved > 0).any()
    if name == "temperature strength":
        assert float(moved.median()) > 0.1


@pytest.mark.parametrize(("name", "strength"), [("temperature", COLLAPSE), ("temperature strength", 5.0)])
def test_temperature_target_is_the_mean_of_the_softened_neighborhood(name, strength):
    target = make(name)(POINTS[INDEX], INDEX, generator())
    flat = POINTS.flatten(1).double()
    low = (target.sigma <= COLLAPSE).nonzero()[:, 0].tolist()
    for row in low[:20]:
        group = [int(INDEX[row]), *TABLE.index[INDEX[row]].tolist()]
        sigma = float(target.sigma[row])
        r2 = (target.x[row].flatten().double() - flat[group]).square().sum(1)
        weights = (-r2 / (2 * sigma**2 * max(strength / sigma, 1))).softmax(0)
        torch.testing.assert_close(target.denoised[row].flatten().double(), weights @ flat[group], atol=1e-5, rtol=1e-5)


def test_a_temperature_of_one_never_changes_who_is_pulled_at_high_noise():
    objective = TemperatureSmoothed(Edm(), POINTS, TABLE, 1e-9)
    assert same(objective(POINTS[INDEX], INDEX, generator()), make("conditional")(POINTS[INDEX], INDEX, generator()))


def test_a_vanishing_width_is_the_plain_target():
    tiny = TangentSmoothed(Edm(), POINTS, TABLE, 0.0)(POINTS[INDEX], INDEX, generator())
    torch.testing.assert_close(tiny.denoised, POINTS[INDEX])
    small = TangentSmoothed(Edm(), POINTS, TABLE, 1e-4)(POINTS[INDEX], INDEX, generator())
    torch.testing.assert_close(small.denoised, POINTS[INDEX], atol=1e-2, rtol=0)
    assert not torch.equal(small.denoised, POINTS[INDEX])


def test_tangent_images_have_the_covariance_of_the_neighbors():
    many = torch.zeros(40_000, dtype=torch.long)
    displaced = TangentSmoothed(Edm(), POINTS, TABLE, 0.7)(POINTS[many], many, generator()).denoised.flatten(1)
    offset = POINTS.flatten(1)[TABLE.index[0]] - POINTS[0].flatten()
    want = 0.49 * offset.T @ offset / K
    torch.testing.assert_close(displaced.mean(0), POINTS[0].flatten(), atol=0.03, rtol=0)
    assert float((displaced.T.cov() - want).norm() / want.norm()) < 0.05


class Fixed(Edm):
    """One noise level, so that many targets share it."""

    def draw(self, n, generator):
        return torch.full((n,), self.sigma_data)


def regress(objective, points, x, sigma, count=400_000):
    """E[target | x] by importance: draws of the target weighted by the likelihood of x given it."""
    index = torch.arange(len(points)).repeat(count // len(points))
    targets = objective(points[index], index, generator()).denoised.double()
    r2 = ((x[:, None] - targets) ** 2).sum(-1)
    return (-r2 / (2 * sigma**2)).softmax(1) @ targets


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_minimizer_of_the_tangent_loss_is_the_closed_form(sigma):
    points = torch.randn(8, 2, generator=generator(3))
    table = neighbors(points, 3)
    objective = TangentSmoothed(Fixed(sigma_data=sigma), points, table, 0.8)
    x = points[:6].double() + sigma * torch.randn(6, 2, generator=generator(4), dtype=torch.float64)
    want = tangent(points, table, 0.8)(x, torch.full((6,), sigma, dtype=torch.float64))
    torch.testing.assert_close(regress(objective, points, x, sigma), want, atol=0.02, rtol=0.02)
    plain = denoise(noise_conditional(x, points.double(), torch.full((6,), sigma).double()), points.double())
    assert float((plain - want).abs().max()) > 0.1  # the test can tell them apart


def test_least_squares_on_the_tangent_target_finds_the_closed_form():
    """Binned regression in one dimension, on the x the objective drew: no formula of ours is used."""
    points = torch.tensor([[-2.0], [-1.0], [0.5], [2.0]])
    table = neighbors(points, 2)
    objective = TangentSmoothed(Fixed(sigma_data=0.5), points, table, 0.7)
    index = torch.arange(4).repeat(100_000)
    target = objective(points[index], index, generator())
    x, y = target.x[:, 0], target.denoised[:, 0]
    model = tangent(points, table, 0.7)
    for center in (-2.5, -1.5, -0.5, 0.5, 1.5):
        inside = (x - center).abs() < 0.02
        want = float(model(torch.tensor([[center]]), torch.tensor([0.5])))
        assert float(y[inside].mean()) == pytest.approx(want, abs=0.05)
