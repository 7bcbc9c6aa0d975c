"""Heun's method through the engine: at high noise the products x.mu are carried along instead of computed.

An ODE step makes x' from x and denoised means D, all linear, and so x'.mu follows from x.mu and D.mu. D is a weighted
mean of points, in which what principal axes leave out averages away: its products come from q coordinates instead of
d. While even that is more than the logits can tell, the weights are only summed, and multiplied with the points once
at the end. Every step adds its error to a bound on the logits; when that reaches `NATS` the products are made afresh,
and where a single step would break it, the engine's own screens take over.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.engine.ladder import Ladder
from temperance.engine.law import Gaussian, Law
from temperance.engine.screen import COLUMNS, Integer
from temperance.engine.table import Table
from temperance.step import Step, second_order

NATS = 0.2  # largest error of a logit by the bound; the actual one is some fifty times smaller
ARRAYS = 6  # of [rows, n] floats that a step keeps


@runtime_checkable
class Tracked(Protocol):
    """What a denoiser must show of itself to be tracked: `EmpiricalDenoiser` does."""

    mode: str
    table: Table
    ladder: Ladder

    def __call__(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        """E[mu | x]."""
        ...

    def law(self, sigma: Tensor | None, batch: int) -> Law:
        """How squared distances become weights."""
        ...


def tracked_heun(
    denoiser: Tracked,
    x: Float[Tensor, "batch *shape"],
    sigmas: Float[Tensor, " steps"],
    *,
    last: bool = False,
) -> Iterator[Tensor]:
    """The states of `sample.heun(denoiser, x, sigmas)`, to the accuracy of `NATS` in the logits at high noise.

    With `last` only the last state is yielded, which saves a product a step. Takes plain steps for modes and points
    without principal axes. Batches whose products do not fit the memory budget are walked in
    groups of rows; their states are then kept until the last group is done, unless `last`.
    Cost: 1/2 to q / d of the products of `heun` while the weights are wide.
    """
    axes = denoiser.ladder.axes() if denoiser.mode in ("conditional", "temperature") else None
    rows = max(1, denoiser.ladder.free() // (4 * ARRAYS * denoiser.table.n))
    walks = (_walk(denoiser, axes, part, sigmas, last) for part in x.split(rows))
    if len(x) <= rows:
        yield from next(walks)
        return
    for states in zip(*[list(walk) for walk in walks]):
        yield torch.cat(states)


def _walk(denoiser: Tracked, axes: Integer | None, x: Tensor, sigmas: Tensor, last: bool) -> Iterator[Tensor]:
    """All steps of some rows: tracked as long as the bound holds, then plain."""
    wide = None if axes is None else _Wide(denoiser, axes, x.flatten(1))
    for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
        if wide is not None and not wide.step(now, then):
            x, wide = wide.state().reshape(x.shape).to(x.dtype), None
        if wide is None:
            x = second_order(denoiser, x, now, then)
        if not last:
            yield x if wide is None else wide.state().reshape(x.shape).to(x.dtype)
    if last:
        yield x if wide is None else wide.state().reshape(x.shape).to(x.dtype)


class _Mean(NamedTuple):
    """Products of a weighted mean of points with all points, around the mean of all; and their error."""

    products: Float[Tensor, "batch n"]
    error: float
    value: Float[Tensor, "batch d"] | None  # the mean itself, if it was needed


class _Wide:
    """Rows whose products with all points are known to a bound: x = known + pending @ points, around the mean."""

    def __init__(self, denoiser: Tracked, axes: Integer, x: Float[Tensor, "batch d"]):
        self.denoiser, self.axes, self.table = denoiser, axes, denoiser.table
        _, self.norm, self.lost, self.rest = axes.slack.amax(1).tolist()
        self.half = self.table.half.float()
        self.known = (x.double() - self.table.mean).float()
        self.pending: Tensor | None = None
        self.affinity: Tensor | None = None
        self.error = 0.0

    def step(self, now: float, then: float) -> bool:
        """One step on the products and the state; False, and nothing done, if its error would be too large."""
        s, limit = Step.between(now, then), NATS * self._variance(then)
        if self.affinity is None or self.error > limit / 2:
            self.state()
            self.affinity, self.error = self._products(), 0.0
        weights = (self.affinity / self._variance(now)).softmax(1)
        first = self._coarse(weights)
        fine = self.error + (abs(s.b) + abs(s.c)) * first.error > limit
        if fine:
            first = self._fine(weights)
        if self.error + (abs(s.b) + abs(s.c)) * first.error > limit:
            return False
        ahead = (self.affinity * (1 + s.away)).add_(self.half, alpha=s.away).sub_(first.products, alpha=s.away)
        then_weights = ahead.div_(self._variance(then)).softmax(1)
        second = self._fine(then_weights) if fine else self._coarse(then_weights)
        self.affinity.mul_(s.a).add_(self.half, alpha=s.a - 1)
        self.affinity.add_(first.products, alpha=s.b).add_(second.products, alpha=s.c)
        self.error = s.a * self.error + abs(s.b) * first.error + abs(s.c) * second.error
        self._move(s, first, second, weights, then_weights)
        return True

    def _move(self, s: Step, first: _Mean, second: _Mean, weights: Tensor, then_weights: Tensor) -> None:
        self.known.mul_(s.a)
        if self.pending is not None:
            self.pending.mul_(s.a)
        if first.value is not None and second.value is not None:
            self.known.add_(first.value, alpha=s.b).add_(second.value, alpha=s.c)
        else:
            used = weights.mul_(s.b).add_(then_weights, alpha=s.c)
            self.pending = used if self.pending is None else self.pending.add_(used)

    def state(self) -> Float[Tensor, "batch d"]:
        """X itself, after multiplying the pending weights with the points."""
        if self.pending is not None:
            self.known.add_(self._combine(self.pending))
            self.pending = None
        return (self.known.double() + self.table.mean).float()

    def _variance(self, sigma: float) -> float:
        law = self.denoiser.law(torch.tensor([sigma], dtype=torch.float64), 1)
        assert isinstance(law, Gaussian)
        return float(law.variance)

    def _products(self) -> Float[Tensor, "batch n"]:
        shift = self.table.shift(self.known)
        return torch.cat([self.table.affinity(self.known, shift, *block) for block in self.table.blocks()], 1)

    def _combine(self, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch d"]:
        """sum_j w_j (mu_j - mean)."""
        out = torch.zeros_like(self.known)
        for start, block in self.table.blocks():
            out.addmm_(weights[:, start : start + len(block)], block)
        if not self.table.centered:
            out.sub_(weights.sum(1, keepdim=True) * self.table.mean.float())
        return out

    def _coarse(self, weights: Float[Tensor, "batch n"]) -> _Mean:
        """Through coordinates only: off by what the axes and 8 bits leave out of every point that has weight."""
        place = torch.zeros(len(weights), self.axes.width, device=weights.device)
        for start in range(0, self.table.n, COLUMNS):
            place.addmm_(weights[:, start : start + COLUMNS], self.axes.coordinates(start))
        left_out = float((weights @ self.axes.slack[3]).max())
        return _Mean(self._spread(place), left_out * self.rest + 2 * self.lost * self.norm, None)

    def _fine(self, weights: Float[Tensor, "batch n"]) -> _Mean:
        """Through the mean itself: off by what the axes leave out of it, which is little, times a point's rest."""
        value, basis = self._combine(weights), self.axes.matrix
        assert basis is not None
        place = value @ basis
        left_out = (value - place @ basis.T).norm(dim=1).max() * self.rest + place.norm(dim=1).max() * self.lost
        return _Mean(self._spread(place), float(left_out), value)

    def _spread(self, place: Float[Tensor, "batch q"]) -> Float[Tensor, "batch n"]:
        return torch.cat([place @ self.axes.coordinates(i).T for i in range(0, self.table.n, COLUMNS)], 1)
