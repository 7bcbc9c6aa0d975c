"""Numbers about sets of images: are the generated ones copies of the training set, and are they any good?

Every function works on feature rows [n, f] (pixels are features too) and returns a `Measurement`: the
value, a 95 % interval, its direction, its source, and its null, which is the same figure for real data that
the model never saw. A number about copying means nothing without that null: some data sets resemble
themselves.

Distances are exact and evaluated in blocks; no [n, n] matrix is ever held.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from temperance.distance import Neighbors, direct, nearest, neighbors, squared
from temperance.distance import duplicates as chained_duplicates
from temperance.report import Measurement

Z = 1.959963984540054  # two-sided 95 % of the normal distribution
QUERIES, POINTS = 4096, 8192  # rows and training points that are in memory at a time
ROWS = 2048  # rows of a block where all pairs of two sets are visited: 32 MB of float64 distances
CHEAP = 1e9  # flops below which a statistic may be recomputed ten times for its interval


class Proximity(NamedTuple):
    """How close each row is to the training set: the nearest point, and the nearest that is not its
    duplicate.
    """

    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride]
    distance: Float[Tensor, " n"]
    second: Float[Tensor, " n"]

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """d1 / d2 in [0, 1]: near 0 for a copy of one training image, near 1 where several are equally
        near.
        """
        return self.distance / self.second


class Quality(NamedTuple):
    """Fidelity (precision, density) and variety (recall, coverage) of one set against another."""

    precision: Measurement
    recall: Measurement
    density: Measurement
    coverage: Measurement


@runtime_checkable
class Rows(Protocol):
    """Feature rows that may be made on demand: a tensor is one, and so are images encoded block by block."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return the rows of a slice, or of an index tensor, as [n, f]."""
        ...


def duplicate_groups(points: Rows, radius: float = 0.0) -> Int[Tensor, " n"]:
    """A group number for every point: equal rows, or chains of rows within `radius`, share one.

    Cost: one pass over the bytes at radius 0, a neighbor table otherwise.
    """
    if radius > 0:
        return chained_duplicates(points[:], radius)
    first: dict[bytes, int] = {}
    group = []
    for start in range(0, len(points), ROWS):
        for row in (points[start : start + ROWS].cpu() + 0.0).numpy():  # + 0.0: -0 equals 0
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            group.append(first.setdefault(digest, len(group)))
    return torch.tensor(group, dtype=torch.long)


def proximity(
    x: Rows, train: Rows, group: Int[Tensor, " m"] | None = None, *, progress: str | None = None
) -> Proximity:
    """Distance of every row to its nearest training point and to the nearest one of another duplicate group.

    Without groups, two equal training points would give d1 = d2 and hide every copy of them.

    Args:
        x: rows to look up, [n, f].
        train: the training set, [m, f].
        group: duplicate group of each training point; by default equal rows.
        progress: what to call the work on a progress bar on stderr; None shows none.

    Raises:
        ValueError: if all training points are duplicates of each other.

    Cost: 2 n m f flops; blocks of at most 8,192 points and 4,096 rows are in memory at a time.
    """
    group = duplicate_groups(train) if group is None else group
    if len(group.unique()) < 2:
        raise ValueError(f"train holds 1 distinct image among {len(train)}; d1/d2 needs 2 distinct ones")
    starts = range(0, len(x), QUERIES)
    parts = [_proximity(x[s : s + QUERIES], train, group) for s in _bar(starts, progress, show=len(x) * len(train))]
    if not parts:
        raise ValueError("there are no images to compare with the training set")
    return Proximity(*(torch.cat(column) for column in zip(*parts)))


def _proximity(x: Tensor, train: Rows, group: Tensor) -> Proximity:
    found = nearest_rows(x, train, 2)
    index, distance, second = found.index[:, 0], found.distance[:, 0], found.distance[:, 1].clone()
    todo = (group[found.index[:, 1]] == group[index]).nonzero()[:, 0]
    k = 2
    while len(todo):
        k = min(2 * k, len(train))
        wider = nearest_rows(x[todo], train, k)
        other = group[wider.index] != group[index[todo], None]
        column = other.int().argmax(1, keepdim=True)
        solved = other.any(1)
        second[todo[solved]] = wider.distance.gather(1, column)[solved, 0]
        todo = todo[~solved]
    return Proximity(index, distance, second)


