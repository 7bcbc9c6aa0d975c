import pytest
import torch
from diffusers import DDPMScheduler
from sklearn.datasets import load_digits

from temperance.denoiser import PREDICTIONS
from temperance.distance import neighbors
from temperance.empirical import denoise, noise_conditional, tangent
from temperance.objective import (
    ExactTangent,
    IndexedDataset,
    Labeled,
    NoiseConditional,
    NoiseUnconditional,
    TangentSmoothed,
    Target,
    TemperatureSmoothed,
    Weighted,
    loss,
    native,
    predict,
)
from temperance.recipe import mirrored_table, with_mirrors
from temperance.schedule import Edm, Flow, Ve, Vp

N, K = 60, 5
POINTS = (torch.from_numpy(load_digits().images[:N]).float() / 8 - 1)[:, None]
TABLE = neighbors(POINTS.flatten(1), K)
COLLAPSE = 0.8

OBJECTIVES = {
    "conditional": lambda s, told: NoiseConditional(s) if told else NoiseUnconditional(s),
    "temperature": lambda s, told: TemperatureSmoothed(s, POINTS, TABLE, COLLAPSE, told=told),
    "temperature strength": lambda s, told: TemperatureSmoothed(s, POINTS, TABLE, COLLAPSE, 5.0, told=told),
    "tangent": lambda s, told: TangentSmoothed(s, POINTS, TABLE, 0.7, told=told),
    "exact tangent": lambda s, told: ExactTangent(TangentSmoothed(s, POINTS, TABLE, 0.7, told=told)),
}
INDEX = torch.arange(N).repeat(3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, told=True, schedule=None):
    return OBJECTIVES[name](schedule or Edm(), told)


def same(a, b):
    return all((p is None and q is None) or torch.equal(p, q) for p, q in zip(a, b))


@pytest.mark.parametrize("schedule", [Edm(), Ve(), Vp(), Flow()], ids=str)
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


SMOOTHED = ["temperature", "temperature strength", "tangent"]


@pytest.mark.parametrize("predicts", ["eps", "v", "velocity", "denoised"])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("schedule", [Vp(), Flow()], ids=str)
def test_a_native_target_is_the_same_training_problem(schedule, name, predicts):
    """Squared error to the output, weighted for it, is squared error to the denoised image."""
    target = make(name, True, schedule)(POINTS[INDEX], INDEX, generator())
    y, t, output = native(target, schedule, predicts)
    alpha, sigma = (part[:, None, None, None] for part in schedule.kernel(t))
    torch.testing.assert_close(y / alpha, target.x, rtol=1e-4, atol=1e-4)
    if name == "conditional":
        eps = (y - alpha * POINTS[INDEX]) / sigma
        norm = (alpha**2 + sigma**2).sqrt()  # v is that of the variance-preserving image at the same level
        v = (alpha * eps - sigma * POINTS[INDEX]) / norm
        want = {"eps": eps, "v": v, "velocity": eps - POINTS[INDEX]}
        torch.testing.assert_close(output, want.get(predicts, POINTS[INDEX]), rtol=1e-2, atol=2e-2)
    moved = target._replace(denoised=target.denoised + 0.1)
    change = (native(moved, schedule, predicts).output - output).double().square().flatten(1).mean(1)
    kept = target.sigma.double() > 0.05  # below, the float32 difference of two noises is coarse
    torch.testing.assert_close(
        change[kept], 0.01 * PREDICTIONS[predicts].weight(target.sigma.double())[kept], rtol=0.05, atol=1e-4
    )


