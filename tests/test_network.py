import pytest
import torch
from torch import nn

from temperance.denoiser import Denoiser
from temperance.network import Blind, Preconditioned, ResidualMlp


class Probe(nn.Module):
    """Returns ones and keeps what it was called with."""

    def forward(self, x, noise):
        self.x, self.noise = x, noise
        return torch.ones_like(x)


def images(sigma=1.0, n=5, shape=(1, 8, 8)):
    return sigma * torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


SIGMA = torch.tensor([0.01, 0.1, 0.5, 3.0, 80.0])


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (3, 4, 4)])
@pytest.mark.parametrize("told", [True, False])
def test_images_in_images_out(shape, told):
    x = images(shape=shape)
    network = ResidualMlp(x[0].numel(), width=16, depth=1)
    denoiser = Preconditioned(network, 0.5) if told else Blind(network, 0.5, 0.25)
    assert isinstance(denoiser, Denoiser)
    out = denoiser(x, SIGMA)
    assert out.shape == x.shape and out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())


def test_an_untrained_conditional_denoiser_is_c_skip_times_x():
    x = images()
    skip = (0.25 / (SIGMA**2 + 0.25))[:, None, None, None]
    torch.testing.assert_close(Preconditioned(ResidualMlp(64), 0.5)(x, SIGMA), skip * x, rtol=1e-6, atol=0)


def test_an_untrained_blind_denoiser_is_c_skip_times_x():
    x = torch.cat([images(s, n=1) for s in (0.1, 1.0, 10.0)])
    square = x.flatten(1).square().mean(1)
    skip = (0.25 / ((square - 0.3).clamp(min=0) + 0.25))[:, None, None, None]
    torch.testing.assert_close(Blind(ResidualMlp(64), 0.5, 0.3)(x), skip * x, rtol=1e-6, atol=0)
    assert skip[0] == 1


def test_conditional_preconditioning_is_table_1():
    probe, x = Probe(), images()
    out = Preconditioned(probe, 0.5)(x, SIGMA)
    s = SIGMA[:, None, None, None]
    torch.testing.assert_close(probe.x, x / (s**2 + 0.25).sqrt())
    torch.testing.assert_close(probe.noise, SIGMA.log() / 4)
    c_out = s * 0.5 / (s**2 + 0.25).sqrt()
    torch.testing.assert_close(out, 0.25 / (s**2 + 0.25) * x + c_out)


def test_the_conditional_network_has_inputs_of_unit_size_at_every_level():
    probe, n = Probe(), 4000
    g = torch.Generator().manual_seed(0)
    for sigma in (0.01, 0.5, 30.0):
        x = 0.5 * torch.randn(n, 4, generator=g) + sigma * torch.randn(n, 4, generator=g)
        Preconditioned(probe, 0.5)(x, torch.full((n,), sigma))
        assert float(probe.x.std()) == pytest.approx(1, abs=0.03)


def test_the_blind_denoiser_ignores_sigma():
    network = ResidualMlp(64, width=16)
    nn.init.normal_(network.outward[1].weight)
    blind, x = Blind(network, 0.5, 0.25), images()
    assert torch.equal(blind(x, SIGMA), blind(x, None))
    assert torch.equal(blind(x, SIGMA), blind(x, 2 * SIGMA))


def test_the_blind_network_sees_unit_rms_and_its_log():
    probe, x = Probe(), images(20.0)
    out = Blind(probe, 0.5, 0.25)(x)
    torch.testing.assert_close(probe.x.flatten(1).square().mean(1), torch.ones(5))
    torch.testing.assert_close(probe.noise, x.flatten(1).square().mean(1).sqrt().log() / 4)
    assert out.isfinite().all()


def test_the_floor_of_c_out_lets_the_blind_network_correct_at_low_noise():
    x = images(0.1)  # rms below that of the data: the noise estimate is 0
    torch.testing.assert_close(Blind(Probe(), 0.5, 0.25, floor=0.2)(x) - x, torch.full_like(x, 0.1), rtol=0, atol=1e-6)
    assert Blind(ResidualMlp(64), 0.5, 0.25)(torch.zeros_like(x)).isfinite().all()


def test_the_told_network_uses_the_noise_level():
    network = ResidualMlp(64, width=16)
    nn.init.normal_(network.outward[1].weight)
    x = images()
    assert not torch.equal(network(x, SIGMA), network(x, SIGMA + 1))


def test_a_conditional_denoiser_needs_sigma():
    with pytest.raises(ValueError, match="needs sigma"):
        Preconditioned(ResidualMlp(64), 0.5)(images(), None)
