"""Heun's method through the engine: at high noise the products x.mu are carried along instead of computed.

An ODE step makes x' from x and denoised means D, all linear, and so x'.mu follows from x.mu and D.mu. D is a weighted
mean of points, in which what principal axes leave out averages away: its products come from q coordinates instead of
d. The weights themselves are summed, and multiplied with the points once, when the bound on what was left out
reaches `NATS`, or when the noise is low enough for the engine's screens, which take over from there.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine.denoiser import EmpiricalDenoiser
from temperance.engine.law import Gaussian
from temperance.engine.screen import COLUMNS, Integer

NATS = 0.2  # largest error of a logit by the bound; the actual one is some fifty times smaller
ARRAYS = 6  # of [rows, n] floats that a step keeps


def tracked_heun(
    denoiser: EmpiricalDenoiser,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    noise: object = None,
    *,
    last: bool = False,
) -> Iterator[Tensor]:
    """The states of `sample.heun(denoiser, x, sigmas)`, to the accuracy of `NATS` in the logits at high noise.

    With `last` only the last state is yielded, which saves a product a step. Takes plain steps for modes and points
    without principal axes. `noise` is not used.
    Cost: q / d of the products of `heun` while the weights are wide, plus two products a refresh.
    """
    axes = denoiser.ladder.axes() if denoiser.mode in ("conditional", "temperature") else None
    leave = 0 if axes is None else _leave(denoiser, axes, sigmas)
    if axes is not None and leave > 0:
        for state in _wide(denoiser, axes, x, sigmas[: leave + 1], last):
            x = state
            if not last:
                yield x
    for now, then in zip(sigmas[leave:].tolist(), sigmas[leave + 1 :].tolist()):
        x = plain_step(denoiser, x, now, then)
        if not last:
            yield x
    if last:
        yield x


def plain_step(denoiser: EmpiricalDenoiser, x: Tensor, now: float, then: float) -> Tensor:
    """One step of `sample.heun`; two evaluations."""
    slope = (x - denoiser(x, _level(now, x))) / now
    ahead = x + (then - now) * slope
    return x + (then - now) / 2 * (slope + (ahead - denoiser(ahead, _level(then, x))) / then)


def _level(sigma: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def _leave(denoiser: EmpiricalDenoiser, axes: Integer, sigmas: Tensor) -> int:
    """The number of steps, from the start, each of which alone keeps the bound."""
    error = _error(axes)
    for step, (now, then) in enumerate(zip(sigmas.tolist(), sigmas[1:].tolist())):
        _, first, second = _coefficients(now, then)
        if (abs(first) + abs(second)) * error > NATS * _variance(denoiser, then):
            return step
    return len(sigmas) - 1


def _error(axes: Integer) -> float:
    """Bound on the error of D.mu, D any weighted mean: |RD| |Rmu| and what 8 bits take off both sides."""
    _, norm, lost, rest = axes.slack.amax(1).tolist()
    return rest**2 + 2 * lost * norm


def _variance(denoiser: EmpiricalDenoiser, sigma: float) -> float:
    law = denoiser.law(torch.tensor([sigma], dtype=torch.float64), 1)
    assert isinstance(law, Gaussian)
    return float(law.variance)


def _coefficients(now: float, then: float) -> tuple[float, float, float]:
    """A step as x' = a x + b D(x, now) + c D(ahead, then)."""
    c, half = (then - now) / now, (then - now) / (2 * then)
    return 1 + c / 2 + half * (1 + c), -c / 2 - half * c, -half


def _wide(denoiser: EmpiricalDenoiser, axes: Integer, x: Tensor, sigmas: Tensor, last: bool) -> Iterator[Tensor]:
    """Steps at high noise, in groups of rows that fit the memory budget; yields the whole batch."""
    rows = max(1, denoiser.ladder.free() // (4 * ARRAYS * denoiser.table.n))
    parts = [_Wide(denoiser, axes, part.flatten(1)) for part in x.split(rows)]
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        for part in parts:
            part.step(now, then)
        if not last or then == float(sigmas[-1]):
            yield torch.cat([part.settle() for part in parts]).reshape(x.shape).to(x.dtype)


class _Wide:
    """Rows whose products with all points are known to a bound: x = known + pending @ points, around the mean."""

    def __init__(self, denoiser: EmpiricalDenoiser, axes: Integer, x: Float[Tensor, "batch d"]):
        self.denoiser, self.axes, self.table = denoiser, axes, denoiser.table
        self.half = self.table.half.float()
        self.known = (x.double() - self.table.mean).float()
        self.pending: Tensor | None = None
        self.affinity = self._products()
        self.error = 0.0

    def step(self, now: float, then: float) -> None:
        """One step of Heun's method on the products and on the pending weights."""
        a, b, c = _coefficients(now, then)
        variance, more = _variance(self.denoiser, then), (abs(b) + abs(c)) * _error(self.axes)
        if self.error + more > NATS * variance:
            self.settle()
            self.affinity, self.error = self._products(), 0.0
        first = (self.affinity / _variance(self.denoiser, now)).softmax(1)
        product = self._mean_products(first)
        away = (then - now) / now
        ahead = (self.affinity * (1 + away)).add_(self.half, alpha=away).sub_(product, alpha=away)
        self.affinity.mul_(a).add_(self.half, alpha=a - 1).add_(product, alpha=b)
        second = ahead.div_(variance).softmax(1)
        self.affinity.add_(self._mean_products(second), alpha=c)
        used = first.mul_(b).add_(second, alpha=c)
        self.pending = used if self.pending is None else self.pending.mul_(a).add_(used)
        self.known.mul_(a)
        self.error = a * self.error + more

    def settle(self) -> Float[Tensor, "batch d"]:
        """Multiply the pending weights with the points; the state, with the mean."""
        if self.pending is not None:
            for start, block in self.table.blocks():
                self.known.addmm_(self.pending[:, start : start + len(block)], block)
            if not self.table.centered:
                self.known.sub_(self.pending.sum(1, keepdim=True) * self.table.mean.float())
            self.pending = None
        return (self.known.double() + self.table.mean).float()

    def _products(self) -> Float[Tensor, "batch n"]:
        shift = self.table.shift(self.known)
        return torch.cat([self.table.affinity(self.known, shift, *block) for block in self.table.blocks()], 1)

    def _mean_products(self, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """(sum_j w_j mu_j) . mu_k around the mean, through the principal axes."""
        spans = range(0, self.table.n, COLUMNS)
        mean = torch.zeros(len(weights), self.axes.width, device=weights.device)
        for start in spans:
            mean.addmm_(weights[:, start : start + COLUMNS], self.axes.coordinates(start))
        return torch.cat([mean @ self.axes.coordinates(start).T for start in spans], 1)
