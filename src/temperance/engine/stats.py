"""What an evaluation knows about itself."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine.law import Law
from temperance.engine.paths import Result


class Stats(NamedTuple):
    """One entry per row, and the cost of the whole call.

    `dropped` bounds, rigorously, the share of the weight that points left out could have had. `logit_error`
    bounds the rounding error, in nats, of weights that were not computed by direct differences; 0 where all
    were. `path` names what ran: `int8>dense` is a screen that left too many points and fell back.
    """

    log_partition: Float[Tensor, " batch"]  # log of the sum of unnormalized weights (exp(-r^2 / 2 sigma^2 T)), nats
    effective_sample_size: Float[Tensor, " batch"]  # exp(entropy of the weights)
    top_weight: Float[Tensor, " batch"]
    dropped: Float[Tensor, " batch"]
    logit_error: Float[Tensor, " batch"]
    path: tuple[str, ...]
    flops: float
    bytes: float


def describe(result: Result, law: Law, x2: Float[Tensor, " batch"]) -> Stats:
    """Statistics of one evaluation; `x2` is |x - mean|^2."""
    sums = result.sums
    best = law.log_weight((x2 - 2 * sums.best.double())[:, None])[:, 0]
    return Stats(
        best + sums.weight.log(),
        (sums.weight.log() - sums.energy / sums.weight).exp(),
        sums.peak / sums.weight,
        result.dropped,
        result.logit_error,
        result.path,
        result.flops,
        result.bytes,
    )


def join(parts: Sequence[Stats]) -> Stats:
    """Statistics of consecutive rows as one."""
    if not parts:
        none = torch.empty(0, dtype=torch.float64)
        return Stats(none, none, none, none, none, (), 0.0, 0.0)
    return Stats(
        torch.cat([p.log_partition for p in parts]),
        torch.cat([p.effective_sample_size for p in parts]),
        torch.cat([p.top_weight for p in parts]),
        torch.cat([p.dropped for p in parts]),
        torch.cat([p.logit_error for p in parts]),
        tuple(name for part in parts for name in part.path),
        sum(p.flops for p in parts),
        sum(p.bytes for p in parts),
    )
