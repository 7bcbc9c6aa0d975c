"""Is the generated set any good? Whole-set distances, and fidelity and variety by neighborhoods."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.distance import neighbors, squared
from temperance.metrics.interval import Z, around, jackknife, left_out, share, student
from temperance.report import Measurement

ROWS = 2048  # rows of a block where all pairs of two sets are visited: 32 MB of float64 distances
BLOCK = 2_000_000  # numbers that are added to a covariance at a time: a factorisation holds them twice, in float64
SAME = 1e-9  # of the variance: a Frechet distance below it is rounding
CHEAP = 1e9  # flops below which a statistic may be recomputed ten times for its interval


class Quality(NamedTuple):
    """Fidelity (precision, density) and variety (recall, coverage) of one set against another."""

    precision: Measurement
    recall: Measurement
    density: Measurement
    coverage: Measurement


def frechet_distance(x: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], *, interval: bool = True) -> Measurement:
    """Squared Frechet distance of two Gaussians fitted to the sets. Lower is better; copies score well.

    |mean difference|^2 + tr(A) + tr(B) - 2 tr((A B)^1/2). With A = R^T R from a QR factorisation, the last
    trace is the sum of the singular values of R_x R_ref^T: no covariance is squared, and f > n needs no
    special case. Comparable only at equal n and one encoder; it is FID only in Inception features. Source:
    Dowson & Landau 1982; Heusel et al. 2017 (arXiv 1706.08500). Interval: ten-fold jackknife over both sets,
    where that is cheap; the bias of small sets is no part of it. Cost: 2 (n + m) f^2 flops in float64, in blocks.

    Raises:
        ValueError: if a set has fewer than 2 rows or the widths differ.
    """
    value = _between(x, reference)
    low = high = None
    if interval and _cheap(x, reference):
        low, high = jackknife(_between, (x, reference), value)
        low = max(0.0, low)
    return Measurement("frechet_distance", value, low, high, len(x), False, "Heusel 2017", None)


def fd_ratio(
    x: Float[Tensor, "n f"],
    train: Float[Tensor, "m f"],
    heldout: Float[Tensor, "k f"],
    distances: tuple[Measurement, Measurement] | None = None,
) -> Measurement | None:
    """Frechet distance to train over Frechet distance to held-out. 1: the set leans to neither; below 1: to train.

    The references should be of equal size, since a Frechet distance depends on it. None where the distance to
    held-out is 0 but for rounding. Interval: ten-fold jackknife over all three sets, where that is cheap.

    Args:
        x: the generated rows.
        train: training rows.
        heldout: held-out rows.
        distances: the two Frechet distances, where they are known.

    Raises:
        ValueError: as `frechet_distance`.
    """
    near, far = distances or [frechet_distance(x, r, interval=False) for r in (train, heldout)]
    if far.value <= SAME * float(heldout.double().var(0).sum()):
        return None
    value, low, high = near.value / far.value, None, None
    if _cheap(x, train, heldout):
        (own_near, other_near), (own_far, other_far) = (
            [left_out(_between, (x, of), at) for at in (0, 1)] for of in (train, heldout)
        )
        parts = own_near / own_far.clamp(min=1e-300), other_near / far.value, near.value / other_far.clamp(min=1e-300)
        low, high = around(value, parts)
        low = max(0.0, low)
    return Measurement("fd_ratio", value, low, high, len(x), None, "ratio of the two", 1.0)


def _cheap(*sets: Tensor) -> bool:
    """Whether Frechet distances of these sets may be recomputed ten times a set, and folds of them hold two rows."""
    width = sets[0].shape[1]
    return min(map(len, sets)) >= 20 and (max(map(len, sets)) + width) * width**2 < CHEAP


def _moments(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The mean, and an R of at most n and at most f rows with R^T R = covariance, in float64.

    Centered rows are one where they are no more than their numbers; else it comes by streaming QR of b rows at a time,
    2 n f^2 (1 + f / b) flops.
    """
    if len(x) < 2:
        raise ValueError(f"{name} holds {len(x)} image; a Frechet distance needs at least 2")
    rows = max(256, min(ROWS, BLOCK // x.shape[1]))
    mean = torch.stack([part.double().sum(0) for part in x.split(rows)]).sum(0) / len(x)
    if len(x) <= x.shape[1]:
        return mean, (x.double() - mean) / math.sqrt(len(x) - 1)
    width, held = x.shape[1], 0
    stack = torch.empty(width + rows, width, dtype=torch.float64, device=x.device)  # R so far, and the next rows
    for part in x.split(rows):
        filled = held + len(part)
        torch.sub(part, mean, out=stack[held:filled])
        held = min(width, filled)  # fewer rows than columns stay as few
        # geqrf holds one copy of the stack, qr two.
        stack[:held] = torch.geqrf(stack[:filled])[0][:held].triu()
    return mean, stack[:held] / math.sqrt(len(x) - 1)


def _between(x: Tensor, reference: Tensor) -> float:
    return _frechet(_moments(x, "generated"), _moments(reference, "reference"))


def _frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    if a[0].shape != b[0].shape:
        raise ValueError(f"generated and reference features differ in width: {len(a[0])} and {len(b[0])}")
    alone = (a[0] - b[0]).square().sum() + a[1].square().sum() + b[1].square().sum()
    value = alone - 2 * torch.linalg.svdvals(a[1] @ b[1].T).sum()
    return max(0.0, float(value))


def kid(
    x: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], *, block: int = 1000, interval: bool = True
) -> Measurement:
    """Unbiased squared MMD with the kernel (x.y / f + 1)^3. Lower is better; near 0, and may be below, if equal.

    Exact up to `block` rows; larger sets are shuffled, always in the same way, and cut into blocks whose estimates are
    averaged (unbiased, linear cost). Interval: from the spread of the blocks (Student's t), or a ten-fold jackknife
    over both sets if there is one. Source: Binkowski et al. 2018 (arXiv 1801.01401), eq. 4.

    Raises:
        ValueError: if a set has fewer than 2 rows.
    """
    if min(len(x), len(reference)) < 2:
        raise ValueError(f"kid needs 2 rows in each set, got {len(x)} and {len(reference)}")
    parts = math.ceil(max(len(x), len(reference)) / block)
    parts = min(parts, len(x) // 2, len(reference) // 2)
    # Shuffled: sets come sorted by class, and blocks would hold some classes each.
    blocks = [_shuffled(v).tensor_split(parts) if parts > 1 else (v,) for v in (x, reference)]
    values = [_mmd(a, b) for a, b in zip(*blocks)]
    value = sum(values) / parts
    low = high = None
    if interval and parts > 1:
        margin = student(parts - 1) * float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(parts)
        low, high = value - margin, value + margin
    elif interval and min(len(x), len(reference)) >= 20:
        low, high = jackknife(_mmd, (x, reference), value)
    return Measurement("kid", value, low, high, len(x), False, "Binkowski 2018, arXiv 1801.01401", None)


def _shuffled(x: Tensor) -> Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)]


