"""One deterministic step of second order from a noise level to a lower one: two evaluations, no noise.

Along dx/dsigma = (x - D) / sigma. Heun's method takes the mean of the slopes at both ends. Between levels far apart, as
the first ones of `vp` and `flow` are, its correction outweighs the step that it corrects, and errors grow. There the
linear part of the equation is integrated exactly, x = D + (x - D) then / now if D did not change, with the mean of D
at both ends: an exponential trapezoid rule, which stays between x and the two D (Hochbruck & Ostermann 2010; used with
other weights by DPM-Solver++, arXiv 2211.01095).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import Denoiser, level

FAR = 3.0  # ratio of levels at which Heun's correction, (now - then) / (2 then), weighs as much as the step itself


def second_order(denoiser: Denoiser, x: Float[Tensor, "batch *shape"], now: float, then: float) -> Tensor:
    """The images at noise level `then`, from those at `now`."""
    first = denoiser(x, level(now, x))
    if now > FAR * then:
        left = then / now
        mean = (first + denoiser(first + left * (x - first), level(then, x))) / 2
        return mean + left * (x - mean)
    slope = (x - first) / now
    ahead = x + (then - now) * slope
    return x + (then - now) / 2 * (slope + (ahead - denoiser(ahead, level(then, x))) / then)


class Step(NamedTuple):
    """The same as x' = a x + b D(x, now) + c D(ahead, then), ahead = (1 + away) x - away D(x, now)."""

    a: float
    b: float
    c: float
    away: float

    @classmethod
    def between(cls, now: float, then: float) -> "Step":
        """The coefficients from one noise level to another."""
        away, half = (then - now) / now, (then - now) / (2 * then)
        if now > FAR * then:
            return cls(then / now, -away / 2, -away / 2, away)
        return cls(1 + away / 2 + half * (1 + away), -away / 2 - half * away, -half, away)
