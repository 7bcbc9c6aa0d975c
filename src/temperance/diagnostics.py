"""Numbers about a posterior: how many points it holds, and where sampling starts to collapse onto single ones."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Real
from torch import Generator, Tensor

from temperance.denoiser import Denoiser
from temperance.distance import Neighbors, distinct, duplicates, nearest
from temperance.empirical import Posterior, noise_conditional
from temperance.engine import EmpiricalDenoiser, Finder, displaced


def entropy(posterior: Posterior) -> Float[Tensor, " batch"]:
    """Shannon entropy of the weights, in nats."""
    return -torch.special.xlogy(posterior.weights, posterior.weights).sum(1)


def effective_sample_size(posterior: Posterior) -> Float[Tensor, " batch"]:
    """exp(entropy): 1 when one training point owns the score, n when all share it."""
    return entropy(posterior).exp()


def dominance(posterior: Posterior) -> Float[Tensor, " batch"]:
    """Weight of the heaviest training point, in 1/n..1."""
    return posterior.weights.amax(1)


def mean_effective_sample_size(
    points: Float[Tensor, "n d"], sigmas: Sequence[float], *, draws: int = 256, seed: int = 0
) -> list[float]:
    """Effective sample size of the empirical posterior of the distinct points, averaged over x = mu + sigma eps.

    One figure for each noise level, all from the same draws. Copies of a point are one point: an image that is there
    twice can own the score alone. Cost: 4 * draws * n * d flops a level at most, streamed by the engine; no copy of
    the points.
    """
    crowd = _Crowd(points, draws, seed)
    return [crowd.size(sigma) for sigma in sigmas]


class _Crowd:
    """The same draws mu and eps at every noise level, and an engine prepared once."""

    def __init__(self, points: Real[Tensor, "n d"], draws: int, seed: int):
        generator = Generator().manual_seed(seed)
        points = distinct(points if points.is_floating_point() else points.float())
        self.denoiser = EmpiricalDenoiser(points)
        self.mu = points[torch.randint(len(points), (draws,), generator=generator)]
        self.noise = torch.randn(self.mu.shape, generator=generator).to(self.mu)

    def size(self, sigma: float) -> float:
        level = torch.full((len(self.mu),), float(sigma), device=self.mu.device)
        _, stats = self.denoiser.evaluate(self.mu + sigma * self.noise, level)
        return float(stats.effective_sample_size.mean())


def collapse_sigma(
    points: Real[Tensor, "n d"],
    *,
    size: float = 1.5,
    draws: int = 256,
    seed: int = 0,
    tolerance: float = 0.01,
) -> float:
    """The noise level below which single points own the score: where the mean effective sample size is `size`.

    Copies of a point count as one. Found by bisection in log sigma to the relative `tolerance`, with the same draws at
    every level. Cost: about 11 evaluations of `draws` rows by the engine.

    Raises:
        ValueError: if all points are the same, or `size` is not between 1 and the number of different ones.
    """
    n = int(duplicates(points).unique().numel())
    if n < 2:
        raise ValueError("all points are the same: there is no noise level at which they separate")
    if not 1 < size < n:
        raise ValueError(f"size must lie between 1 and the {n} different points, got {size:g}")
    crowd = _Crowd(points, draws, seed)
    spread = float((2 * crowd.denoiser.table.half.sum() / (n - 1)).sqrt())
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
    their difference, by so little that their odds change by a third at most: a larger shift would cross the boundary
    and hide its steepness. The result is |y' - x'| / |y - x|, for a collapsed model of points at distance r about
    (1 - ratio) r^2 / (4 sigma^2); smooth models have 1 to 2. Copies of a point count as one. In the type of the points:
    far below sigma_collapse float32 is off by some percent. Source: arXiv 2601.19285, sec. 3.
    """
    flat = distinct(points.flatten(1))
    found = nearest(flat[:draws], flat, 2)
    a, b = flat[:draws], flat[found.index[:, 1]]
    share = (0.3 * sigma**2 / (b - a).square().sum(1, keepdim=True)).clamp(max=1e-3)
    shift = share * (b - a)
    generator = Generator().manual_seed(0)
    x = (a + b) / 2 + sigma * torch.randn(a.shape, generator=generator).to(a)
    x = x - (b - a) * (((x - (a + b) / 2) * (b - a)).sum(1) / (b - a).square().sum(1).clamp(min=1e-12))[:, None]
    level = torch.full((len(x),), float(sigma)).to(x)

    def step(v: Tensor) -> Tensor:
        denoised = denoiser(v.reshape(-1, *points.shape[1:]), level).flatten(1)
        return denoised + ratio * (v - denoised)

    return (step(x + shift) - step(x)).norm(dim=1) / shift.norm(dim=1).clamp(min=1e-12)


