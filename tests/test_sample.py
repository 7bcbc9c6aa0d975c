import math
import warnings

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
)

from sheet import BASIS, MEAN, STD, D, sheet, sheet_blind
from temperance.distance import nearest
from temperance.empirical import denoise, noise_conditional
from temperance.sample import SAMPLERS as NAMED
from temperance.sample import (
    SELF_PACED,
    STEPS,
    Noise,
    NotConverged,
    adaptive,
    ancestral,
    annealed,
    dpm_solver,
    heun,
    integrate,
    nesterov,
    predictor_corrector,
    projected,
    residual,
    walk,
)
from temperance.schedule import Edm, Ve

OPTIONS = {name: {"step": 0.05} for name in SELF_PACED}
SAMPLERS = {name: (sampler, OPTIONS.get(name, {})) for name, sampler in NAMED.items()}
every = pytest.mark.parametrize("name", SAMPLERS)


def draw(name, denoiser, sigmas, n=8, shape=(D,), seed=0, **options):
    sampler, given = SAMPLERS[name]
    return integrate(sampler, denoiser, shape, sigmas, Noise(seed, range(n)), **(given | options))


# ---- contract ----


@every
def test_the_distribution_of_the_denoiser_is_recovered(name):
    denoiser = sheet_blind if name in SELF_PACED else sheet
    got = draw(name, denoiser, Edm(0.02, 40.0).grid(60), n=1000)
    assert got.converged.all()
    flat = (got.x - MEAN) @ BASIS
    error = 4 * STD / 1000**0.5
    assert (flat.mean(0).abs() < error).all()
    spread = flat.T.cov()
    assert spread.diag().sqrt().tolist() == pytest.approx(STD.tolist(), rel=0.1)
    assert abs(float(spread[0, 1])) < 0.05
    off = (got.x - MEAN) - flat @ BASIS.T
    assert float(off.abs().max()) < 1e-4  # the last evaluation puts samples on the sheet


@every
def test_every_step_is_handed_out(name):
    sampler, options = SAMPLERS[name]
    sigmas = Edm(0.05, 5.0).grid(9)
    x = 5.0 * Noise(0, range(3)).normal((D,))
    states = list(sampler(sheet_blind, x, sigmas, Noise(1, range(3)), **options))
    assert all(state.shape == x.shape and state.dtype == x.dtype for state in states)
    if name not in SELF_PACED:
        assert len(states) == 8
    assert (residual(states[-1], sheet_blind(states[-1], sigmas)) < 2 * 0.05).all()


@every
def test_seed_and_index_decide_a_sample(name):
    sigmas = Edm(0.05, 5.0).grid(9)
    one, two, other = (draw(name, sheet_blind, sigmas, seed=s).x for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert (one - other).flatten(1).norm(dim=1).min() > 1e-3


def shrink(x, sigma):
    """A denoiser whose rows do not meet: no matrix product, whose rounding could depend on the batch."""
    level = residual(x, torch.zeros_like(x))
    return x / (1 + level[:, None, None, None] ** 2)


@every
def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(name):
    sampler, options = SAMPLERS[name]
    sigmas = Edm(0.05, 5.0).grid(9)

    def part(index):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)
            return integrate(sampler, shrink, (1, 8, 8), sigmas, Noise(3, index), **options)

    whole, first, last = part(range(8)), part(range(3)), part(range(3, 8))
    assert torch.equal(whole.x, torch.cat([first.x, last.x]))
    assert torch.equal(whole.final_sigma, torch.cat([first.final_sigma, last.final_sigma]))
    assert torch.equal(part([5, 2]).x, whole.x[[5, 2]])


@pytest.mark.parametrize(
    ("name", "options", "nfe"),
    [
        ("heun", {}, 2 * 9 + 1),
        ("pc", {}, 2 * 9 + 1),
        ("pc", {"correctors": 0}, 9 + 1),
        ("pc", {"correctors": 3}, 4 * 9 + 1),
        ("dpm", {}, 9 + 1),
        ("ancestral", {}, 9 + 1),
    ],
)
def test_evaluations_are_counted(name, options, nfe):
    calls = []

    def counting(x, sigma):
        calls.append(len(x))
        return sheet(x, sigma)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        got = draw(name, counting, Edm(0.05, 5.0).grid(10), n=5, **options)
    assert got.nfe == len(calls) == nfe
    assert set(calls) == {5}


