"""Held-out likelihood under the generated set: sensitive at once to fidelity, variety and copying."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.distance import squared
from temperance.metrics.interval import Z
from temperance.report import Measurement

STEPS = 50  # of the fit; the likelihood rises with every one
FLOOR, CEILING = -20.0, 20.0  # of a log variance: a center on a training point would shrink to nothing
NEAR = 1e-3  # added to the squared distance to the nearest training point, where a variance starts
PULL = 0.9  # of the distance to the mean: how far a training point is from the background


def fld(generated: Float[Tensor, "n f"], train: Float[Tensor, "m f"], heldout: Float[Tensor, "k f"]) -> Measurement:
    """Feature likelihood divergence: how badly held-out rows fit Gaussians around the generated rows. Lower is better.

    Each generated row is the center of a Gaussian whose variance is fitted to the TRAINING rows. A center that copies
    one shrinks onto it and then explains no held-out row, so copying raises the score as much as bad quality does. The
    score is -100/f mean log p(heldout), less that of real data: Gaussians around one half of the training rows,
    fitted to the other half. 0 is real data's own score.

    Source: Jiralerspong et al. 2023 (arXiv 2302.04440), section 3, with the background component of its authors'
    code. The fit is expectation maximization of the same likelihood, so nothing depends on a step size or an order.
    Features are standardized by the held-out rows; constant ones are left out. Interval: of the mean over held-out
    rows at the fit found (normal).

    Raises:
        ValueError: if train has fewer than 4 rows, or every feature is constant over the held-out rows.

    Cost: 50 passes over an n x m matrix; 2,000 rows of each take about 10 s on one core.
    """
    if len(train) < 4 or len(heldout) < 2:
        raise ValueError(f"fld needs 4 training and 2 held-out rows, got {len(train)} and {len(heldout)}")
    a, b, c = _standardized(generated, train, heldout)
    half = min(len(a), len(b) // 2)
    order = torch.randperm(len(b), generator=torch.Generator().manual_seed(0))
    own, rest = b[order[:half]], b[order[half:]]
    loss = -_log_density(c, a, _fit(a, b)) * 100 / c.shape[1]
    base = -_log_density(c, own, _fit(own, rest)) * 100 / c.shape[1]
    gap = loss - base
    value, margin = float(gap.mean()), Z * float(gap.std()) / math.sqrt(len(gap))
    source = "Jiralerspong 2023, arXiv 2302.04440"
    return Measurement("fld", value, value - margin, value + margin, len(a), False, source, 0.0)


def _standardized(*sets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heldout = sets[-1].double()
    mean, std = heldout.mean(0), heldout.std(0)
    keep = std > 1e-9 * std.max()
    if not bool(keep.any()):
        raise ValueError("every feature is constant over the held-out rows; give held-out images that differ")
    a, b, c = ((v.double()[:, keep] - mean[keep]) / std[keep] for v in sets)
    return a, b, c


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
        share = (weight - 0.5 * (d2 * (-log_variance).exp() + f * log_variance)).softmax(1)
        total = share.sum(0)
        moved = ((share * d2).sum(0) / (f * total).clamp(min=1e-300)).log().clamp(FLOOR, CEILING)
        log_variance = torch.where(total > 1e-12, moved, log_variance)
    return log_variance[:-1]


def _log_density(x: Tensor, centers: Tensor, log_variance: Tensor) -> Tensor:
    f = x.shape[1]
    d2 = squared(x, centers)
    inside = -0.5 * (d2 * (-log_variance).exp() + f * (log_variance + math.log(2 * math.pi)))
    return inside.logsumexp(1) - math.log(len(centers))