FLAT = 1e16  # a temperature at which weights are as good as equal at any noise level


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

    def size(temperature: float) -> float:
        posterior = noise_conditional(x, points, level, index=group, temperature=temperature)
        return float(effective_sample_size(posterior).mean())

    low, high = 1.0, 1e4
    while size(high) <= target and high < FLAT:
        high *= 1e2
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if size(middle) > target else (middle, high)
    return (low * high) ** 0.5 * sigma


CROWDED = 0.2  # of the distance to the tenth neighbor: nearer ones are another picture of the same thing


def near_duplicates(table: Neighbors) -> Bool[Tensor, " n"]:
    """Which points have another one that is five times nearer than their last neighbor in the table.

    Among distinct points only burst images, re-saved files and the like are: of digits, MNIST and Fashion-MNIST at most
    2 in 100. Next to them an automatic width comes out far too small, and d1/d2 cannot see a copy. None where the table
    has fewer than 5 neighbors, which tell nothing.
    """
    distance = table.distance
    if distance.shape[1] < 5:
        return torch.zeros(len(distance), dtype=torch.bool)
    return distance[:, 0] < CROWDED * distance[:, -1]


def near_duplicate_share(points: Float[Tensor, "n d"], *, draws: int = 1000) -> float:
    """The share of `near_duplicates` among the distinct points, from this many of them. Cost: 2 n d flops each."""
    once = distinct(points)
    if len(once) < 6:
        return 0.0
    row = torch.randperm(len(once), generator=Generator().manual_seed(0))[:draws]
    table = Finder(once)(once[row], min(10, len(once) - 1), row)
    return float(near_duplicates(table).float().mean())


def suggest_k(n: int) -> int:
    """The number of neighbors for a set, or a class, of n images: 10, or all others where there are fewer.

    What k changes, `suggest_h` mostly changes back: at widths that keep the same distance to the training images, 10
    and 20 neighbors give closed forms of about the same quality (LOG.md, 2026-11-25).
    """
    return min(10, n - 1)


PIXELS = (-1.0, 1.0)  # the range that samples are cut to
WHEN_CUT = {"halved": 0.75, "matched": 0.5}  # how often displaced images are the nearer ones once they are cut to it


class Width(NamedTuple):
    """A tangent width and the curve it was read from: how often a displaced image is the nearer one, at each width."""

    h: float
    candidates: tuple[float, ...]
    nearer: tuple[float, ...]

    def at(self, share: float) -> float:
        """The width at which displaced images are the nearer ones this often; the widest one if they always are."""
        return _crossing(self.candidates, self.nearer, share)


def suggest_h(
    points: Float[Tensor, "n d"],
    table: Neighbors,
    *,
    span: tuple[float, float] | None = None,
    candidates: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0),
    draws: int = 1000,
) -> Width:
    """The tangent width at which displaced images lie as far from the training images as unseen ones do.

    h solves P(min_j |mu'_h - mu_j| < min_{j != i} |mu_i - mu_j|) = 1/2: a displaced image mu'_h against a training
    image mu_i that stands in for an unseen one, since the others never saw it. Copies of mu_i do not count as others.
    With `span`, displaced images are cut to it first, as pixels of samples are to their range: what is pushed out of it
    had kept them apart, so that this takes a larger width.
    Read linearly between candidates; the largest one, if displaced images stay nearer even there. Held-out data plays
    no part. `table`: the neighbors that displace. Cost: 2 n d flops for each of `draws` rows and candidate.

    Raises:
        ValueError: if fewer than two points differ.
    """
    others = distinct(points)
    if len(others) < 2:
        raise ValueError("all points are the same: there is no distance to keep from them")
    generator = Generator().manual_seed(0)
    find = Finder(others)
    left_out = torch.randperm(len(others), generator=generator)[:draws]
    unseen = find(others[left_out], 1, left_out).distance[:, 0].double().sort().values
    row = (torch.randperm(len(points), generator=generator)[:draws]).repeat(-(-draws // len(points)))[:draws]
    z = torch.randn(draws, table.index.shape[1], generator=generator).to(points) / table.index.shape[1] ** 0.5
    nearer = []
    for h in candidates:
        moved = displaced(points[row], points, table.index[row], h * z)
        distance = find(moved if span is None else moved.clamp(*span), 1).distance[:, 0].double()
        above = len(unseen) - torch.searchsorted(unseen, distance, right=True)
        equal = len(unseen) - torch.searchsorted(unseen, distance) - above
        nearer.append(float((above + equal / 2).mean() / len(unseen)))
    return Width(_crossing(candidates, nearer, 0.5), tuple(candidates), tuple(nearer))


def _crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where a falling curve first reaches `level`, linearly between its points; its last point if it never does."""
    if y[0] <= level:
        return x[0]
    for i in range(1, len(x)):
        if y[i] <= level < y[i - 1]:
            return x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - level) / (y[i - 1] - y[i])
    return x[-1]
