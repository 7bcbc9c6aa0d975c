import pytest
import torch
from diffusers import DDPMScheduler

from temperance import denoiser as td


def batch(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    mu, eps = torch.randn(2, 5, 3, 4, 4, generator=g, dtype=dtype)
    sigma = torch.tensor([0.02, 0.3, 1.0, 7.0, 80.0], dtype=dtype)
    return mu, eps, sigma, mu + td.expand(sigma, mu) * eps


@pytest.mark.parametrize("view", ["score", "eps", "velocity", "v"])
def test_every_view_turns_back_into_the_denoised_image(view):
    mu, _, sigma, x = batch()
    there = getattr(td, f"{view}_from_denoised")(x, mu, sigma)
    assert there.shape == mu.shape
    assert float((there - mu).abs().max()) > 0.1
    torch.testing.assert_close(getattr(td, f"denoised_from_{view}")(x, there, sigma), mu, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("view", ["score", "eps", "velocity", "v"])
def test_every_view_turns_forth_again(view):
    _, output, sigma, x = batch()
    denoised = getattr(td, f"denoised_from_{view}")(x, output, sigma)
    back = getattr(td, f"{view}_from_denoised")(x, denoised, sigma)
    torch.testing.assert_close(back, output, rtol=1e-9, atol=1e-8)


def test_the_views_of_the_clean_image_are_what_they_are_called():
    mu, eps, sigma, x = batch()
    s = td.expand(sigma, x)
    torch.testing.assert_close(td.eps_from_denoised(x, mu, sigma), eps)
    torch.testing.assert_close(td.score_from_denoised(x, mu, sigma), -eps / s)
    torch.testing.assert_close(td.velocity_from_denoised(x, mu, sigma), eps - mu)
    alpha = (1 + s**2) ** -0.5
    torch.testing.assert_close(td.v_from_denoised(x, mu, sigma), alpha * eps - alpha * s * mu)


def test_score_is_the_gradient_of_a_gaussian():
    mu, _, sigma, x = batch()
    s = td.expand(sigma, x)
    x = x.requires_grad_()
    log_p = (-(x**2) / (2 * (4 + s**2))).sum()  # data N(0, 2^2)
    (want,) = torch.autograd.grad(log_p, x)
    got = td.score_from_denoised(x.detach(), (x * 4 / (4 + s**2)).detach(), sigma)
    torch.testing.assert_close(got, want)


def test_eps_and_v_agree_with_diffusers():
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    t = torch.tensor([0, 10, 200, 600, 999])
    mu, eps, _, _ = batch(torch.float32)
    bar = scheduler.alphas_cumprod[t]
    sigma = ((1 - bar) / bar).sqrt()
    y = scheduler.add_noise(mu, eps, t)  # alpha mu + s eps
    x = y / td.expand(bar.sqrt(), y)
    torch.testing.assert_close(td.denoised_from_eps(x, eps, sigma), mu, rtol=1e-4, atol=1e-4)
    v = scheduler.get_velocity(mu, eps, t)
    torch.testing.assert_close(td.v_from_denoised(x, mu, sigma), v, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(td.denoised_from_v(x, v, sigma), mu, rtol=1e-3, atol=1e-3)
