"""How many different things a set holds, whatever it is compared with."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from temperance.metrics.interval import jackknife
from temperance.report import Measurement

CHEAP = 2e8  # cubed size of the eigenproblem up to which it is solved ten more times for the interval


def vendi_score(x: Float[Tensor, "n f"], null: Float[Tensor, "m f"] | None = None) -> Measurement:
    """Effective number of different rows: exp of the entropy of the eigenvalues of K / n, K the cosines of all pairs.

    1 if all rows point the same way or are 0, n if all are orthogonal. Higher is better, up to real data's own score
    at the same size (it grows with n): the null. Source: Friedman & Dieng 2022 (arXiv 2210.02410), eq. 1. Interval:
    ten-fold jackknife where that is cheap. Copying all of a training set scores like the training set: this measures
    variety, not copying.

    Args:
        x: rows, such as features of the generated images.
        null: rows of real data, as many.

    Cost: n f min(n, f) flops in float64, and min(n, f)^3 for the eigenvalues.
    """
    value, size = _vendi(x), min(x.shape)
    low = high = None
    if len(x) >= 20 and size**3 <= CHEAP:
        low, high = jackknife(_vendi, (x,), value)
        low = max(1.0, low)
    expected = None if null is None else _vendi(null)
    return Measurement("vendi", value, low, high, len(x), True, "Friedman 2022, arXiv 2210.02410", expected)


def _vendi(x: Tensor) -> float:
    rows = functional.normalize(x.double(), dim=1)
    gram = rows.T @ rows if len(x) > x.shape[1] else rows @ rows.T
    part = torch.linalg.eigvalsh(gram).clamp(min=0)
    if float(part.sum()) == 0:  # rows of zeros, which point nowhere, are all alike
        return 1.0
    part = part / part.sum()
    return float(torch.special.entr(part).sum().exp())
