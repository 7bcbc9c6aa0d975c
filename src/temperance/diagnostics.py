"""Numbers about a posterior: how many points it holds, and where sampling starts to collapse onto single ones."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from temperance.denoiser import Denoiser
from temperance.distance import Neighbors, nearest, neighbors
from temperance.empirical import Posterior, Tangent, noise_conditional
from temperance.engine import EmpiricalDenoiser


def entropy(posterior: Posterior) -> Float[Tensor, " batch"]:
    """Shannon entropy of the weights, in nats."""
    return -torch.special.xlogy(posterior.weights, posterior.weights).sum(1)


def effective_sample_size(posterior: Posterior) -> Float[Tensor, " batch"]:
    """exp(entropy): 1 when one training point owns the score, n when all share it."""
    return entropy(posterior).exp()


def dominance(posterior: Posterior) -> Float[Tensor, " batch"]:
    """Weight of the heaviest training point, in 1/n..1."""
    return posterior.weights.amax(1)


def mean_effective_sample_size(points: Float[Tensor, "n d"], sigma: float, *, draws: int = 256, seed: int = 0) -> float:
    """Effective sample size of the empirical posterior, averaged over x = mu + sigma eps.

    Cost: 4 * draws * n * d flops at most, streamed by the engine; no copy of the points.
    """
    return _Crowd(points, draws, seed).size(sigma)


class _Crowd:
    """The same draws mu and eps at every noise level, and an engine prepared once."""

    def __init__(self, points: Float[Tensor, "n d"], draws: int, seed: int):
        generator = Generator().manual_seed(seed)
        self.denoiser = EmpiricalDenoiser(points)
        self.mu = points[torch.randint(len(points), (draws,), generator=generator)]
        self.noise = torch.randn(self.mu.shape, generator=generator).to(self.mu)

    def size(self, sigma: float) -> float:
        level = torch.full((len(self.mu),), float(sigma), device=self.mu.device)
        _, stats = self.denoiser.evaluate(self.mu + sigma * self.noise, level)
        return float(stats.effective_sample_size.mean())


def collapse_sigma(
    points: Float[Tensor, "n d"],
    *,
    size: float = 1.5,
    draws: int = 256,
    seed: int = 0,
    tolerance: float = 0.01,
) -> float:
    """The noise level below which single points own the score: where the mean effective sample size is `size`.

    Found by bisection in log sigma to the relative `tolerance`, with the same draws at every level. Cost: about 11
    evaluations of `draws` rows by the engine.

    Raises:
        ValueError: for fewer than 3 points, or if all are the same.
    """
    if len(points) < 3:
        raise ValueError(f"collapse_sigma needs at least 3 points, got {len(points)}")
    crowd = _Crowd(points, draws, seed)
    spread = float((2 * crowd.denoiser.table.half.sum() / (len(points) - 1)).sqrt())
    if spread == 0:
        raise ValueError("all points are the same: there is no noise level at which they separate")
    low, high = 1e-4 * spread, 10.0 * spread
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if crowd.size(middle) > size else (middle, high)
    return (low * high) ** 0.5


def expansion_factor(
    denoiser: Denoiser,
    points: Float[Tensor, "n *shape"],
    sigma: float,
    *,
    ratio: float = 0.9,
    draws: int = 256,
) -> Float[Tensor, " draws"]:
    """How much one sampling step from `sigma` to `ratio * sigma` pulls two neighbors of a decision boundary apart.

    x lies half-way between a training point and its nearest other point, plus noise; y is x shifted a little along
    their difference; the result is |y' - x'| / |y - x|. Smooth models have 1 to 2, collapsed ones hundreds.
    Source: arXiv 2601.19285, sec. 3.
    """
    flat = points.flatten(1)
    found = nearest(flat[:draws], flat, 2)
    a, b = flat[:draws], flat[found.index[:, 1]]
    shift = 1e-3 * (b - a)
    generator = Generator().manual_seed(0)
    x = (a + b) / 2 + sigma * torch.randn(a.shape, generator=generator).to(a)
    x = x - (b - a) * (((x - (a + b) / 2) * (b - a)).sum(1) / (b - a).square().sum(1).clamp(min=1e-12))[:, None]
    level = torch.full((len(x),), float(sigma)).to(x)

    def step(v: Tensor) -> Tensor:
        denoised = denoiser(v.reshape(-1, *points.shape[1:]), level).flatten(1)
        return denoised + ratio * (v - denoised)

    return (step(x + shift) - step(x)).norm(dim=1) / shift.norm(dim=1).clamp(min=1e-12)


def suggest_temperature(
    points: Float[Tensor, "n d"], table: Neighbors, sigma: float, *, share: float = 0.5, draws: int = 256
) -> float:
    """The strength tau of T = tau / sigma at which half of a neighborhood holds the score at noise level `sigma`.

    `sigma` is meant to be `collapse_sigma`, where hardly more than one point does. Found by bisection on the
    effective sample size over mu and its K neighbors, with training data alone.
    """
    generator = Generator().manual_seed(0)
    chosen = torch.randint(len(points), (draws,), generator=generator)
    x = points[chosen] + sigma * torch.randn(draws, points.shape[1], generator=generator)
    group = torch.cat([chosen[:, None], table.index[chosen]], 1)
    level = torch.full((draws,), float(sigma))
    target = max(1.5, share * group.shape[1])
    low, high = 1.0, 1e4
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        posterior = noise_conditional(x, points, level, index=group, temperature=middle)
        low, high = (low, middle) if float(effective_sample_size(posterior).mean()) > target else (middle, high)
    return (low * high) ** 0.5 * sigma


class Width(NamedTuple):
    """A tangent width and the curve it was chosen on: mean log-likelihood of left-out points, nats."""

    h: float
    candidates: tuple[float, ...]
    likelihood: tuple[float, ...]


def suggest_h(
    points: Float[Tensor, "n d"],
    k: int,
    *,
    candidates: Sequence[float] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5),
    folds: int = 5,
    limit: int = 600,
) -> Width:
    """The tangent width under which left-out training points are most likely; held-out data plays no part.

    Each fold's points are scored by the tangent mixture of the others, at the noise level that suits that width best
    (eight levels around the median nearest distance per dimension). Data beyond `limit` points is subsampled, which
    widens the distances a little. Cost: folds * candidates * 8 evaluations of `limit` rows.
    """
    generator = Generator().manual_seed(0)
    order = torch.randperm(len(points), generator=generator)[:limit]
    sample = points[order]
    folds = min(folds, len(sample))
    if len(sample) - -(-len(sample) // folds) <= k:
        raise ValueError(f"k={k} is too large to leave points out of {len(sample)}")
    scale = float(nearest(sample, sample, 2).distance[:, 1].median()) / points.shape[1] ** 0.5
    levels = [scale * 2 ** (i / 3) for i in range(-5, 3)]
    total = torch.zeros(len(candidates), len(levels), dtype=torch.float64)
    for fold in range(folds):
        left = torch.zeros(len(sample), dtype=torch.bool)
        left[fold::folds] = True
        rest = sample[~left]
        table = neighbors(rest, k)
        for i, h in enumerate(candidates):
            model = Tangent(rest, table, h)
            for j, level in enumerate(levels):
                total[i, j] += model.log_density(sample[left], torch.full((int(left.sum()),), level)).sum()
    best = (total / len(sample)).amax(1)
    return Width(float(candidates[int(best.argmax())]), tuple(candidates), tuple(best.tolist()))