def test_adaptive_takes_the_evaluations_it_needs_up_to_its_limit():
    sigmas = Edm(0.05, 5.0).grid(10)
    got = draw("adaptive", sheet_blind, sigmas, step=0.1)
    assert math.log(100) / -math.log(0.9) - 8 < got.nfe < math.log(100) / -math.log(0.9) + 8
    assert (got.final_sigma <= 0.05).all()
    with pytest.warns(NotConverged):
        assert draw("adaptive", sheet_blind, sigmas, step=0.1, limit=7).nfe == 8


def test_momentum_saves_evaluations():
    sigmas = Edm(0.05, 5.0).grid(2)
    plain, fast = (draw(name, sheet_blind, sigmas, step=0.1).nfe for name in ("adaptive", "nesterov"))
    assert fast < 0.85 * plain
    assert draw("nesterov", sheet_blind, sigmas, step=0.1, momentum=0.0).nfe == plain


@pytest.mark.parametrize("name", SELF_PACED)
def test_rows_that_are_done_are_left_alone(name):
    x = torch.cat([4.0 * Noise(0, range(1)).normal((D,)), MEAN[None] + 1e-3])
    sampler, options = SAMPLERS[name]
    states = list(sampler(sheet_blind, x, Edm(0.05, 5.0).grid(3), Noise(1, range(2)), **options))
    assert all(torch.equal(state[1], x[1]) for state in states)
    assert not torch.equal(states[0][0], x[0])


@every
def test_the_empirical_denoiser_returns_training_points(name):
    points = torch.randn(20, D, generator=torch.Generator().manual_seed(1))

    def empirical(x, sigma):
        return denoise(noise_conditional(x, points, sigma), points)

    got = draw(name, empirical, Edm(0.02, 10.0).grid(40), n=30)
    found = nearest(got.x, points, 1)
    assert float(found.distance.max()) < 1e-3
    assert len(found.index.unique()) > 10
    assert got.converged.all()


@every
def test_the_weights_of_a_mixture_are_recovered(name):
    """Three points on a line in 64 dimensions, 20, 30 and 50 %: exact posterior mean, the level read off the rest."""
    place, weight = torch.tensor([-1.5, 0.0, 1.5]), torch.tensor([0.2, 0.3, 0.5])

    def mixture(x, sigma):
        level = (x[:, 1:].square().sum(1) / (D - 1)).sqrt()
        if name not in SELF_PACED:
            level = sigma
        logits = weight.log() - (x[:, :1] - place).square() / (2 * level[:, None] ** 2).clamp(min=1e-9)
        return torch.cat([logits.softmax(1) @ place[:, None], torch.zeros(len(x), D - 1)], 1)

    got = draw(name, mixture, Edm(0.02, 40.0).grid(80), n=2000)
    assert got.converged.all()
    found = (got.x[:, :1] - place).abs().argmin(1)
    assert float((got.x[:, 0] - place[found]).abs().max()) < 1e-3
    share = torch.bincount(found, minlength=3) / 2000
    assert share.tolist() == pytest.approx(weight.tolist(), abs=4 * (0.25 / 2000) ** 0.5)


@every
def test_a_constraint_holds_for_every_sample_and_does_not_stop_convergence(name):
    """Half of the coordinates are known: they come out exact, the others are still drawn."""
    known = torch.arange(D) < D // 2

    def project(x):
        return torch.where(known, 0.25, x)

    got = integrate(
        SAMPLERS[name][0],
        sheet,
        (D,),
        Edm(0.05, 20.0).grid(60),
        Noise(0, range(50)),
        project=project,
        **SAMPLERS[name][1],
    )
    assert (got.x[:, known] == 0.25).all() and got.converged.all()
    assert float(got.x[:, ~known].std(0).mean()) > 0.01


def test_a_constraint_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match="project must keep the shape"):
        projected(sheet, lambda x: x[:, :3])(torch.zeros(2, D), torch.ones(2))


