import math

import pytest
import torch

from temperance.schedule import Edm, Schedule, Ve, edm_for

SCHEDULES = [Edm(), Edm(sigma_min=0.05, sigma_max=10.0, sigma_data=0.3), Ve(), Ve(0.1, 5.0)]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@every
def test_contract(schedule):
    assert isinstance(schedule, Schedule)
    t = schedule.draw(1000, torch.Generator().manual_seed(0))
    assert t.shape == (1000,)
    assert torch.equal(t, schedule.draw(1000, torch.Generator().manual_seed(0)))
    assert not torch.equal(t, schedule.draw(1000, torch.Generator().manual_seed(1)))
    slack = 1e-5
    assert schedule.sigma_min * (1 - slack) <= float(t.min()) < float(t.max()) <= schedule.sigma_max * (1 + slack)
    alpha, sigma = schedule.kernel(t)
    assert torch.equal(alpha, torch.ones(1000)) and torch.equal(sigma, t)
    weight = schedule.weight(sigma)
    assert weight.shape == (1000,) and (weight > 0).all()


@every
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_grid_walks_down_from_end_to_end(schedule, steps):
    grid = schedule.grid(steps)
    assert grid.shape == (steps,) and grid.dtype == torch.float32
    assert (grid.diff() < 0).all()
    assert grid[[0, -1]].tolist() == pytest.approx([schedule.sigma_max, schedule.sigma_min], rel=1e-6)


def test_edm_grid_is_even_in_the_rho_th_root():
    root = Edm().grid(20).double() ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(19), rtol=1e-4, atol=0)


def test_edm_draws_log_normal_levels():
    log = Edm(sigma_min=1e-6, sigma_max=1e6).draw(40_000, torch.Generator().manual_seed(0)).log()
    assert float(log.mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(log.std()) == pytest.approx(1.2, abs=0.03)


def test_edm_weight_makes_the_loss_of_a_preconditioned_network_one():
    """Its output is a unit target times c_out: weight = 1 / c_out^2."""
    sigma = torch.tensor([0.01, 0.5, 40.0])
    c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(Edm().weight(sigma), c_out**-2)


def test_ve_draws_log_uniform_levels():
    t = Ve().draw(40_000, torch.Generator().manual_seed(0))
    u = ((t.log() - math.log(0.01)) / math.log(5000)).sort().values
    distance = (u - torch.linspace(0, 1, 40_000)).abs().max()  # Kolmogorov-Smirnov
    assert float(distance) < 1.63 / 200


def test_ve_grid_is_geometric():
    grid = Ve().grid(11)
    torch.testing.assert_close(grid[1:] / grid[:-1], torch.full((10,), 5000**-0.1), rtol=1e-5, atol=0)
    torch.testing.assert_close(Ve().weight(grid), grid**-2)


@pytest.mark.parametrize("kind", [Edm, Ve])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_bad_ranges_are_refused(kind, ends):
    with pytest.raises(ValueError, match="sigma_min"):
        kind(*ends)


def test_edm_for_measures_the_data():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 8, generator=g) * torch.tensor([3.0, 1, 1, 1, 1, 1, 1, 1])
    schedule = edm_for(points)
    rms = math.sqrt((9 + 7) / 8)
    assert schedule.sigma_data == pytest.approx(rms, rel=0.05)
    assert schedule.mean == pytest.approx(math.log(schedule.sigma_data) - 0.5)
    assert schedule.sigma_max == pytest.approx(15, rel=0.05)
    assert edm_for(0.01 * points).sigma_max == 1.0
