"""p_MN as two curves of log r^2, tabulated once, so that the noise-unconditional posterior costs no gamma functions.

The weight of a point depends on its distance only. `empirical._marginal` evaluates it to full precision at
some 50 ns to 1 us an element; here it is evaluated at knots and interpolated by cubics that match the
derivatives, which are known: d log w / d r^2 = -E[sigma^-2 | r] / 2.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.empirical import _check_levels, _marginal

STEP = 0.02  # knots per width of the transition at an end of the range, which is 1/sqrt(d/2) in log r^2
NEAR = 1e-4  # below NEAR * sigma_min the weight is constant to 1e-8


class Curve:
    """log pull and log E[sigma^-2 | r^2] of p_MN for one d and one range of levels; off by 1e-8 nats (d <= 2: 1e-4).

    Past the last knot the curves go on along their asymptotes. Cost: 0.1 s (d = 784) to 1 s (d = 12,288) once, then
    a lookup and 10 flops an element.
    """

    def __init__(self, d: int, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu"):
        _check_levels(sigma_min, sigma_max)
        self.slope = 1 / (2 * sigma_max**2)  # the least fall of the log weight per unit of r^2
        self.low = 2 * math.log(NEAR * sigma_min)
        high = math.log(1e4 * (d + 2)) + 2 * math.log(sigma_max)
        self.step = STEP / math.sqrt(max(d, 4) / 2)
        r2 = torch.arange(self.low, high + self.step, self.step, dtype=torch.float64).exp()
        weight, first = _marginal(r2, d, sigma_min, sigma_max)
        pull, second = weight + first, _marginal(r2, d + 2, sigma_min, sigma_max)[1]
        self.knots = r2.to(device)
        self.weight = self._hermite(r2, weight, first).to(device)
        self.pulled = self._hermite(r2, pull, second).to(device)
        self.fall = (-pull).to(device)
        self.second = second.exp().to(device)

    def _hermite(self, r2: Tensor, value: Tensor, log_precision: Tensor) -> Tensor:
        """Value and scaled slope at the knots, with the far asymptote -r^2 / 2 sigma_max^2 taken out."""
        slope = -r2 * (log_precision.exp() / 2 - self.slope)
        return torch.stack([value + self.slope * r2, slope * self.step], 1)

    def pull(self, r2: Tensor) -> Tensor:
        """Log of weight / sigma_j^2, up to a constant."""
        return self._at(self.pulled, r2)

    def log_precision(self, r2: Tensor) -> Tensor:
        """Log E[sigma^-2 | r^2]."""
        return self._at(self.pulled, r2) - self._at(self.weight, r2)

    def steepness(self, r2: Tensor) -> Tensor:
        """Nats of pull lost per unit of r^2 / 2."""
        return self.second[self._cell(r2)[0]]

    def cut(self, r2: Float[Tensor, " batch"], nats: float) -> Float[Tensor, " batch"]:
        """The squared distance at which the pull is at least `nats` lower than at r2, to the next knot."""
        target = nats - self.pull(r2)
        after = torch.searchsorted(self.fall, target).clamp(max=len(self.knots) - 1)
        sure = r2 + nats / self.slope
        return torch.where(self.fall[after] >= target, torch.minimum(self.knots[after], sure), sure)

    def _cell(self, r2: Tensor) -> tuple[Tensor, Tensor]:
        place = (r2.clamp(min=math.exp(self.low)).log() - self.low) / self.step
        cell = place.clamp(max=len(self.knots) - 2).long()
        return cell, place - cell

    def _at(self, table: Float[Tensor, "knots 2"], r2: Tensor) -> Tensor:
        cell, t = self._cell(r2)
        (a, da), (b, db) = table[cell].unbind(-1), table[cell + 1].unbind(-1)
        inside = t.clamp(max=1)
        rise = b - a
        bend = inside * (1 - inside) * ((1 - inside) * (da - rise) - inside * (db - rise))
        return a + inside * rise + bend + (t - inside) * db - self.slope * r2
