"""The method in one file: the posterior over training points, and the closed-form denoisers that are views of it.

With training points mu_1..mu_n and a noisy x, every denoiser here is a weighted mean of points. The weights are a
softmax, and how sharp it is decides whether sampling returns training points:

* `noise_conditional`: the minimizer of denoising score matching; the weights collapse onto one point at low sigma;
* `noise_unconditional`: each point finds its own noise level (arXiv 2601.19285, sec. 4), here in closed form;
* `temperature`, an argument of both: logits divided by T > 1 (sec. 5); `paper_temperature` is the literal form;
* `Tangent`: each point is spread along the local manifold, so that blends of neighbors are as likely as the point.

Rows are flat, [batch, d]; arithmetic is float64; nothing of size [batch, n, d] is ever made.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from temperance.distance import Neighbors, check_rows, direct, squared

LEVELS = 1000  # noise levels of the plain sum that replaces the closed form in one and two dimensions


class Posterior(NamedTuple):
    """p(j | x): how much each training point has to do with each noisy row.

    `sigma` is the noise std that the posterior attributes to a point, one per row when it is known. `index` names the
    points that the columns stand for; None means all of them, in order.
    """

    weights: Float[Tensor, "batch k"]
    sigma: Float[Tensor, "batch #k"]
    index: Int[Tensor, "batch k"] | None  # pyright: ignore[reportIncompatibleMethodOverride]


def noise_conditional(
    x: Float[Tensor, "batch d"],
    points: Float[Tensor, "n d"],
    sigma: Float[Tensor, " batch"],
    *,
    index: Int[Tensor, "batch k"] | None = None,
    temperature: float | Float[Tensor, " batch"] = 1.0,
) -> Posterior:
    """Weights softmax_j(-|x - mu_j|^2 / (2 sigma^2 T)): eq. 3 of arXiv 2601.19285, with a temperature per row.

    Temperature `(sigma_c / sigma)^2` is the same as evaluating at sigma_c: a floor under sigma.
    Cost: one float64 GEMM over all points, or 3 k d flops a row with `index`.
    """
    _check_positive("sigma", sigma)
    logits = -_squared(x, points, index) / (2 * sigma.double()[:, None] ** 2)
    return Posterior(_softmax(logits, temperature), sigma.double()[:, None], index)


def noise_unconditional(
    x: Float[Tensor, "batch d"],
    points: Float[Tensor, "n d"],
    sigma_min: float,
    sigma_max: float,
    *,
    index: Int[Tensor, "batch k"] | None = None,
    temperature: float | Float[Tensor, " batch"] = 1.0,
) -> Posterior:
    """Weights of p_MN, the mixture over all points and all log-uniform noise levels weighted by lambda = sigma^2.

    The integral over levels has a closed form (ours; the paper keeps the best of 1,000 levels, see `best_level`):
    w_j ~ r^-(d-2) [P(a, r^2 / 2 sigma_min^2) - P(a, r^2 / 2 sigma_max^2)], a = (d-2)/2, P the regularized lower
    incomplete gamma function; `sigma` of the result is E[sigma^-2 | j, x]^(-1/2). A temperature divides
    log w_j - log sigma_j^2 as one: tempering w_j alone would leave every training point an attractor.
    """
    _check_levels(sigma_min, sigma_max)
    log_weight, log_precision = _marginal(_squared(x, points, index), x.shape[1], sigma_min, sigma_max)
    return _temper(log_weight, log_precision, index, temperature)


def best_level(
    x: Float[Tensor, "batch d"],
    points: Float[Tensor, "n d"],
    sigma_min: float,
    sigma_max: float,
    *,
    index: Int[Tensor, "batch k"] | None = None,
    temperature: float | Float[Tensor, " batch"] = 1.0,
) -> Posterior:
    """The paper's approximation of `noise_unconditional`: only each point's most likely level sigma_j*.

    The peak of -(d-2) log sigma - r^2 / 2 sigma^2 is at r / sqrt(d-2), clipped to the levels (the paper writes
    sqrt(d)). Source: arXiv 2601.19285, sec. 4; correction ours.
    """
    _check_levels(sigma_min, sigma_max)
    log_weight, level = _peak(_squared(x, points, index), x.shape[1], sigma_min, sigma_max)
    return _temper(log_weight, -2 * level.log(), index, temperature)


def paper_temperature(
    x: Float[Tensor, "batch d"],
    points: Float[Tensor, "n d"],
    sigma_min: float,
    sigma_max: float,
    sigma_collapse: float,
    *,
    index: Int[Tensor, "batch k"] | None = None,
) -> Posterior:
    """The paper's literal smoothing: each logit f(x, mu_j, sigma_j*) divided by its own T_j = max(sigma_c/sigma_j*, 1).

    Kept to reproduce the paper. f is defined up to a constant that depends on the unit of the data, so with a
    temperature that differs from point to point the weights change when pixels go from [-1, 1] to [0, 1]; and every
    training point stays an attractor, since sigma_j* still shrinks with its distance. Use one temperature per row.
    """
    _check_levels(sigma_min, sigma_max)
    log_weight, level = _peak(_squared(x, points, index), x.shape[1], sigma_min, sigma_max)
    return Posterior((log_weight / (sigma_collapse / level).clamp(min=1)).softmax(1), level, index)


def denoise(posterior: Posterior, points: Float[Tensor, "n d"]) -> Float[Tensor, "batch d"]:
    """The point that the score pulls towards: the mean of the points under weights w_j / sigma_j^2.

    With one sigma per row this is E[mu | x]. For a noise-unconditional posterior it is E[mu | x] when all log-levels
    count alike, the minimizer of the unweighted blind denoising loss, and score = precision * (denoise - x).
    """
    return _mean(_pull(posterior)[0], points, posterior.index)


def score(posterior: Posterior, x: Float[Tensor, "batch d"], points: Float[Tensor, "n d"]) -> Float[Tensor, "batch d"]:
    """sum_j w_j (mu_j - x) / sigma_j^2: the gradient of log p for an untempered posterior over all points."""
    pull, precision = _pull(posterior)
    return ((_mean(pull, points, posterior.index).double() - x.double()) * precision).to(x.dtype)


def _pull(posterior: Posterior) -> tuple[Tensor, Tensor]:
    pull = posterior.weights / posterior.sigma**2
    precision = pull.sum(1, keepdim=True)
    return pull / precision, precision


def _mean(weights: Tensor, points: Tensor, index: Tensor | None) -> Tensor:
    table = points.double()
    if index is None:
        return (weights @ table).to(points.dtype)
    return embedding_bag(index, table, per_sample_weights=weights, mode="sum").to(points.dtype)


def _squared(x: Tensor, points: Tensor, index: Tensor | None) -> Tensor:
    if index is None:
        return squared(x, points)
    check_rows(x, points)
    if len(index) != len(x) or int(index.min()) < 0 or int(index.max()) >= len(points):
        raise ValueError(f"index must be [batch={len(x)}, k] with entries in 0..{len(points) - 1}")
    return direct(x, points, index)


def _softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    t = torch.as_tensor(temperature, dtype=torch.float64, device=logits.device)
    _check_positive("temperature", t)
    return (logits / t.reshape(-1, 1)).softmax(1)


def _temper(log_weight: Tensor, log_precision: Tensor, index: Tensor | None, temperature: float | Tensor) -> Posterior:
    pull = _softmax(log_weight + log_precision, temperature).log()
    return Posterior((pull - log_precision).softmax(1), (-log_precision / 2).exp(), index)


# The noise levels of p_MN ---------------------------------------------------------------------------------------------


def _peak(r2: Tensor, d: int, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
    level = (r2 / (d - 2)).sqrt().clamp(sigma_min, sigma_max) if d > 2 else torch.full_like(r2, sigma_max)
    return -(d - 2) * level.log() - r2 / (2 * level**2), level


def _marginal(r2: Tensor, d: int, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
    """Log w_j and log E[sigma^-2 | j, x]: the integrals of sigma^-(d-2) and sigma^-d times exp(-r^2 / 2 sigma^2).

    With u = r^2 / 2 sigma^2, the integral of sigma^-2a exp(-u) over log sigma is (r^2/2)^-a Gamma(a) dP(a) / 2;
    the factor 1/2, the same for all points, is left out.
    """
    if d <= 2:
        return _marginal_by_sum(r2, d, sigma_min, sigma_max)
    a = (d - 2) / 2
    r2 = r2.clamp(min=(1e-9 * sigma_min) ** 2)  # constant to 1e-18 below this
    half, low, high = r2 / 2, r2 / (2 * sigma_max**2), r2 / (2 * sigma_min**2)
    log_weight = math.lgamma(a) - a * half.log() + _log_gamma_mass(a, low, high)
    log_second = math.lgamma(a + 1) - (a + 1) * half.log() + _log_gamma_mass(a + 1, low, high)
    return log_weight, log_second - log_weight


def _marginal_by_sum(r2: Tensor, d: int, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
    weight = torch.full_like(r2, -math.inf)
    second = torch.full_like(r2, -math.inf)
    for log_sigma in torch.linspace(math.log(sigma_min), math.log(sigma_max), LEVELS, dtype=torch.float64).tolist():
        term = -(d - 2) * log_sigma - r2 / (2 * math.exp(2 * log_sigma))
        weight = torch.logaddexp(weight, term)
        second = torch.logaddexp(second, term - 2 * log_sigma)
    return weight, second - weight


def _log_gamma_mass(a: float, low: Tensor, high: Tensor) -> Tensor:
    """Log [P(a, high) - P(a, low)] without underflow: by lower tails left of the mode, by upper tails right of it."""
    lower = _log_difference(_log_lower(a, high), _log_lower(a, low))
    upper = _log_difference(_log_upper(a, low), _log_upper(a, high))
    return torch.where(low < a, lower, upper)


def _log_difference(big: Tensor, small: Tensor) -> Tensor:
    return big + torch.log(-torch.expm1((small - big).clamp(max=-1e-300)))


def _log_lower(a: float, u: Tensor) -> Tensor:
    """Log P(a, u). Where P underflows (u << a), its power series; it converges like (u / a)^n there."""
    value = torch.special.gammainc(torch.full_like(u, a), u)
    tiny = value < 1e-280
    if not bool(tiny.any()):
        return value.log()
    v = u[tiny]
    term, total, n = torch.ones_like(v), torch.ones_like(v), 0
    while bool((term > 1e-17 * total).any()):
        n += 1
        term = term * v / (a + n)
        total = total + term
    out = value.log()
    out[tiny] = a * v.log() - v - math.lgamma(a + 1) + total.log()
    return out


def _log_upper(a: float, u: Tensor) -> Tensor:
    """Log Q(a, u). Where Q underflows (u >> a), Legendre's continued fraction by the modified Lentz recursion."""
    value = torch.special.gammaincc(torch.full_like(u, a), u)
    tiny = value < 1e-280
    if not bool(tiny.any()):
        return value.log()
    v = u[tiny]
    b = v + 1 - a
    c, d = torch.full_like(v, 1e300), 1 / b
    fraction, n, change = d, 0, torch.full_like(v, 2.0)
    while bool(((change - 1).abs() > 1e-15).any()) and n < 100_000:
        n += 1
        numerator = -n * (n - a)
        b = b + 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        change = c * d
        fraction = fraction * change
    out = value.log()
    out[tiny] = a * v.log() - v - math.lgamma(a) + fraction.log()
    return out


