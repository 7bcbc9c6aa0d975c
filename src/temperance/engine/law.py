"""How a squared distance becomes a weight: the laws of the modes, as functions of r^2 that fall with it.

A law gives the logit of a point's pull (weight / sigma_j^2, what `empirical.denoise` averages with) and the
largest r^2 that still matters. The paths of the engine know nothing else about a mode. Distances come as
affinities a = (|x|^2 - r^2) / 2, and logits are relative to those of a reference point, so that no large
numbers cancel.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from temperance.engine.curve import Curve


@runtime_checkable
class Law(Protocol):
    """The law of a batch: one curve per row."""

    def ranked(self, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """Log pull [batch, k] of affinities, relative to that of `best` [batch]; |x|^2 is `x2` [batch]."""
        ...

    def untilt(self, logit: Tensor, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """Log weight [batch, k] relative to that of `best`, from the log pull; `logit` itself if they agree."""
        ...

    def log_weight(self, r2: Tensor) -> Tensor:
        """Unnormalized log weight at squared distances [batch, k]."""
        ...

    def log_precision(self, r2: Tensor) -> Tensor:
        """Log of sigma_j^-2, [batch, k or 1]."""
        ...

    def cut(self, r2: Tensor, nats: float) -> Tensor:
        """Squared distance [batch] beyond which the pull is at least `nats` below that at r2 [batch]."""
        ...

    def steepness(self, r2: Tensor) -> Tensor:
        """Nats per unit of r^2 / 2 at r2 [batch]: turns an error of the affinity into one of the logit."""
        ...

    def take(self, rows: Tensor) -> "Law":
        """The law of some of the rows."""
        ...


class Gaussian(NamedTuple):
    """w ~ exp(-r^2 / (2 sigma^2 T)): `empirical.noise_conditional`, with a temperature per row."""

    sigma: Float[Tensor, " batch"]
    temperature: Float[Tensor, " batch"]

    @property
    def variance(self) -> Float[Tensor, "batch 1"]:
        """sigma^2 T."""
        return (self.sigma**2 * self.temperature)[:, None]

    def ranked(self, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """(a - best) / (sigma^2 T)."""
        return affinity.sub(best[:, None]).mul_(self.variance.reciprocal().to(affinity.dtype))

    def untilt(self, logit: Tensor, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """One sigma per row: nothing to undo."""
        return logit

    def log_weight(self, r2: Tensor) -> Tensor:
        """-r^2 / (2 sigma^2 T)."""
        return -r2 / (2 * self.variance)

    def log_precision(self, r2: Tensor) -> Tensor:
        """Log sigma^-2, whatever the distance."""
        return -2 * self.sigma.log()[:, None]

    def cut(self, r2: Tensor, nats: float) -> Tensor:
        """r^2 + 2 nats sigma^2 T."""
        return r2 + 2 * nats * self.variance[:, 0]

    def steepness(self, r2: Tensor) -> Tensor:
        """1 / (sigma^2 T)."""
        return 1 / self.variance[:, 0]

    def take(self, rows: Tensor) -> "Gaussian":
        """Some of the rows."""
        return Gaussian(self.sigma[rows], self.temperature[rows])


class Marginal(NamedTuple):
    """`empirical.noise_unconditional`: the closed form of p_MN, the same curve for every row."""

    curve: Curve

    def ranked(self, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """Through r^2 in float64."""
        logit = self.curve.pull(x2[:, None] - 2 * affinity.double())
        return logit.sub_(self.curve.pull(x2 - 2 * best.double())[:, None]).to(affinity.dtype)

    def untilt(self, logit: Tensor, affinity: Tensor, best: Tensor, x2: Tensor) -> Tensor:
        """Take out sigma_j^-2."""
        own = self.curve.log_precision(x2[:, None] - 2 * affinity.double())
        reference = self.curve.log_precision(x2 - 2 * best.double())
        return logit - (own - reference[:, None]).to(logit.dtype)

    def log_weight(self, r2: Tensor) -> Tensor:
        """Of p_MN, up to a constant of d and the levels."""
        return self.curve.pull(r2) - self.curve.log_precision(r2)

    def log_precision(self, r2: Tensor) -> Tensor:
        """Log E[sigma^-2 | r^2]."""
        return self.curve.log_precision(r2)

    def cut(self, r2: Tensor, nats: float) -> Tensor:
        """From the table."""
        return self.curve.cut(r2, nats)

    def steepness(self, r2: Tensor) -> Tensor:
        """From the table."""
        return self.curve.steepness(r2)

    def take(self, rows: Tensor) -> "Marginal":
        """Every row has the same curve."""
        return self