def test_a_sampler_that_stops_early_is_told_on():
    def lazy(denoiser, x, sigmas, noise):
        yield x / 2

    sigmas = Edm(0.05, 5.0).grid(10)
    with pytest.warns(NotConverged, match=r"8 of 8 samples.*ends at 0\.05"):
        got = integrate(lazy, sheet, (D,), sigmas, Noise(0, range(8)))
    assert not got.converged.any() and (got.final_sigma > 1).all()


@pytest.mark.parametrize(("left", "enough"), [(0.14, True), (0.16, False)])
def test_half_more_noise_than_asked_for_is_allowed(left, enough):
    def stop(denoiser, x, sigmas, noise):
        yield torch.full_like(x, left)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        got = integrate(stop, lambda x, sigma: 0 * x, (D,), torch.tensor([1.0, 0.1]), Noise(0, range(2)))
    assert got.converged.tolist() == [enough] * 2 and got.final_sigma.tolist() == pytest.approx([left] * 2)


def test_a_correction_is_langevins_step_of_the_stated_signal_to_noise_ratio():
    sigmas, x = torch.tensor([2.0, 0.5]), torch.ones(300, D)
    (got,) = predictor_corrector(lambda x, sigma: 0 * x, x, sigmas, Noise(0, range(300)), snr=0.3)
    step, noise = 2 * (0.3 * 0.5) ** 2, Noise(0, range(300))
    ahead = x / 16 + 0.5 * (1 - 1 / 16) ** 0.5 * noise.normal((D,))
    torch.testing.assert_close(got, ahead - step * ahead / 0.25 + (2 * step) ** 0.5 * noise.normal((D,)))


@every
def test_an_empty_batch_is_empty_images(name):
    got = draw(name, sheet, Edm(0.05, 5.0).grid(9), n=0)
    assert got.x.shape == (0, D) and got.x.dtype == torch.get_default_dtype() and got.nfe == 0
    assert len(got.final_sigma) == len(got.converged) == 0


@every
def test_steps_are_counted_from_the_samplers_own_number(name):
    plain, zero, five = (walk(name, Edm(), steps) for steps in (None, 0, 5))
    assert torch.equal(plain.sigmas, zero.sigmas) and plain.options == zero.options
    assert five.options.get("limit", len(five.sigmas)) == 5
    with pytest.raises(ValueError, match=f"stands for {STEPS[name]}, got -3"):
        walk(name, Edm(), -3)


@every
@pytest.mark.parametrize("sigmas", [[1.0], [0.1, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, math.nan], [[2.0, 1.0]]])
def test_unusable_levels_are_refused(name, sigmas):
    sampler, options = SAMPLERS[name]
    with pytest.raises((ValueError, TypeError), match="sigmas"):
        next(sampler(sheet, torch.zeros(2, D), torch.tensor(sigmas), Noise(0, range(2)), **options))


# ---- noise ----


def test_noise_is_standard_normal_and_different_everywhere():
    x = torch.cat([Noise(seed, range(100)).normal((1, 8, 8)) for seed in range(4)])
    assert x.shape == (400, 1, 8, 8)
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float(x.std()) == pytest.approx(1, abs=0.02)
    correlation = x.flatten(1) @ x.flatten(1).T / 64
    assert float(correlation.fill_diagonal_(0).abs().max()) < 0.8


def test_given_generators_are_the_streams():
    def generators():
        return [torch.Generator().manual_seed(i) for i in range(3)]

    got = Noise.of(generators()).normal((4,))
    assert torch.equal(got, torch.stack([torch.randn(4, generator=g) for g in generators()]))
    assert torch.equal(Noise.of(generators()[1:]).normal((4,)), got[1:])
    with pytest.raises(ValueError, match="distinct"):
        Noise.of([torch.Generator()] * 2)


def test_noise_moves_on():
    noise = Noise(0, [0, 1])
    assert not torch.equal(noise.normal((4,)), noise.normal((4,)))


# ---- accuracy ----


def slope(solve, exact, steps):
    errors = [float((solve(n) - exact).abs().max()) for n in steps]
    return math.log(errors[0] / errors[-1]) / math.log((steps[-1] - 1) / (steps[0] - 1)), errors