def nearest_rows(x: Float[Tensor, "n f"], train: Rows, k: int) -> Neighbors:
    """The `k` nearest training points of each row, exactly, from one block of training points at a time."""
    index, distance = torch.empty(len(x), 0, dtype=torch.long), torch.empty(len(x), 0)
    for start in range(0, len(train), POINTS):
        block = train[start : start + POINTS]
        found = nearest(x, block, min(k, len(block)))
        index = torch.cat([index, found.index.cpu() + start], 1)
        distance = torch.cat([distance, found.distance.cpu()], 1)
        order = distance.argsort(dim=1, stable=True)[:, :k]  # earlier blocks come first: ties go to the lower index
        index, distance = index.gather(1, order), distance.gather(1, order)
    return Neighbors(index, distance)


def _bar(starts: range, label: str | None, show: int) -> Iterable[int]:
    """The steps, with a progress bar on stderr if they are named and long enough to be worth one."""
    if label is None or show < 1e7:
        return starts
    from tqdm import tqdm

    return tqdm(starts, desc=label, unit="block", file=sys.stderr)


# ---- copying ----


def memorized_fraction(
    generated: Proximity, heldout: Proximity | None = None, *, threshold: float = 1 / 3
) -> Measurement:
    """Share of images with d1/d2 below 1/3: copies of one training image. Lower is better; Wilson interval.

    Source: Yoon et al. 2023 (openreview shciCbSk9h), Gu et al. 2023 (arXiv 2310.02664). Blind to copies of
    an image that has near-duplicates in the training set; pass their groups to `proximity`.
    """
    hits = int((generated.ratio < threshold).sum())
    value, low, high = _share(hits, len(generated.index))
    null = None if heldout is None else memorized_fraction(heldout, threshold=threshold).value
    return Measurement("memorized_fraction", value, low, high, len(generated.index), False, "Yoon 2023; Gu 2023", null)


def ratio_median(generated: Proximity, heldout: Proximity | None = None) -> Measurement:
    """Median of d1/d2. It should equal its null; far below means that images lean on single training images.

    Interval: order statistics at n/2 -+ 1.96 sqrt(n)/2 (distribution-free).
    """
    ratio = generated.ratio.double().sort().values
    n, half = len(ratio), Z * math.sqrt(len(ratio)) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    null = None if heldout is None else ratio_median(heldout).value
    return Measurement(
        "ratio_median",
        float(ratio.quantile(0.5)),
        float(ratio[low]),
        float(ratio[high]),
        n,
        None,
        "Yoon 2023",
        null,
    )


def copy_auc(generated: Float[Tensor, " n"], heldout: Float[Tensor, " m"]) -> Measurement:
    """Chance that a generated image lies closer to the training set than an unseen real one. 0.5 is right,
    1 copies.

    Args:
        generated: distances of generated images to their nearest training image.
        heldout: the same for held-out real images.

    Ties count 1/2. Interval: Wilson's, with the sample size that gives DeLong's variance (DeLong 1988), so
    that it keeps a width at 0 and 1. Cost: O((n + m) log(n + m)).
    """
    a, b = generated.double(), heldout.double()
    wins_a, wins_b = _beats(a, b), 1 - _beats(b, a)
    value = float(wins_a.mean())
    variance = sum(float(w.var()) / len(w) if len(w) > 1 else 0.25 for w in (wins_a, wins_b))
    least = min(len(a), len(b))
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else least
    low, high = wilson(value, size)
    return Measurement("copy_auc", value, low, high, len(a), False, "Mann-Whitney; DeLong 1988", 0.5)


def _beats(a: Tensor, b: Tensor) -> Tensor:
    """For each of `a`, the share of `b` that is larger, ties 1/2."""
    order = b.sort().values
    return 1 - (torch.searchsorted(order, a) + torch.searchsorted(order, a, right=True)).double() / (2 * len(b))


