"""The posterior engine: the denoisers of `temperance.empirical`, exact, certified and fast at 50,000 points and more.

`empirical` holds the formulas, in float64 over all points. This package evaluates them: it streams blocks of points,
drops those whose weight is provably below a tolerance, weighs the rest by direct differences in float64, and says
which path ran and what it may have left out.

* `EmpiricalDenoiser`: the front door; `evaluate` returns its result together with `Stats`;
* `ShardedDenoiser`: the same with the points spread over processes;
* `tracked_heun`: `sample.heun` that carries products along instead of computing them;
* `neighbor_table`, `Finder`: exact nearest points, the table of all of them;
* `tempered_mean`, `displaced`: what temperature and tangent smoothing do in a training step.
"""

from temperance.engine.denoiser import EmpiricalDenoiser
from temperance.engine.nearest import Finder
from temperance.engine.neighbors import neighbor_table
from temperance.engine.shard import ShardedDenoiser
from temperance.engine.stats import Stats
from temperance.engine.target import displaced, tempered_mean
from temperance.engine.tracked import tracked_heun

__all__ = [
    "EmpiricalDenoiser",
    "Finder",
    "ShardedDenoiser",
    "Stats",
    "displaced",
    "neighbor_table",
    "tempered_mean",
    "tracked_heun",
]
