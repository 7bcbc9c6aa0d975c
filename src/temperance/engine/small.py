"""Few numbers in all: every point, through two products whose logits are float64. Nothing to screen, nothing to repair.

Below a million numbers the steps that make the other paths cheap cost more than they save. Twice the width of a
float32 product buys logits that need no second look.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine.law import Gaussian
from temperance.engine.moments import Moments
from temperance.engine.paths import Result
from temperance.engine.table import Table

NATS = 1e-6  # bound on the error of a logit above which differences are called for
SEEN = 5e-6  # error of a float32 mean, in units of sigma, above which weights and mean are float64 as well
SINGLE = 32 * 2.0**-24  # nats that float32 may add to logits whose weight is above 1e-14
ROUNDING = 2.0**-24


class Small:
    """Points around their mean in float64, with -|mu|^2 / 2 as one more coordinate. Memory: 12 bytes a number."""

    def __init__(self, table: Table):
        centered = table.points.double() - table.mean
        self.table = table
        self.lifted = torch.cat([centered, -table.half[:, None]], 1)
        self.single = centered.float()
        self.largest = float(centered.abs().max())

    def run(self, x: Float[Tensor, "batch d"], law: Gaussian) -> Result | None:
        """Moments over all points, or None where even float64 products would lose a logit.

        Cost: 4 n d flops a row, half of them in float64.
        """
        query, steepness = x - self.table.mean, 1 / law.variance
        error = self.table.rounding(query) * steepness[:, 0]
        if not bool((error < NATS).all()):
            return None
        logits = torch.cat([query * steepness, steepness], 1) @ self.lifted.T
        best = logits.amax(1, keepdim=True)
        fine = ROUNDING * self.largest > SEEN * float(law.sigma.min())
        relative = torch.sub(logits, best, out=torch.empty_like(logits, dtype=None if fine else torch.float32))
        weights = relative.softmax(1)
        mean = weights @ self.lifted[:, :-1] if fine else (weights @ self.single).double()
        mass = 1 / weights.amax(1).double()
        energy = mass * torch.linalg.vecdot(weights, relative).double()
        sums = Moments(
            best[:, 0] / steepness[:, 0], mass, mass[:, None] * (mean + self.table.mean), mass, energy,
            torch.ones_like(mass),
        )  # fmt: skip
        flops, read = 4.0 * len(x) * self.table.n * self.table.d, 12.0 * self.table.n * self.table.d
        return Result(
            sums, torch.zeros_like(mass), error + (0.0 if fine else SINGLE), ("float64",) * len(x), flops, read
        )
