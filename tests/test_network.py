import pytest
import torch
from torch import nn

from temperance.denoiser import Denoiser
from temperance.network import Blind, Parameterized, Preconditioned, ResidualMlp
from temperance.schedule import Edm, Flow, Ve, Vp


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


@pytest.mark.parametrize(
    ("schedule", "scale", "time"),
    [
        (Flow(), lambda s: 1 / (1 + s), lambda s: 1000 * s / (1 + s)),
        (Vp(), lambda s: (1 + s**2) ** -0.5, lambda s: Vp().time(s)),
        (Edm(), lambda s: (0.25 + s**2) ** -0.5, lambda s: s.log() / 4),
        (Ve(), lambda s: (0.25 + s**2) ** -0.5, lambda s: s.log() / 4),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_the_network_meets_the_image_and_time_of_its_process(schedule, scale, time, told):
    probe, x = Probe(), images()
    denoiser = Parameterized(probe, schedule, "eps", 0.5, told=told)
    out = denoiser(x, SIGMA)
    s = SIGMA.clamp(min=0.01)[:, None, None, None]
    torch.testing.assert_close(probe.x, x * scale(s), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(probe.noise, time(SIGMA) if told else torch.zeros(5), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out, x - SIGMA[:, None, None, None])  # it predicts ones
    with pytest.raises(ValueError, match="needs sigma"):
        denoiser(x, None)


@pytest.mark.parametrize("predicts", ["denoised", "eps", "v", "velocity"])
def test_a_network_that_predicts_right_denoises_right(predicts):
    mu, eps = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    s = SIGMA[:, None, None, None]
    alpha = (1 + s**2) ** -0.5
    right = {"denoised": mu, "eps": eps, "v": alpha * eps - alpha * s * mu, "velocity": eps - mu}[predicts]
    denoiser = Parameterized(Oracle(right), Flow(), predicts)
    torch.testing.assert_close(denoiser(mu + s * eps, SIGMA), mu, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="prediction must be one of"):
        Parameterized(Oracle(right), Flow(), "score")


class Oracle(nn.Module):
    """Returns what it is given, whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, noise):
        return self.answer


@pytest.mark.parametrize(
    "make", [lambda n: Preconditioned(n, 0.5), lambda n: Blind(n, 0.5, 0.25), lambda n: Parameterized(n, Flow(), "v")]
)
def test_the_class_reaches_the_network(make):
    network = ResidualMlp(64, width=16, classes=3)
    nn.init.normal_(network.outward[1].weight)
    denoiser, x = make(network), images()
    one, other = (denoiser(x, SIGMA, torch.full((5,), label)) for label in (0, 2))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="class-conditional"):
        denoiser(x, SIGMA)


def test_a_label_that_a_network_would_not_hear_is_refused():
    network = ResidualMlp(64)
    x, noise = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="takes no label"):
        network(x, noise, torch.zeros(2, 5))
    network.hear(5)
    assert torch.equal(network(x, noise, torch.zeros(2, 5)), network(x, noise))


def test_a_unit_stretches_the_noise_and_classes_change_no_other_first_weight():
    def network(**options):
        torch.manual_seed(0)
        made = ResidualMlp(64, width=16, **options)
        nn.init.ones_(made.outward[1].weight)
        return made

    x = images()
    assert torch.equal(network(unit=8.0)(x, 8 * SIGMA), network()(x, SIGMA))
    plain, classes = network().state_dict(), network(classes=3).state_dict()
    assert all(torch.equal(classes[key], value) for key, value in plain.items())


def test_the_told_network_uses_the_noise_level():
    network = ResidualMlp(64, width=16)
    nn.init.normal_(network.outward[1].weight)
    x = images()
    assert not torch.equal(network(x, SIGMA), network(x, SIGMA + 1))


def test_a_conditional_denoiser_needs_sigma():
    with pytest.raises(ValueError, match="needs sigma"):
        Preconditioned(ResidualMlp(64), 0.5)(images(), None)
