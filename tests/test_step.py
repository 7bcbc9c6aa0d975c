"""One step of second order: accurate on the grid of every process, and the same in coefficients."""

import pytest
import torch

from temperance.data import load
from temperance.empirical import Tangent
from temperance.engine import neighbor_table
from temperance.sample import Noise, heun, integrate
from temperance.schedule import Flow, Ve, Vp, edm_for, levels
from temperance.step import FAR, Step, second_order

POINTS = load("digits[:60]", progress=False).tensor()
TANGENT = Tangent(POINTS.flatten(1), neighbor_table(POINTS.flatten(1), 6), 0.9)
SCHEDULES = {
    "edm": edm_for(POINTS.flatten(1)), "ve": Ve(), "vp": Vp("linear"), "cosine": Vp("cosine"), "flow": Flow(),
}  # fmt: skip


def exact(x, sigma):
    """E[mu | x] in closed form: whatever is wrong then is the sampler's."""
    return TANGENT(x, sigma)


def exponential(denoiser, x, sigmas, noise=None):
    """Steps of first order that cannot overshoot, for a grid so fine that they need not be better."""
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        denoised = denoiser(x, torch.full((len(x),), now))
        x = denoised + then / now * (x - denoised)
        yield x


@pytest.mark.parametrize("name", SCHEDULES)
def test_twenty_levels_are_enough_for_an_exact_denoiser_in_every_process(name):
    """Of images 6 apart; vp with cosine betas and flow were 65 and 1 off where Heun's method took their first steps."""
    schedule, shape = SCHEDULES[name], POINTS.shape[1:]
    fine = integrate(exponential, exact, shape, levels(schedule, 500), Noise(0, range(12)))
    found = integrate(heun, exact, shape, levels(schedule, 20), Noise(0, range(12)))
    assert bool(found.converged.all())
    assert float((found.x - fine.x).flatten(1).norm(dim=1).median()) < 0.25


@pytest.mark.parametrize("now", [1.2, 2.9, 3.1, 1000.0])
def test_coefficients_are_those_of_the_step(now):
    x, step = (
        now * torch.randn(5, *POINTS.shape[1:], generator=torch.Generator().manual_seed(1)),
        Step.between(now, 1.0),
    )
    first = exact(x, torch.full((5,), now))
    second = exact((1 + step.away) * x - step.away * first, torch.ones(5))
    torch.testing.assert_close(step.a * x + step.b * first + step.c * second, second_order(exact, x, now, 1.0))
    assert step.a + step.b + step.c == pytest.approx(1)
    assert now <= FAR or min(step[:3]) >= 0  # far apart: a mean of x and the two