# Tangent smoothing ----------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """What one pass over the points tells about each row, in float64."""

    denoised: Float[Tensor, "batch d"]
    log_density: Float[Tensor, " batch"]  # nats
    entropy: Float[Tensor, " batch"]  # of the responsibilities, nats
    peak: Float[Tensor, " batch"]  # the largest responsibility


class Tangent:
    """Denoiser of p(x) = 1/n sum_j N(x; mu_j, h^2 C_j + sigma^2 I), C_j the covariance of j's neighbors around mu_j.

    C_j = 1/K sum_k (mu_k - mu_j)(mu_k - mu_j)^T has rank K, so everything reduces to the K x K Gram matrix of the
    offsets and to products x.mu: the result is an affine combination of training points, and no [n, d, K] table is
    kept. `h` is dimensionless; h -> 0 is the empirical denoiser. Source: manifold Parzen windows (Vincent and Bengio
    2002) as a denoiser (ours).

    Cost: n (d + K^2) float64 numbers kept; per row two GEMVs over the points and 4 n K^2 flops. Rows are taken as many
    at a time as temporaries, 64 n K bytes a row, fit into `block_bytes`, but at least one.
    """

    def __init__(self, points: Float[Tensor, "n d"], neighbors: Neighbors, h: float, block_bytes: int = 256 << 20):
        if len(neighbors.index) != len(points):
            raise ValueError(f"neighbors hold {len(neighbors.index)} rows for {len(points)} points")
        if not h >= 0:
            raise ValueError(f"h must be >= 0, got {h}")
        self.index = neighbors.index
        self.mean = points.double().mean(0)
        self.points = points.double() - self.mean
        self.square = (self.points**2).sum(1)
        self.scale = h**2 / neighbors.index.shape[1]
        self.block_bytes = block_bytes
        gram, self.own = self._offsets()
        value, self.vectors = torch.linalg.eigh(gram)
        self.eigenvalues = self.scale * value.clamp(min=0)

    def _offsets(self) -> tuple[Tensor, Tensor]:
        """Inner products of each point's offsets with one another and with the point itself."""
        grams, owns = [], []
        rows = max(1, self.block_bytes // (32 * self.index.shape[1] * self.points.shape[1]))
        for points, index in zip(self.points.split(rows), self.index.split(rows)):
            offset = self.points[index] - points[:, None]
            grams.append(offset @ offset.transpose(1, 2))
            owns.append((offset @ points[:, :, None])[..., 0])
        return torch.cat(grams), torch.cat(owns)

    def _logits(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log w_j up to a constant, and the coefficients g_jk of D_j = mu_j + sum_k g_jk (mu_k - mu_j)."""
        dots = x @ self.points.T
        r2 = (x * x).sum(1, keepdim=True) - 2 * dots + self.square
        along = dots[:, self.index] - dots[..., None] - self.own  # offset_k . (x - mu_j)
        s2 = sigma[:, None, None] ** 2
        rotated = torch.einsum("bnk,nkl->bnl", along, self.vectors)
        shrunk = rotated * (self.scale / (self.eigenvalues + s2))
        quadratic = (r2 - (rotated * shrunk).sum(2)) / s2[..., 0]
        logits = -(quadratic + torch.log1p(self.eigenvalues / s2).sum(2)) / 2
        return logits, torch.einsum("bnl,nkl->bnk", shrunk, self.vectors)

    def _split(self, x: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows around the points' mean and their noise levels, in float64, as many at a time as there is room."""
        _check_positive("sigma", sigma)
        if len(sigma) != len(x):
            raise ValueError(f"sigma must hold one level for each of {len(x)} rows, got {len(sigma)}")
        rows = max(1, self.block_bytes // (64 * self.index.numel()))
        for some, level in zip(x.split(rows), sigma.split(rows)):
            yield some.double() - self.mean, level.double()

    def posterior(self, x: Float[Tensor, "batch d"], sigma: Float[Tensor, " batch"]) -> Posterior:
        """Responsibilities of the n tangent Gaussians for each row."""
        weights = torch.cat([self._logits(*part)[0].softmax(1) for part in self._split(x, sigma)])
        return Posterior(weights, sigma.double()[:, None], None)

    def log_density(self, x: Float[Tensor, "batch d"], sigma: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Log p(x) in nats; the score is its gradient."""
        return self.evaluate(x, sigma).log_density

    def __call__(self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"]) -> Tensor:
        """E[mu' | x], mu' = mu_j plus a random step along j's tangent."""
        return self.evaluate(x.flatten(1), sigma).denoised.reshape(x.shape).to(x.dtype)

    def evaluate(self, x: Float[Tensor, "batch d"], sigma: Float[Tensor, " batch"]) -> Evaluation:
        """E[mu' | x], log p(x) and how widely the points share x, in one pass.

        Raises:
            ValueError: if a sigma is not finite and > 0.
        """
        parts = [self._evaluate(*part) for part in self._split(x, sigma)]
        return Evaluation(*map(torch.cat, zip(*parts)))

    def _evaluate(self, x: Tensor, sigma: Tensor) -> Evaluation:
        logits, g = self._logits(x, sigma)
        weights = logits.softmax(1)
        coefficient = weights * (1 - g.sum(2))
        spread = (weights[..., None] * g).flatten(1)
        coefficient = coefficient.index_add(1, self.index.flatten(), spread)
        n, d = self.points.shape
        constant = d / 2 * torch.log(2 * math.pi * sigma**2) + math.log(n)
        entropy = -torch.special.xlogy(weights, weights).sum(1)
        return Evaluation(
            coefficient @ self.points + self.mean, logits.logsumexp(1) - constant, entropy, weights.amax(1)
        )


def tangent(points: Float[Tensor, "n d"], neighbors: Neighbors, h: float) -> Tangent:
    """The closed-form tangent-smoothed denoiser; see `Tangent`."""
    return Tangent(points, neighbors, h)


def _check_positive(name: str, value: Tensor) -> None:
    if not bool(((value > 0) & value.isfinite()).all()):
        raise ValueError(f"{name} must be finite and > 0, got {value.flatten()[:4].tolist()}")


def _check_levels(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
