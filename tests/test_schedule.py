import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from temperance.schedule import Edm, Flow, Schedule, Ve, Vp, edm_for, levels

EXPLODING = [Edm(), Edm(sigma_min=0.05, sigma_max=10.0, sigma_data=0.3), Ve(), Ve(0.1, 5.0)]
NATIVE = [Vp(), Vp("scaled_linear", 400), Vp("cosine"), Vp((0.1, 0.2, 0.4, 0.9)), Flow(), Flow(0.1, 0.7)]
SCHEDULES = [*EXPLODING, *NATIVE]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
exploding = pytest.mark.parametrize("schedule", EXPLODING, ids=str)


@every
def test_contract(schedule):
    assert isinstance(schedule, Schedule)
    t = schedule.draw(1000, torch.Generator().manual_seed(0))
    assert t.shape == (1000,)
    assert torch.equal(t, schedule.draw(1000, torch.Generator().manual_seed(0)))
    assert not torch.equal(t, schedule.draw(1000, torch.Generator().manual_seed(1)))
    high, low = schedule.grid(2).tolist()
    assert low * (1 - 1e-5) <= float(t.min()) < float(t.max()) <= high * (1 + 1e-5)
    alpha, sigma = schedule.kernel(t)
    assert alpha.dtype == sigma.dtype == t.dtype and ((alpha > 0) & (alpha <= 1)).all() and (sigma > 0).all()
    torch.testing.assert_close(schedule.time(sigma / alpha), t, rtol=1e-4, atol=1e-3)
    weight = schedule.weight(sigma / alpha)
    assert weight.shape == (1000,) and (weight > 0).all()


@every
def test_levels_are_the_grid_in_sigma_space(schedule):
    got = levels(schedule, 20)
    assert got.shape == (20,) and (got > 0).all() and (got.diff() < 0).all() and got.isfinite().all()
    alpha, sigma = schedule.kernel(schedule.grid(20))
    torch.testing.assert_close(got * alpha, sigma)
    if schedule in EXPLODING:
        assert torch.equal(got, schedule.grid(20))


@exploding
def test_in_the_exploding_processes_the_time_is_the_level(schedule):
    t = schedule.draw(1000, torch.Generator().manual_seed(0))
    alpha, sigma = schedule.kernel(t)
    assert torch.equal(alpha, torch.ones(1000)) and torch.equal(sigma, t) and torch.equal(schedule.time(t), t)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")]
)
@pytest.mark.parametrize("steps", [100, 1000])
def test_vp_has_the_tables_of_diffusers(ours, theirs, steps):
    bar = DDPMScheduler(num_train_timesteps=steps, beta_schedule=theirs).alphas_cumprod.double()
    alpha, sigma = Vp(ours, steps).kernel(torch.arange(steps).double())
    torch.testing.assert_close(alpha**2, bar, rtol=2e-3, atol=1e-7)  # theirs is a float32 product
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(steps).double())


def test_vp_is_geometric_between_its_steps():
    alpha, sigma = Vp().kernel(torch.tensor([41.0, 41.25, 42.0], dtype=torch.float64))
    level = (sigma / alpha).log()
    torch.testing.assert_close(level[1], 0.75 * level[0] + 0.25 * level[2])
    assert Vp().time(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]  # outside of the process: its ends


@pytest.mark.parametrize("schedule", [Edm(0.1, 1.0), Ve(0.1, 1.0), Flow(0.1, 0.7)], ids=str)
def test_where_there_is_no_table_every_level_has_its_time(schedule):
    level = torch.tensor([1e-3, 50.0])
    alpha, sigma = schedule.kernel(schedule.time(level))
    torch.testing.assert_close(sigma / alpha, level)


def test_vp_draws_every_step_alike():
    t = Vp("linear", 10).draw(20_000, torch.Generator().manual_seed(0))
    counts = t.long().bincount(minlength=10)
    assert torch.equal(t, t.round()) and float((counts - 2000).abs().max()) < 4 * 43


def test_vp_leaves_out_a_last_step_without_signal():
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    schedule = Vp(scheduler.betas.tolist())
    assert float(schedule.grid(2)[0]) < 999 and levels(schedule, 2).isfinite().all()


def test_vp_leaves_out_steps_with_next_to_no_signal():
    for last, used in ((1 - 1e-9, 3), (1 - 1e-11, 2)):
        assert float(Vp([0.1, 0.5, last]).grid(2)[0]) == used - 1


def test_flow_is_a_straight_line():
    t = torch.tensor([0.25, 0.5, 0.75])
    alpha, sigma = Flow().kernel(t)
    assert torch.equal(alpha, 1 - t) and torch.equal(sigma, t)
    torch.testing.assert_close(sigma / alpha, torch.tensor([1 / 3, 1, 3]))
    grid = Flow(0.1, 0.9).grid(5)
    torch.testing.assert_close(grid, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]))
    drawn = Flow(0.1, 0.9).draw(40_000, torch.Generator().manual_seed(0)).sort().values
    assert float((drawn - torch.linspace(0.1, 0.9, 40_000)).abs().max()) < 0.8 * 1.63 / 200  # Kolmogorov-Smirnov


def test_flow_and_vp_paths_agree_with_the_schedulers_of_diffusers():
    mu, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flow = FlowMatchEulerDiscreteScheduler()
    times = flow.timesteps[[10, 500, 900]]
    alpha, sigma = (part[:, None, None, None] for part in Flow().kernel(times / 1000))
    torch.testing.assert_close(alpha * mu + sigma * eps, flow.scale_noise(mu, times, eps))
    steps = torch.tensor([0, 400, 999])
    alpha, sigma = (part[:, None, None, None] for part in Vp().kernel(steps.float()))
    torch.testing.assert_close(
        alpha * mu + sigma * eps, DDPMScheduler().add_noise(mu, eps, steps), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Vp("square"), "linear, scaled_linear, cosine"),
        (lambda: Vp(steps=1), "steps"),
        (lambda: Vp(first=0.1, last=0.01), "first"),
        (lambda: Vp((0.1, 1.0, 0.2)).grid(2), "betas"),
        (lambda: Vp((0.1, -0.1, 0.2)).grid(2), "betas"),
        (lambda: Flow(0.0, 0.9), "t_min"),
        (lambda: Flow(0.1, 1.0), "t_max"),
    ],
)
def test_bad_processes_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@exploding
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
    assert edm_for(points - 10).sigma_max == pytest.approx(3 * 10 * math.sqrt(8), rel=0.01)  # the start is around zero


def test_edm_for_sees_directions_that_leave_the_sum_of_an_image_alone():
    pair = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    assert edm_for(pair).sigma_max == pytest.approx(5 * math.sqrt(32))


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "cosine"])
def test_the_time_of_a_drawn_level_is_the_whole_step_that_was_drawn(betas):
    """Who indexes a table by it cuts what is below the next whole number."""
    schedule = Vp(betas)
    t = torch.arange(1000.0)
    alpha, sigma = schedule.kernel(t)
    assert torch.equal(schedule.time(sigma / alpha), t)
    between = schedule.kernel(t[:-1] + 0.25)
    assert torch.allclose(schedule.time(between[1] / between[0]), t[:-1] + 0.25, atol=5e-3)