def p_values(distance: Float[Tensor, " n"], heldout: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Conformal p-value of 'no closer to the training set than unseen real data': (1 + #{heldout <= d}) /
    (m + 1).

    Valid if held-out images are drawn like the training images. No value is below 1 / (m + 1).
    Source: Bates et al. 2023 (arXiv 2104.08279).
    """
    below = torch.searchsorted(heldout.double().sort().values, distance.double(), right=True)
    return (1 + below).double() / (len(heldout) + 1)


def benjamini_hochberg(p: Float[Tensor, " n"], fdr: float) -> Bool[Tensor, " n"]:
    """Which hypotheses to reject so that at most a share `fdr` of the rejections is expected to be false.

    Source: Benjamini & Hochberg 1995; holds for conformal p-values (arXiv 2104.08279, theorem 2).
    """
    order = p.sort().values
    allowed = order <= fdr * torch.arange(1, len(p) + 1, device=p.device) / len(p)
    return p <= order[allowed][-1] if bool(allowed.any()) else torch.zeros_like(p, dtype=torch.bool)


def fewest_flags(n: int, m: int, fdr: float) -> int:
    """How many of `n` images must beat all `m` held-out ones before Benjamini-Hochberg can reject any."""
    return math.ceil(round(n / (fdr * (m + 1)), 9))


def authpct(generated: Proximity, spacing: Float[Tensor, " m"], heldout: Proximity | None = None) -> Measurement:
    """Percentage of authentic images: farther from their nearest training image than its own nearest
    neighbor is.

    Args:
        generated: proximity of the generated rows.
        spacing: distance of each training point to the nearest of another duplicate group
            (`proximity(train, train).second`).
        heldout: proximity of the held-out rows, for the null.

    Higher is better, up to its null. Source: Alaa et al. 2022 (arXiv 2102.08921), section 4. Wilson interval.
    """
    hits = int((generated.distance > spacing[generated.index]).sum())
    n = len(generated.index)
    value, low, high = (100 * v for v in _share(hits, n))
    null = None if heldout is None else authpct(heldout, spacing).value
    return Measurement("authpct", value, low, high, n, True, "Alaa 2022, arXiv 2102.08921", null)


def ct_score(generated: Float[Tensor, " n"], heldout: Float[Tensor, " m"]) -> Measurement:
    """Global data-copying z-score: below about -3, generated images are closer to the training set than
    unseen ones.

    This is the test of Meehan et al. 2020 (arXiv 2004.05675) with one cell for the whole space; the source
    averages over k-means cells and can see copying in one region that this version averages out. Positive
    means farther away than unseen data. Standard normal if nothing is copied, so the interval is value -+
    1.96. Ties are corrected for.
    """
    n, m = len(generated), len(heldout)
    u = float((1 - _beats(generated.double(), heldout.double())).sum()) * m
    _, ties = torch.cat([generated, heldout]).double().unique(return_counts=True)
    t = ties.double()
    correction = float((t**3 - t).sum()) / max(1, (n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - correction)
    value = (u - n * m / 2) / math.sqrt(variance) if variance > 1e-9 * n * m else 0.0
    return Measurement("ct_score", value, value - Z, value + Z, n, None, "Meehan 2020, arXiv 2004.05675, one cell", 0.0)


def mifid(
    generated: Float[Tensor, "n f"],
    train: Rows,
    distance: Measurement,
    *,
    threshold: float = 0.2,
) -> Measurement:
    """Frechet distance divided by the memorization distance, when that lies below `threshold`. Lower is
    better.

    The memorization distance is the mean over the GENERATED images of their least cosine distance 1 - |cos|
    to any training image; averaging over training images instead, as some packages do, misses a generator
    that repeats five of them. Source: Bai et al. 2021 (arXiv 2106.03062); the threshold was set for
    Inception features there. The interval is that of the Frechet distance.
    """
    least = cosine_distance(generated, train).mean().item()
    factor = 1 / (least + 1e-15) if least < threshold else 1.0
    low, high = (None if v is None else v * factor for v in (distance.low, distance.high))
    return Measurement(
        "mifid", distance.value * factor, low, high, len(generated), False, "Bai 2021, arXiv 2106.03062", None
    )


def cosine_distance(x: Float[Tensor, "n f"], train: Rows) -> Float[Tensor, " n"]:
    """Least 1 - |cos| of each row to any training row.

    The row is found by a float32 product and weighed by the difference of unit vectors: exactly 0 for a copy.
    """
    best, out = torch.full((len(x),), -1.0), torch.ones(len(x), dtype=torch.float64)
    for start in range(0, len(train), 2 * ROWS):
        b = functional.normalize(train[start : start + 2 * ROWS].double(), dim=1)
        b32 = b.float()
        for rows in torch.arange(len(x)).split(ROWS):
            a = functional.normalize(x[rows].double(), dim=1)
            cosine = a.float() @ b32.T
            value, column = cosine.abs().max(1)
            sign = cosine.gather(1, column[:, None]).sign().double()
            chord = direct(sign * a, b, column[:, None])[:, 0]
            better = value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            out[rows] = torch.where(better, chord / 2, out[rows])
    return out


# ---- quality ----


def frechet_distance(x: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], *, interval: bool = True) -> Measurement:
    """Squared Frechet distance of two Gaussians fitted to the sets. Lower is better; copies score well.

    |mean difference|^2 + tr(A) + tr(B) - 2 tr((A B)^1/2). With A = R^T R from a QR factorisation, the last
    trace is the sum of the singular values of R_x R_ref^T: no covariance is squared, and f > n needs no
    special case. Comparable only at equal n and one encoder; it is FID only in Inception features. Source:
    Dowson & Landau 1982; Heusel et al. 2017 (arXiv 1706.08500). Interval: ten-fold jackknife over `x`,
    where that is cheap. Cost: 2 (n + m) f^2 flops in float64, in blocks.

    Raises:
        ValueError: if a set has fewer than 2 rows or the widths differ.
    """
    other = _moments(reference, "reference")
    value = _frechet(_moments(x, "generated"), other)
    low = high = None
    if interval and len(x) >= 20 and (len(x) + x.shape[1]) * x.shape[1] ** 2 < CHEAP:
        low, high = jackknife(lambda part: _frechet(_moments(part, "generated"), other), x, value)
        low = max(0.0, low)
    return Measurement("frechet_distance", value, low, high, len(x), False, "Heusel 2017", None)


def _moments(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The mean, and an upper-triangular R with R^T R = covariance, by streaming QR in float64."""
    if len(x) < 2:
        raise ValueError(f"{name} holds {len(x)} image; a Frechet distance needs at least 2")
    rows = max(ROWS, x.shape[1])
    mean = torch.stack([part.double().sum(0) for part in x.split(rows)]).sum(0) / len(x)
    factor = torch.empty(0, x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(rows):
        factor = torch.linalg.qr(torch.cat([factor, part.double() - mean]), mode="r").R
    return mean, factor / math.sqrt(len(x) - 1)


def _frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    if a[0].shape != b[0].shape:
        raise ValueError(f"generated and reference features differ in width: {len(a[0])} and {len(b[0])}")
    cross = torch.linalg.svdvals(a[1] @ b[1].T).sum()
    value = (a[0] - b[0]).square().sum() + a[1].square().sum() + b[1].square().sum() - 2 * cross
    return max(0.0, float(value))


def kid(
    x: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], *, block: int = 1000, interval: bool = True
) -> Measurement:
    """Unbiased squared MMD with the kernel (x.y / f + 1)^3. Lower is better; near 0, and may be below, if
    equal.

    Exact up to `block` rows; larger sets are cut into blocks whose estimates are averaged (unbiased, linear
    cost). Interval: from the spread of the blocks, or a ten-fold jackknife if there is one. Source:
    Binkowski et al. 2018 (arXiv 1801.01401), eq. 4.

    Raises:
        ValueError: if a set has fewer than 2 rows.
    """
    if min(len(x), len(reference)) < 2:
        raise ValueError(f"kid needs 2 rows in each set, got {len(x)} and {len(reference)}")
    parts = math.ceil(max(len(x), len(reference)) / block)
    parts = min(parts, len(x) // 2, len(reference) // 2)
    values = [_mmd(a, b) for a, b in zip(x.tensor_split(parts), reference.tensor_split(parts))]
    value = sum(values) / parts
    low = high = None
    if interval and parts > 1:
        margin = Z * float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(parts)
        low, high = value - margin, value + margin
    elif interval and len(x) >= 20:
        low, high = jackknife(lambda part: _mmd(part, reference), x, value)
    return Measurement("kid", value, low, high, len(x), False, "Binkowski 2018, arXiv 1801.01401", None)


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
    return Measurement(name, *_share(int(hit.sum()), len(hit)), len(hit), True, source, None)


# ---- shared pieces ----


def with_null(measurement: Measurement, null: Measurement | None) -> Measurement:
    """The measurement with the value of another as its null."""
    return measurement if null is None else replace(measurement, null=null.value)


def wilson(share: float, n: float | int) -> tuple[float, float]:
    """95 % score interval of a proportion observed over `n` (which may be an effective, fractional size).

    Source: Wilson 1927. Never empty: 0 of n still gives an upper end of about 3.8 / (n + 3.8).
    """
    center = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def _share(hits: int, n: int) -> tuple[float, float, float]:
    if n == 0:
        raise ValueError("a share of 0 images is not defined: the set is empty")
    return (hits / n, *wilson(hits / n, n))


def jackknife(
    statistic: Callable[[Tensor], float], x: Float[Tensor, "n f"], value: float, folds: int = 10
) -> tuple[float, float]:
    """95 % interval around `value` from leaving out every tenth row in turn (Student's t, folds - 1
    degrees).
    """
    fold = torch.arange(len(x)) % folds
    left = torch.tensor([statistic(x[fold != i]) for i in range(folds)], dtype=torch.float64)
    margin = 2.262 * float(left.std(correction=0)) * math.sqrt(folds - 1)
    return value - margin, value + margin


def subsample(x: Float[Tensor, "n f"], n: int, seed: int = 0) -> Float[Tensor, "m f"]:
    """At most `n` rows without replacement, in their order; the same rows for the same seed and length."""
    if len(x) <= n:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return x[chosen.sort().values]
