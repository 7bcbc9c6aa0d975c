"""The posterior engine: the denoisers of `temperance.empirical`, exact, certified and fast at 50,000 points
and more.

`empirical` holds the formulas, in float64 over all points. This package evaluates them: it streams blocks of
points, drops those whose weight is provably below a tolerance, weighs the rest by direct differences in
float64, and says which path ran and what it may have left out.

`EmpiricalDenoiser` is the front door; `evaluate` returns its result together with `Stats`.
"""

from temperance.engine.denoiser import EmpiricalDenoiser
from temperance.engine.stats import Stats

__all__ = ["EmpiricalDenoiser", "Stats"]
