"""All points, one block at a time: two products a block, the second while its points are still in cache.

Heavy points, whose weight makes a rounding error of the logit visible, are remembered and weighed again by
direct differences in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine import exact, moments
from temperance.engine.exact import Pairs
from temperance.engine.law import Law
from temperance.engine.moments import Moments
from temperance.engine.table import Table

HEAVY = (1e-4, 0.05)  # smallest and largest share of the weight above which a point is weighed again
AIM = 1e-5  # error of the mean, in units of sigma, that the points below it may add up to
VISIBLE = 1e-8  # bound on the rounding error of a logit, in nats, below which nothing is weighed again


def dense(x: Float[Tensor, "batch d"], table: Table, law: Law, dtype: torch.dtype = torch.float32) -> Moments:
    """Moments of x (float64) over all points. Cost: 4 * batch * n * d flops in `dtype`, one pass over the points."""
    around = x - table.mean
    query, x2 = around.to(dtype), around.square().sum(1)
    shift = table.shift(query)
    visible = bool((table.rounding(query) * law.steepness(torch.zeros_like(x2)) > VISIBLE).any())
    heavy_from = _heavy(table.rounding(query), law, x2, table.d)
    sums, heavy = moments.empty(query), []
    for start, block in table.blocks(dtype):
        affinity = table.affinity(query, shift, start, block)
        sums, e = _add(sums, affinity, block, law, x2)
        if visible:
            row, column = (e > (heavy_from * sums.mass).to(dtype)[:, None]).nonzero(as_tuple=True)
            heavy.append((row, column + start, affinity[row, column]))
    if table.centered:
        sums = sums._replace(mean=sums.mean + sums.mass[:, None] * table.mean)
    return _reweigh(sums, heavy, heavy_from, x, table, law) if heavy else sums


def _add(old: Moments, affinity: Tensor, block: Tensor, law: Law, x2: Tensor) -> tuple[Moments, Tensor]:
    best = torch.maximum(old.best, affinity.amax(1))
    new = moments.terms(law, affinity, best, x2)
    mean = new.e @ block if len(affinity) > 1 else torch.mv(block.T, new.e[0])[None]
    return moments.add(moments.rebase(old, best, law, x2), new, mean), new.e


def _heavy(rounding: Tensor, law: Law, x2: Tensor, d: int) -> Float[Tensor, " batch"]:
    """Share of the weight above which an error of the logit shows in the mean.

    Errors of rounding are independent: each is about bound / sqrt(d), and those of many light points average, so that
    the mean moves by at most sqrt(share) times that error, in units of the points' spread.
    """
    steepness = law.steepness(x2)
    error = rounding * steepness / d**0.5
    return (AIM / (error * steepness.sqrt()).clamp(min=1e-30)).square().clamp(*HEAVY)


def _reweigh(
    sums: Moments, heavy: list[tuple[Tensor, ...]], share: Tensor, x: Tensor, table: Table, law: Law
) -> Moments:
    """Replace what heavy points contributed by what they should have."""
    x2 = (x - table.mean).square().sum(1)
    row, index, rough = (torch.cat(parts) for parts in zip(*heavy))
    keep = law.take(row).ranked(rough[:, None], sums.best[row], x2[row])[:, 0].exp() > (share * sums.mass)[row]
    pairs, rough = Pairs(row[keep], index[keep]), rough[keep]
    fine = (x2[pairs.row] - exact.squared(x, table, pairs)) / 2
    own, best = law.take(pairs.row), sums.best.double()[pairs.row]
    old, new = (moments.terms(own, a[:, None], best, x2[pairs.row]) for a in (rough.double(), fine))

    def delta(change: Tensor) -> Tensor:
        return exact.by_row(change[:, 0], pairs.row, len(x), "sum")

    return Moments(
        sums.best,
        sums.mass + delta(new.e - old.e),
        sums.mean + exact.combine((new.e - old.e)[:, 0], table, pairs, len(x)),
        sums.weight + delta(new.v - old.v),
        sums.energy + delta(new.v * new.log_v - old.v * old.log_v),
        _peak(exact.by_row(new.v[:, 0], pairs.row, len(x), "amax"), sums.peak),
    )


def _peak(heavy: Tensor, rough: Tensor) -> Tensor:
    """The largest v: among heavy points if there are any."""
    return torch.where(heavy.isfinite(), heavy, rough)
