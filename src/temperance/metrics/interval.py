"""What surrounds a figure: its 95 % interval, its null, and the sample it is taken on."""

import math
from collections.abc import Callable, Sequence
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


def wilson(share: float, n: float | int, z: float = Z) -> tuple[float, float]:
    """95 % score interval of a proportion observed over `n` (which may be an effective, fractional size).

    Source: Wilson 1927. Never empty: 0 of n still gives an upper end of about 3.8 / (n + 3.8). `z` is half the width
    in standard errors: Student's where they were estimated from few values.
    """
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def share(hits: int, n: int) -> tuple[float, float, float]:
    """The share `hits` of `n`, and its Wilson interval."""
    if n == 0:
        raise ValueError("a share of 0 images is not defined: the set is empty")
    return (hits / n, *wilson(hits / n, n))


def jackknife(
    statistic: Callable[..., float], sets: Sequence[Float[Tensor, "_ f"]], value: float, folds: int = 10
) -> tuple[float, float]:
    """95 % interval around `value` from leaving out each of ten folds of every set in turn, the others whole."""
    return around(value, [left_out(statistic, sets, at, folds) for at in range(len(sets))])


def left_out(
    statistic: Callable[..., float], sets: Sequence[Float[Tensor, "_ f"]], at: int, folds: int = 10
) -> Float[Tensor, " folds"]:
    """The statistic of the sets without each fold of one of them."""
    fold = fold_of(len(sets[at]), folds).to(sets[at].device)
    parts = [[*sets[:at], sets[at][fold != i], *sets[at + 1 :]] for i in range(folds)]
    return torch.tensor([statistic(*part) for part in parts], dtype=torch.float64)


def around(value: float, left: Sequence[Float[Tensor, " folds"]]) -> tuple[float, float]:
    """The interval from what `left_out` gives for every set: all are samples, and their variances add up.

    Student's t of folds - 1 degrees, which is conservative for several sets.
    """
    folds = len(left[0])
    variance = sum(float(of.var(correction=0)) * (folds - 1) for of in left)
    margin = student(folds - 1) * math.sqrt(variance)
    return value - margin, value + margin


def fold_of(n: int, folds: int) -> Int[Tensor, " n"]:
    """The fold of each of n rows: of equal sizes, drawn, always in the same way.

    Not every tenth row: samples of a class-conditional model come in turns of its classes, and a fold would be one.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)) % folds


def student(degrees: float | int) -> float:
    """Half the width of a 95 % interval in standard errors that were estimated with so many degrees of freedom."""
    return float(stdtrit(degrees, 0.975))


def subsample(x: Float[Tensor, "n f"], n: int, seed: int = 0) -> Float[Tensor, "m f"]:
    """At most `n` rows without replacement, in their order; the same rows for the same seed and length."""
    if len(x) <= n:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return x[chosen.sort().values]