def test_heun_is_of_second_order_on_a_gaussian():
    """dx/dsigma = x sigma / (s^2 + sigma^2) is solved by x ~ sqrt(s^2 + sigma^2)."""
    s = 0.7
    x = torch.linspace(-9, 9, 5, dtype=torch.float64)[:, None]
    exact = x * math.sqrt((s**2 + 0.02**2) / (s**2 + 10**2))

    def solve(steps):
        sigmas = Edm(0.02, 10.0, rho=7.0).grid(steps).double()
        *_, end = heun(lambda v, sigma: v * s**2 / (s**2 + sigma[:, None] ** 2), x, sigmas)
        return end

    order, errors = slope(solve, exact, [41, 81, 161])
    assert order == pytest.approx(2, abs=0.15)
    assert errors[-1] < 1e-3


def test_heun_is_of_second_order_on_two_points():
    """D = tanh(x / sigma^2) for points at -1 and 1, against a very fine solution."""
    x = torch.tensor([[-6.0], [0.3], [2.0], [7.0]], dtype=torch.float64)

    def solve(steps):
        sigmas = torch.linspace(5.0, 0.5, steps, dtype=torch.float64)
        *_, end = heun(lambda v, sigma: torch.tanh(v / sigma[:, None] ** 2), x, sigmas)
        return end

    order, _ = slope(solve, solve(8001), [101, 201, 401])
    assert order == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("steps", [5, 18, 40])
def test_edm_grid_agrees_with_diffusers(steps):
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(Edm().grid(steps), scheduler.sigmas[:-1], rtol=1e-4, atol=1e-6)


def test_plain_ancestral_steps_end_on_a_single_point():
    """For one training point the predictor is exact, whatever the steps."""
    point = torch.ones(D)
    got = draw("pc", lambda x, sigma: point.expand_as(x), Ve(0.1, 50.0).grid(3), n=500, correctors=0)
    assert torch.equal(got.x, point.expand(500, -1))
    assert float(got.final_sigma.square().mean().sqrt()) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_steps_keep_the_marginal_of_a_point(eta):
    """Around one training point every share of fresh noise leaves std sigma at every level."""
    sigmas = Ve(0.1, 20.0).grid(12)
    x = 20 * Noise(0, range(400)).normal((D,))
    states = ancestral(lambda x, sigma: torch.zeros_like(x), x, sigmas, Noise(1, range(400)), eta=eta)
    for state, sigma in zip(states, sigmas[1:].tolist()):
        assert float(state.std()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, s, z: ancestral(sheet, x, s, z, eta=1.5), "eta"),
        (lambda x, s, z: nesterov(sheet, x, s, z, momentum=1.0), "momentum"),
        (lambda x, s, z: nesterov(sheet, x, s, z, step=1.5), "step must be between 0 and 1"),
        (lambda x, s, z: adaptive(sheet, x, s, z, step=2.5), "step must be between 0 and 1"),
        (lambda x, s, z: annealed(sheet, x, s, z, step=2.0), "step"),
    ],
)
def test_unusable_options_are_refused(call, name):
    with pytest.raises(ValueError, match=name):
        next(call(torch.zeros(1, D), Edm().grid(3), Noise(0, [0])))


def test_dpm_solver_is_of_second_order():
    s = 0.7
    x = torch.linspace(-9, 9, 5, dtype=torch.float64)[:, None]
    exact = x * math.sqrt((s**2 + 0.02**2) / (s**2 + 10**2))

    def solve(steps):
        sigmas = Ve(0.02, 10.0).grid(steps).double()
        *_, end = dpm_solver(lambda v, sigma: v * s**2 / (s**2 + sigma[:, None] ** 2), x, sigmas)
        return end

    order, errors = slope(solve, exact, [41, 81, 161])
    assert order == pytest.approx(2, abs=0.2)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("name", ["adaptive", "nesterov", "annealed"])
def test_a_row_that_is_on_its_image_goes_on_being_told_a_level(name):
    told = []

    def at_once(x, sigma):
        told.append(sigma)
        return torch.where(torch.arange(len(x))[:, None] == 0, torch.zeros_like(x), 0.5 * x)

    draw(name, at_once, Ve().grid(8), step=1.0)
    assert len(told) > 1 and all(bool((level > 0).all()) for level in told)
