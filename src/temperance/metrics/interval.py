"""What surrounds a figure: its 95 % interval, its null, and the sample it is taken on."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from temperance.report import Measurement

Z = 1.959963984540054  # two-sided 95 % of the normal distribution


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


def share(hits: int, n: int) -> tuple[float, float, float]:
    """The share `hits` of `n`, and its Wilson interval."""
    if n == 0:
        raise ValueError("a share of 0 images is not defined: the set is empty")
    return (hits / n, *wilson(hits / n, n))


def jackknife(
    statistic: Callable[[Tensor], float], x: Float[Tensor, "n f"], value: float, folds: int = 10
) -> tuple[float, float]:
    """95 % interval around `value` from leaving out each of ten folds in turn (Student's t, folds - 1 degrees)."""
    fold = fold_of(len(x), folds).to(x.device)
    left = torch.tensor([statistic(x[fold != i]) for i in range(folds)], dtype=torch.float64)
    margin = student(folds - 1) * float(left.std(correction=0)) * math.sqrt(folds - 1)
    return value - margin, value + margin


def fold_of(n: int, folds: int) -> Int[Tensor, " n"]:
    """The fold of each of n rows: of equal sizes, drawn, always in the same way.

    Not every tenth row: samples of a class-conditional model come in turns of its classes, and a fold would be one.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)) % folds


def student(degrees: int) -> float:
    """Half the width of a 95 % interval in standard errors that were estimated with so many degrees of freedom."""
    return float(stdtrit(degrees, 0.975))


def subsample(x: Float[Tensor, "n f"], n: int, seed: int = 0) -> Float[Tensor, "m f"]:
    """At most `n` rows without replacement, in their order; the same rows for the same seed and length."""
    if len(x) <= n:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return x[chosen.sort().values]
