"""Held-out likelihood under the generated set: sensitive at once to fidelity, variety and copying."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.distance import squared
from temperance.metrics.interval import Z
from temperance.report import Measurement

ROUNDS = 4  # of random halves
LEAST = 20  # rows of each set for a null and an interval: with a few, real data score above 0
STEPS = 50  # of the fit; the likelihood rises with every one
FLOOR, CEILING = -20.0, 20.0  # of a log variance: a center on a training point would shrink to nothing
NEAR = 1e-3  # added to the squared distance to the nearest training point, where a variance starts
PULL = 0.9  # of the distance to the mean: how far a training point is from the background


def fld(generated: Float[Tensor, "n f"], train: Float[Tensor, "m f"], heldout: Float[Tensor, "k f"]) -> Measurement:
    """Feature likelihood divergence: how badly held-out rows fit Gaussians around the generated rows. Lower is better.

    Each generated row is the center of a Gaussian whose variance is fitted to the TRAINING rows. A center that copies
    one shrinks onto it and then explains no held-out row, so copying raises the score as much as bad quality does. The
    score is -100/f mean log p(held-out rows), less the same with held-out rows as centers. Both take equally many
    centers, half of the smaller set, fitted to all training rows, and both are asked about the held-out rows that are
    no centers. So unseen real rows can change places with held-out ones, and score 0 on average, at n = 20 as at 2,000.
    The score is the mean over `ROUNDS` random halves of each set and their opposite halves, the same in every call.

    Source: Jiralerspong et al. 2023 (arXiv 2302.04440), section 3, with the background component of its authors' code.
    Their reference is one half of the training rows, fitted to the other: fewer centers and fewer rows to fit than the
    generated set has, so that real data score below 0. The fit is expectation maximization of the same likelihood, so
    nothing depends on a step size or an order. Features are standardized by the training and held-out rows together;
    constant ones are left out. Interval: the variance of the mean over held-out rows plus that over halves (normal;
    what depends on both counts twice, so it is conservative). Where a set has fewer than `LEAST` rows, real
    data do not score 0, because held-out rows take part in the standardization: no null and no interval.

    Raises:
        ValueError: for fewer than 2 generated, 4 training or 4 held-out rows, or if all training rows or all held-out
            rows are the same.

    Cost: 50 passes over a half x m matrix, 4 * ROUNDS times; 2,000 rows of each take about 15 s on one core.
    """
    if len(generated) < 2 or len(train) < 4 or len(heldout) < 4:
        sizes = f"{len(generated)}, {len(train)} and {len(heldout)}"
        raise ValueError(f"fld needs 2 generated, 4 training and 4 held-out rows, got {sizes}")
    gaps = _gaps(*_standardized(generated, train, heldout))
    rows, halves = gaps.nanmean(0), gaps.nanmean(1)
    opposed = (halves[0::2] - halves[1::2]) / 2
    value, margin = float(halves.mean()), Z * math.sqrt(float(rows.var() / len(rows) + opposed.square().mean()))
    shown = min(len(generated), len(train), len(heldout)) >= LEAST
    low, high, null = (value - margin, value + margin, 0.0) if shown else (None, None, None)
    source = "Jiralerspong 2023, arXiv 2302.04440; held-out rows as reference"
    return Measurement("fld", value, low, high, len(generated), False, source, null)


def _standardized(generated: Tensor, train: Tensor, heldout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    real = torch.cat([train, heldout]).double()  # the training rows' own spread leaves wild held-out rows
    mean, std = real.mean(0), real.std(0)
    del real  # of a size with the three below
    keep = std > 1e-9 * std.max()
    a, b, c = ((v.double()[:, keep] - mean[keep]) / std[keep] for v in (generated, train, heldout))
    if any(bool((v == v[0]).all()) for v in (b, c)):
        raise ValueError("every feature is constant over the training or the held-out rows; give images that differ")
    return a, b, c


def _gaps(a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "splits k"]:
    """100/f times the log density of held-out rows around their own kind, less that around generated rows.

    One row a split, NaN for the held-out rows that are centers in it. Splits 2i and 2i + 1 take opposite halves.
    Columns are held-out rows.
    """
    half = min(len(a), len(c)) // 2
    draw = torch.Generator().manual_seed(0)
    line = torch.randn(c.shape[1], generator=draw, dtype=torch.float64)
    orders = [(v @ line).argsort() for v in (a, c)]  # so that the halves do not depend on the order given
    gaps = torch.full((2 * ROUNDS, len(c)), math.nan, dtype=torch.float64)
    for i in range(0, 2 * ROUNDS, 2):
        x, y = (order[torch.randperm(len(order), generator=draw)] for order in orders)
        for gap, p, q in ((gaps[i], x, y), (gaps[i + 1], x.flip(0), y.flip(0))):
            asked = q[half:]
            own, other = (_log_density(c[asked], v, _fit(v, b)) for v in (c[q[:half]], a[p[:half]]))
            gap[asked] = (own - other) * 100 / c.shape[1]
    return gaps


def _fit(centers: Tensor, data: Tensor) -> Tensor:
    """Log variance of every center, fitted to the data by expectation maximization."""
    f = data.shape[1]
    background = PULL**2 * (data - data.mean(0)).square().sum(1, keepdim=True)
    d2 = squared(data, centers)
    least = d2.min(0).values
    d2 = torch.cat([d2, background], 1)
    weight = torch.full((d2.shape[1],), -math.log(len(centers)), dtype=torch.float64)
    weight[-1] = 0.0
    log_variance = torch.cat([((least + NEAR) / f).log(), torch.zeros(1, dtype=torch.float64)])
    for _ in range(STEPS):
        share = (d2 * (-0.5 * (-log_variance).exp())).add_(weight - 0.5 * f * log_variance).softmax(1)
        total = share.sum(0)
        moved = (share.mul_(d2).sum(0) / (f * total).clamp(min=1e-300)).log().clamp(FLOOR, CEILING)
        log_variance = torch.where(total > 1e-12, moved, log_variance)
    return log_variance[:-1]


def _log_density(x: Tensor, centers: Tensor, log_variance: Tensor) -> Tensor:
    f = x.shape[1]
    d2 = squared(x, centers)
    inside = -0.5 * (d2 * (-log_variance).exp() + f * (log_variance + math.log(2 * math.pi)))
    return inside.logsumexp(1) - math.log(len(centers))
