"""Sums of a softmax over points that arrive in any order: kept relative to the best point so far (online softmax)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine.law import Law


class Moments(NamedTuple):
    """Sums over points of e = pull / pull(best), from which the denoised mean and its statistics follow.

    v = weight / weight(best): the same as e where a row has one sigma.
    """

    best: Float[Tensor, " batch"]  # the largest affinity so far, (|x|^2 - r^2) / 2
    mass: Float[Tensor, " batch"]  # sum of e
    mean: Float[Tensor, "batch d"]  # sum of e * mu
    weight: Float[Tensor, " batch"]  # sum of v
    energy: Float[Tensor, " batch"]  # sum of v * log v
    peak: Float[Tensor, " batch"]  # the largest v


class Terms(NamedTuple):
    """log v, v and e of a set of affinities, relative to a best one."""

    log_v: Float[Tensor, "batch k"]
    v: Float[Tensor, "batch k"]
    e: Float[Tensor, "batch k"]


def empty(query: Float[Tensor, "batch d"]) -> Moments:
    """No points yet."""
    zero = torch.zeros(len(query), dtype=torch.float64, device=query.device)
    best = torch.full_like(query[:, 0], -torch.inf)
    return Moments(best, zero, torch.zeros_like(query, dtype=torch.float64), zero, zero, zero)


def terms(law: Law, affinity: Float[Tensor, "batch k"], best: Tensor, x2: Tensor) -> Terms:
    """What each point adds."""
    logit = law.ranked(affinity, best, x2)
    e = logit.exp()
    log_v = law.untilt(logit, affinity, best, x2)
    return Terms(log_v, e if log_v is logit else log_v.exp(), e)


def rebase(old: Moments, best: Float[Tensor, " batch"], law: Law, x2: Float[Tensor, " batch"]) -> Moments:
    """The same sums relative to another best point; the sum of v log v shifts by the log of the factor."""
    if bool((old.mass == 0).all()):
        return old._replace(best=best)
    log_v, v, e = (t[:, 0].double() for t in terms(law, old.best[:, None].to(best.dtype), best, x2))
    # A row without points has log v = -inf and nothing to shift.
    energy = torch.where(v > 0, v * (old.energy + log_v * old.weight), 0.0)
    return Moments(best, old.mass * e, old.mean * e[:, None], old.weight * v, energy, old.peak * v)


def add(old: Moments, new: Terms, mean: Float[Tensor, "batch d"]) -> Moments:
    """Take in points whose terms are relative to the same best."""
    return Moments(
        old.best,
        old.mass + new.e.sum(1),
        old.mean + mean,
        old.weight + new.v.sum(1),
        old.energy + torch.linalg.vecdot(new.v, new.log_v),
        torch.maximum(old.peak, new.v.amax(1)),
    )


def merge(parts: list[Moments], law: Law, x2: Float[Tensor, " batch"]) -> Moments:
    """Sums over the union of disjoint sets of points: a log-sum-exp merge."""
    best = torch.stack([p.best.double() for p in parts]).amax(0)
    whole = rebase(parts[0], best, law, x2)
    for part in parts[1:]:
        other = rebase(part, best, law, x2)
        whole = Moments(
            best,
            whole.mass + other.mass,
            whole.mean + other.mean,
            whole.weight + other.weight,
            whole.energy + other.energy,
            torch.maximum(whole.peak, other.peak),
        )
    return whole
