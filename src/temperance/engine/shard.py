"""Points spread over processes: every rank holds some, sees every x, and returns the same denoised batch.

Each rank sums over its own points; the sums are merged like partial softmaxes, by log-sum-exp. What travels is
d + 7 numbers a row and rank, whatever n is. Works with any backend of torch.distributed: gloo on CPUs, nccl on GPUs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from temperance.engine.denoiser import EmpiricalDenoiser
from temperance.engine.law import Law
from temperance.engine.moments import Moments, merge
from temperance.engine.paths import Result
from temperance.engine.stats import Stats, describe


class ShardedDenoiser:
    """`EmpiricalDenoiser` over the union of the points of all ranks of a process group.

    Args:
        local: the denoiser over this rank's points, in any mode but tangent, with the same options on all ranks.
        group: the process group; None is the default one.
    """

    def __init__(self, local: EmpiricalDenoiser, group: distributed.ProcessGroup | None = None):
        if local.mode == "tangent":
            raise ValueError("mode 'tangent' needs all points on every rank: use another mode")
        self.local, self.group = local, group
        self.stats: Stats | None = None  # of the last call

    def __call__(self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None) -> Float[Tensor, "batch *shape"]:
        """E[mu | x]; a collective call, with the same x and sigma on every rank."""
        flat, law = self.local.flat(x), self.local.law(sigma, len(x))
        result = self._merged(flat, law)
        self.stats = describe(result, law, torch.zeros_like(result.dropped))
        return (result.sums.mean / result.sums.mass[:, None]).to(x.dtype).reshape(x.shape)

    def _merged(self, x: Float[Tensor, "batch d"], law: Law) -> Result:
        own = self.local.run(x, law)
        packed = _pack(own, (x - self.local.table.mean).square().sum(1))
        parts = [torch.empty_like(packed) for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather(parts, packed, group=self.group)
        zero = torch.zeros_like(own.dropped)
        sums = merge([_unpack(part) for part in parts], law, zero)
        # A rank's bound is relative to its own mass, so the largest one holds for the union.
        dropped, error = (torch.stack([p[:, i] for p in parts]).amax(0) for i in (-2, -1))
        return own._replace(sums=sums, dropped=dropped, logit_error=error)


def _pack(result: Result, x2: Float[Tensor, " batch"]) -> Float[Tensor, "batch columns"]:
    """Everything in one tensor; the best affinity as -r^2 / 2, which does not depend on a rank's own mean."""
    s = result.sums
    columns = [s.best.double() - x2 / 2, s.mass, s.weight, s.energy, s.peak, result.dropped, result.logit_error]
    return torch.cat([s.mean, torch.stack(columns, 1)], 1).contiguous()


def _unpack(packed: Float[Tensor, "batch columns"]) -> Moments:
    best, mass, weight, energy, peak, _, _ = packed[:, -7:].unbind(1)
    return Moments(best, mass, packed[:, :-7], weight, energy, peak)
