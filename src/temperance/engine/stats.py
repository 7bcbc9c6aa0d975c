"""What an evaluation knows about itself."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Stats(NamedTuple):
    """One number per row, and the cost of the whole call.

    `dropped` bounds, rigorously, the share of weight that points left out could have had; `logit_error` bounds the
    rounding error, in nats, of the weights that were kept. `path` names what ran; `int8>dense` is a screen that left
    too many points and fell back.
    """

    log_partition: Float[Tensor, " batch"]  # log sum_j of the unnormalized weights, in nats
    effective_sample_size: Float[Tensor, " batch"]  # exp(entropy of the weights)
    top_weight: Float[Tensor, " batch"]
    dropped: Float[Tensor, " batch"]
    logit_error: Float[Tensor, " batch"]
    path: tuple[str, ...]
    flops: float
    bytes: float