def _mmd(x: Tensor, y: Tensor) -> float:
    a, b, f = x.double(), y.double(), x.shape[1]
    n, m = len(a), len(b)
    within = [((v @ v.T) / f + 1) ** 3 for v in (a, b)]
    same = [(k.sum() - k.trace()) / (c * (c - 1)) for k, c in zip(within, (n, m))]
    return float(same[0] + same[1] - 2 * (((a @ b.T) / f + 1) ** 3).mean())


def quality(x: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], *, k: int | None = None) -> Quality:
    """Precision, recall, density and coverage, from one pass over all pairs in float64.

    A ball around each point reaches to its k-th neighbor within its own set. Precision: share of `x` inside
    a ball of the reference; recall: share of the reference inside a ball of `x` (Kynkaanniemi et al. 2019,
    arXiv 1904.06991, k = 3). Density: mean number of reference balls around a point of `x`, over k;
    coverage: share of reference balls that hold a point of `x` (Naeem et al. 2020, arXiv 2002.09797, k =
    5). Borders belong to the ball, so identical sets have coverage 1. All are higher-is-better, density has
    no upper limit. Wilson intervals; density: normal.

    As in the sources, a row that comes more than k times has a ball of radius 0, and covers what equals it: repeated
    samples lower recall, repeated reference rows precision, density and coverage.

    Args:
        x: generated rows.
        reference: real rows, of about the same number: all four figures change with the set sizes.
        k: one number for all four; by default those of the sources.

    Raises:
        ValueError: if a set has no more than k rows.
    """
    k_pr, k_dc = k or 3, k or 5
    for name, rows in (("generated", x), ("reference", reference)):
        if len(rows) <= max(k_pr, k_dc):
            raise ValueError(
                f"{name} holds {len(rows)} images; k={max(k_pr, k_dc)} needs at least {max(k_pr, k_dc) + 1}"
            )
    own = neighbors(reference, max(k_pr, k_dc)).distance
    slack = 1e-12 * float(reference.double().var(0).sum()) if len(reference) > 1 else 0.0
    wide, narrow = (_reach(own[:, c - 1], slack) for c in (k_pr, k_dc))
    reach_x = _reach(neighbors(x, k_pr).distance[:, -1], slack)
    precise, inside = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x))
    recalled, covered = torch.zeros(2, len(reference), dtype=torch.bool)
    for i in range(0, len(x), ROWS):
        for j in range(0, len(reference), ROWS):
            a, b = slice(i, i + ROWS), slice(j, j + ROWS)
            d2 = squared(x[a], reference[b])
            precise[a] |= (d2 <= wide[b]).any(1)
            inside[a] += (d2 <= narrow[b]).sum(1)
            covered[b] |= (d2 <= narrow[b]).any(0)
            recalled[b] |= (d2 <= reach_x[a, None]).any(0)
    density = inside.double() / k_dc
    margin = Z * float(density.std()) / math.sqrt(len(x))
    mean = float(density.mean())
    return Quality(
        _proportion("precision", precise, "Kynkaanniemi 2019, arXiv 1904.06991"),
        _proportion("recall", recalled, "Kynkaanniemi 2019, arXiv 1904.06991"),
        Measurement("density", mean, max(0.0, mean - margin), mean + margin, len(x), True, "Naeem 2020", None),
        _proportion("coverage", covered, "Naeem 2020, arXiv 2002.09797"),
    )


def _reach(radius: Tensor, slack: float) -> Tensor:
    """Squared radius, widened by the rounding of float32 radii and of the product form: a point on the
    border is in.
    """
    return radius.double().square() * (1 + 1e-6) + slack


def _proportion(name: str, hit: Tensor, source: str) -> Measurement:
    return Measurement(name, *share(int(hit.sum()), len(hit)), len(hit), True, source, None)
