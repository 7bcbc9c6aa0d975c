"""The same steps as diffusers' schedulers take."""

import math

import pytest
import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
)

from sheet import D, sheet
from temperance.sample import (
    Noise,
    ancestral,
    dpm_solver,
    heun,
)
from temperance.schedule import Edm

# Its own conversion of a tensor to an array.
of_diffusers = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LEVELS = Edm(0.05, 9.0, sigma_data=0.5).grid(12)


def start(n=4):
    return 9.0 * Noise(0, range(n)).normal((D,))


@pytest.mark.parametrize(
    ("kind", "sampler", "options"),
    [(EDMDPMSolverMultistepScheduler, dpm_solver, {}), (EDMEulerScheduler, ancestral, {"eta": 0.0})],
)
def test_steps_agree_with_the_edm_schedulers(kind, sampler, options):
    scheduler = kind(sigma_min=0.05, sigma_max=9.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(12)
    x = start()
    *_, mine = sampler(sheet, x, LEVELS, Noise(0, range(4)), **options)
    for t, sigma in zip(scheduler.timesteps, LEVELS.tolist()):
        scheduler.scale_model_input(x, t)
        total = math.sqrt(sigma**2 + 0.25)
        denoised = sheet(x, torch.full((4,), sigma))
        out = (denoised - 0.25 / total**2 * x) * total / (sigma * 0.5)  # what a network would have to put out
        x = scheduler.step(out, t, x).prev_sample
    torch.testing.assert_close(x, sheet(mine, torch.full((4,), 0.05)), rtol=1e-3, atol=1e-4)


@of_diffusers
def test_steps_agree_with_the_heun_scheduler():
    scheduler = HeunDiscreteScheduler(prediction_type="sample")
    scheduler.set_timesteps(12)
    scheduler.sigmas = torch.cat([LEVELS[:1], LEVELS[1:].repeat_interleave(2)])
    scheduler._step_index = 0
    x = start()
    *_, mine = heun(sheet, x, LEVELS)
    seen = torch.cat([torch.stack([a, b]) for a, b in zip(LEVELS, LEVELS[1:])])
    for sigma in seen:
        x = scheduler.step(sheet(x, sigma.expand(4)), 0, x).prev_sample
    torch.testing.assert_close(x, mine, rtol=1e-4, atol=1e-5)


@of_diffusers
def test_steps_agree_with_the_ancestral_scheduler():
    scheduler = EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(12)
    scheduler.sigmas, scheduler._step_index, scheduler.is_scale_input_called = LEVELS, 0, True
    x = start(1)
    *_, mine = ancestral(sheet, x, LEVELS, Noise.of([torch.Generator().manual_seed(3)]))
    generator = torch.Generator().manual_seed(3)
    for sigma in LEVELS[:-1]:
        eps = (x - sheet(x, sigma.expand(1))) / sigma
        x = scheduler.step(eps, 0.0, x, generator=generator).prev_sample
    torch.testing.assert_close(x, mine, rtol=1e-4, atol=1e-5)