def test_native_targets_agree_with_diffusers():
    steps = torch.tensor([3, 250, 990])
    mu, eps = torch.randn(2, 3, 1, 8, 8, generator=generator())
    scheduler = DDPMScheduler()
    bar = scheduler.alphas_cumprod[steps]
    level = ((1 - bar) / bar).sqrt()
    x = mu + level[:, None, None, None] * eps
    target = Target(x, mu, level, level, torch.ones(3))
    y, t, v = native(target, Vp(), "v")
    torch.testing.assert_close(t, steps.float(), rtol=0, atol=1e-2)
    torch.testing.assert_close(y, scheduler.add_noise(mu, eps, steps), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(v, scheduler.get_velocity(mu, eps, steps), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(native(target, Vp(), "eps").output, eps, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="prediction must be"):
        native(target, Vp(), "score")


@pytest.mark.parametrize("schedule", [Edm(), Vp(), Flow()], ids=str)
@pytest.mark.parametrize("name", SMOOTHED)
def test_the_target_of_a_flipped_image_is_the_flipped_target(name, schedule, monkeypatch):
    """With the same noise, flipped: the doubled set with its mirrored table is closed under flips."""
    points, table = with_mirrors(POINTS), mirrored_table(TABLE)
    objective = {
        "temperature": TemperatureSmoothed(schedule, points, table, COLLAPSE),
        "temperature strength": TemperatureSmoothed(schedule, points, table, COLLAPSE, 5.0),
        "tangent": TangentSmoothed(schedule, points, table, 0.7),
    }[name]
    index = torch.arange(N)
    straight = objective(points[index], index, generator())
    plain = make(name, True, schedule)(POINTS[index], index, generator())
    assert same(plain, straight)  # images that are not flipped train as before
    draw = torch.randn

    def mirror_noise(*shape, **given):
        noise = draw(*shape, **given)
        return noise.flip(3) if noise.ndim == 4 else noise

    monkeypatch.setattr(torch, "randn", mirror_noise)
    flipped = objective(points[index + N], index + N, generator())
    assert torch.equal(flipped.sigma, straight.sigma)
    torch.testing.assert_close(flipped.x, straight.x.flip(3), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flipped.denoised, straight.denoised.flip(3), rtol=1e-5, atol=1e-5)


def test_mirrored_distances_are_those_of_the_mirror_images():
    points, table = with_mirrors(POINTS).flatten(1), mirrored_table(TABLE)
    gap = (points[table.index] - points[:, None]).norm(dim=2)
    torch.testing.assert_close(gap, table.distance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("schedule", [Flow(), Vp("cosine"), Edm()])
def test_half_precision_has_the_levels_and_weights_of_full_precision(schedule, dtype):
    mu, index = POINTS.repeat(40, 1, 1, 1), torch.arange(N).repeat(40)
    full, half = (NoiseConditional(schedule)(x, index, generator()) for x in (mu, mu.to(dtype)))
    assert torch.equal(full.sigma, half.sigma) and torch.equal(full.weight, half.weight)
    assert half.x.dtype == half.denoised.dtype == half.condition.dtype == dtype
    assert loss(half.denoised * 0.99, half).isfinite().all()
    found = native(half, schedule, "eps")
    assert found.y.dtype == found.output.dtype == dtype and found.y.isfinite().all() and found.output.isfinite().all()
    assert torch.equal(found.t, native(full, schedule, "eps").t)


def test_labels_and_weights_are_added_to_any_objective():
    labels = torch.arange(N) % 3
    plain = make("tangent")(POINTS[INDEX], INDEX, generator())
    target = Labeled(make("tangent"), labels)(POINTS[INDEX], INDEX, generator())
    assert torch.equal(target.label, labels[INDEX]) and same(target._replace(label=None), plain)
    heavy = Weighted(make("tangent"), lambda sigma: 3 * sigma)(POINTS[INDEX], INDEX, generator())
    torch.testing.assert_close(heavy.weight, 3 * plain.sigma)
    assert float(predict(lambda *given: torch.full((2, 3), float(len(given))), plain)[0, 0]) == 2
    assert float(predict(lambda *given: torch.full((2, 3), float(len(given))), target)[0, 0]) == 3


def test_an_indexed_dataset_says_which_row_an_item_is():
    images, labels = list(POINTS[:4]), [3, 1, 4, 1]
    assert IndexedDataset(images)[2][1] == 2 and IndexedDataset(images)[2][0] is images[2]
    assert IndexedDataset(list(zip(images, labels)))[2][1:] == (2, 4)
    assert IndexedDataset([{"image": 0}, {"image": 1}])[1] == {"image": 1, "index": 1}
    loader = torch.utils.data.DataLoader(IndexedDataset(images), batch_size=2, shuffle=True, generator=generator())
    seen = [(image, int(i)) for batch, index in loader for image, i in zip(batch, index)]
    assert sorted(i for _, i in seen) == [0, 1, 2, 3] and all(torch.equal(image, POINTS[i]) for image, i in seen)


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


@pytest.mark.parametrize(("given", "strength"), [(None, COLLAPSE), (5.0, 5.0), (0.2, 0.2)])
def test_temperature_target_is_the_mean_of_the_softened_neighborhood(given, strength):
    """Softened or as they are: where a small strength would sharpen the weights, T stays 1."""
    target = TemperatureSmoothed(Edm(), POINTS, TABLE, COLLAPSE, given)(POINTS[INDEX], INDEX, generator())
    flat = POINTS.flatten(1).double()
    low = (target.sigma <= COLLAPSE).nonzero()[:, 0].tolist()
    for row in low[:20]:
        group = [int(INDEX[row]), *TABLE.index[INDEX[row]].tolist()]
        sigma = float(target.sigma[row])
        r2 = (target.x[row].flatten().double() - flat[group]).square().sum(1)
        weights = (-r2 / (2 * sigma**2 * max(strength / sigma, 1))).softmax(0)
        torch.testing.assert_close(target.denoised[row].flatten().double(), weights @ flat[group], atol=1e-5, rtol=1e-5)


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


def test_exact_targets_are_the_mean_of_the_drawn_ones():
    """Over many draws of every image: no bias in any direction that x shows, and less spread."""
    drawing = TangentSmoothed(Edm(), POINTS, TABLE, 0.7)
    exact = ExactTangent(drawing)
    index = torch.arange(len(POINTS)).repeat(1000)
    drawn = drawing(POINTS[index], index, generator(1))
    found = exact(POINTS[index], index, generator(1))
    assert torch.equal(found.x, drawn.x) and torch.equal(found.sigma, drawn.sigma)
    error = (drawn.denoised - found.denoised).double().flatten(1)
    assert float(found.denoised.var()) < float(drawn.denoised.var())
    for direction in (torch.ones(1), drawn.x.flatten(1), found.denoised.flatten(1), drawn.x.flatten(1).sign()):
        along = (error * direction).sum(1)
        assert abs(float(along.mean())) < 4 * float(along.std()) / len(index) ** 0.5
    biased = (drawn.denoised - 0.9 * found.denoised).double().flatten(1)
    along = (biased * found.denoised.flatten(1)).sum(1)
    assert abs(float(along.mean())) > 4 * float(along.std()) / len(index) ** 0.5


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
