"""Is the generated set a copy of the training set? Each figure stands beside the same one for unseen real images."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from temperance.distance import Rows, direct
from temperance.metrics.fidelity import SAME
from temperance.metrics.interval import Z, share, student, wilson
from temperance.metrics.nearest import Proximity
from temperance.report import COPY_RATIO, Measurement

EVEN = 0.5  # copy AUC of samples that lie as near to the training set as unseen images do
BLOCK = 1024  # rows of unit vectors at a time, held in float64 several times over


def memorized_fraction(
    generated: Proximity, heldout: Proximity | None = None, *, threshold: float = COPY_RATIO
) -> Measurement:
    """Share of images with d1/d2 below 1/3: copies of one training image. Lower is better; Wilson interval.

    Source: Yoon et al. 2023 (openreview shciCbSk9h), Gu et al. 2023 (arXiv 2310.02664). Blind to copies of
    an image that has near-duplicates in the training set; pass their groups to `proximity`.
    """
    hits = int((generated.ratio < threshold).sum())
    value, low, high = share(hits, len(generated.index))
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
    """Chance that a generated image lies closer to the training set than an unseen real one. 0.5 is right, 1 copies.

    Args:
        generated: distances of generated images to their nearest training image.
        heldout: the same for held-out real images.

    Ties count 1/2. Interval: Wilson's, with the sample size that gives DeLong's variance (DeLong 1988), so
    that it keeps a width at 0 and 1, and Student's t for that variance (Welch 1947), which few images know badly
    (benchmarks/alarms.py has the shares). Cost: O((n + m) log(n + m)).
    """
    a, b = generated.double().sort().values, heldout.double()  # sorted: no sum depends on the order
    wins_a, wins_b = _beats(a, b), 1 - _beats(b, a)
    value = float(wins_a.mean())
    parts = [float(w.var()) / len(w) if len(w) > 1 else 0.25 for w in (wins_a, wins_b)]
    variance, least = sum(parts), min(len(a), len(b))
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else least
    spread = sum(part**2 / max(1, len(w) - 1) for part, w in zip(parts, (wins_a, wins_b)))
    low, high = wilson(value, size, student(variance**2 / spread if spread > 0 else max(1, least - 1)))
    return Measurement("copy_auc", value, low, high, len(a), None, "Mann-Whitney; DeLong 1988", EVEN)


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
    order = p.double().sort().values
    steps = torch.arange(1, len(p) + 1, dtype=torch.float64, device=p.device)
    allowed = order <= fdr * steps / len(p) * (1 + 1e-12)  # a p-value on a step is rejected, however it was rounded
    return p <= order[allowed][-1] if bool(allowed.any()) else torch.zeros_like(p, dtype=torch.bool)


def authpct(generated: Proximity, spacing: Float[Tensor, " m"], heldout: Proximity | None = None) -> Measurement:
    """Percentage of authentic images: farther from their nearest training image than its own nearest neighbor is.

    Args:
        generated: proximity of the generated rows.
        spacing: distance of each training point to the nearest of another duplicate group
            (`proximity(train, train).second`).
        heldout: proximity of the held-out rows, for the null.

    Higher is better, up to its null. Source: Alaa et al. 2022 (arXiv 2102.08921), section 4. Wilson interval.
    """
    hits = int((generated.distance > spacing[generated.index]).sum())
    n = len(generated.index)
    value, low, high = (100 * v for v in share(hits, n))
    null = None if heldout is None else authpct(heldout, spacing).value
    return Measurement("authpct", value, low, high, n, True, "Alaa 2022, arXiv 2102.08921", null)


def ct_score(generated: Float[Tensor, " n"], heldout: Float[Tensor, " m"]) -> Measurement:
    """Global data-copying z-score: below about -3, generated images are closer to the training set than
    unseen ones. Copies are, and so are images that are smoother than the data: blurred unseen ones.

    This is the test of Meehan et al. 2020 (arXiv 2004.05675) with one cell for the whole space; the source
    averages over k-means cells and can see copying in one region that this version averages out. Positive
    means farther away than unseen data. Standard normal if nothing is copied, so the interval is value -+
    1.96. Ties are corrected for.
    """
    n, m = len(generated), len(heldout)
    u = float((1 - _beats(generated.double().sort().values, heldout.double())).sum()) * m
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
    """Frechet distance divided by the memorization distance, when that lies below `threshold`. Lower is better.

    The memorization distance is the mean over the GENERATED images of their least cosine distance 1 - |cos|
    to any training image; averaging over training images instead, as some packages do, misses a generator
    that repeats five of them. A Frechet distance within rounding counts as that rounding: a generator of the training
    set itself would else have 0, the best. Source: Bai et al. 2021 (arXiv 2106.03062); the threshold was set for
    Inception features there. The interval is that of the Frechet distance.
    """
    least = cosine_distance(generated, train).mean().item()
    factor = 1 / (least + 1e-15) if least < threshold else 1.0
    rounding = SAME * float(generated.double().var(0, correction=0).sum()) if least < threshold else 0.0
    low, high = (None if v is None else max(v, rounding) * factor for v in (distance.low, distance.high))
    value = max(distance.value, rounding) * factor
    return Measurement("mifid", value, low, high, len(generated), False, "Bai 2021, arXiv 2106.03062", None)


def cosine_distance(x: Float[Tensor, "n f"], train: Rows) -> Float[Tensor, " n"]:
    """Least 1 - |cos| of each row to any training row.

    The row is found by a float32 product and weighed by the difference of unit vectors: exactly 0 for a copy.
    """
    best, out = torch.full((len(x),), -1.0), torch.ones(len(x), dtype=torch.float64)
    for start in range(0, len(train), BLOCK):
        b = functional.normalize(train[start : start + BLOCK].double(), dim=1)
        b32 = b.float()
        for rows in torch.arange(len(x)).split(BLOCK):
            a = functional.normalize(x[rows].double(), dim=1)
            cosine = a.float() @ b32.T
            value, column = cosine.abs().max(1)
            sign = torch.where(cosine.gather(1, column[:, None]) < 0, -1.0, 1.0).double()
            chord = direct(sign * a, b, column[:, None])[:, 0]
            better = value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            out[rows] = torch.where(better, chord / 2, out[rows])
    return out
