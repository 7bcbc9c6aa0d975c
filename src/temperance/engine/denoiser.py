"""The front door: `EmpiricalDenoiser`, one object for the four closed-form denoisers."""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import expand
from temperance.distance import Neighbors
from temperance.empirical import Posterior, Tangent
from temperance.engine import survivors
from temperance.engine.curve import Curve
from temperance.engine.ladder import WORTH, Ladder
from temperance.engine.law import Gaussian, Law, Marginal
from temperance.engine.paths import Result, run
from temperance.engine.small import Small
from temperance.engine.stats import Stats, describe, join
from temperance.engine.survivors import Weighed
from temperance.engine.table import Table
from temperance.engine.tracked import tracked_heun

Mode = Literal["conditional", "unconditional", "temperature", "tangent"]
BLOCK_BYTES = 256 << 20
ENDS = 0.002, 80.0  # of the levels of the unconditional mode, unless given
ROWS = 512  # rows evaluated together


class EmpiricalDenoiser:
    """E[mu | x] over training points, exact to `tol` of the weight, as a `Denoiser`.

    Modes, with their formulas in `temperance.empirical`:

    * `conditional`: `noise_conditional`;
    * `unconditional`: `noise_unconditional` between `sigma_min` and `sigma_max`; the sigma of a call is not
      used;
    * `temperature`: `noise_conditional` at temperature max(temperature / sigma, 1) for sigma <=
      `sigma_collapse` and 1
      above it; `temperature` is `sigma_collapse` unless given;
    * `tangent`: `Tangent` with `neighbors` and `h`.

    Args:
        points: [n, *shape], any floating type; may be memory-mapped. Not copied.
        mode: which posterior.
        tol: largest share of the weight that points left out may have had, per row.
        sigma_min: lowest level of the unconditional mode, 0.002 unless given.
        sigma_max: highest level of the unconditional mode, 80 unless given.
        sigma_collapse: sigma below which the temperature mode smooths.
        temperature: numerator of its temperature.
        neighbors: of the points, for the tangent mode.
        h: tangent width, dimensionless.
        block_bytes: memory for temporaries and indices beyond the points. The tangent mode takes 64 n K bytes for a
            row and one row at least, and keeps the points and n K^2 numbers in float64 besides.

    Raises:
        ValueError: naming the argument: non-finite or empty points, a missing or unusable option.
    """

    def __init__(
        self,
        points: Float[Tensor, "n *shape"],
        mode: Mode = "conditional",
        *,
        tol: float = 1e-6,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_collapse: float | None = None,
        temperature: float | None = None,
        neighbors: Neighbors | None = None,
        h: float | None = None,
        block_bytes: int = BLOCK_BYTES,
    ):
        given = {"sigma_collapse": sigma_collapse, "temperature": temperature, "neighbors": neighbors, "h": h}
        given |= {"sigma_min": sigma_min, "sigma_max": sigma_max}
        _check_options(mode, given, tol, block_bytes)
        if points.ndim < 2:
            raise ValueError(f"points must be [n, *shape], got {tuple(points.shape)}")
        self.mode, self.tol, self.shape = mode, tol, points.shape[1:]
        self.sigma_collapse = sigma_collapse
        self.temperature = sigma_collapse if temperature is None else temperature
        flat = points.flatten(1)
        self.table = Table(flat, block_bytes)
        self.ladder = Ladder(self.table, block_bytes)
        self.small = Small(self.table) if self.ladder.few and mode in ("conditional", "temperature") else None
        low, high = (end if asked is None else asked for asked, end in zip((sigma_min, sigma_max), ENDS))
        self.curve = Curve(self.table.d, low, high, points.device) if mode == "unconditional" else None
        self.tangent = Tangent(flat, neighbors, h, block_bytes) if neighbors is not None and h is not None else None
        self.stats: Stats | None = None  # of the last call

    def prepare(self) -> "EmpiricalDenoiser":
        """Build the screens now, which otherwise happens once 256 rows have been asked for. Returns itself."""
        self.ladder.screens(WORTH)
        return self

    def __call__(self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None) -> Float[Tensor, "batch *shape"]:
        """E[mu | x] in the type of x; `stats` then describes this call."""
        denoised, self.stats = self.evaluate(x, sigma)
        return denoised

    def evaluate(
        self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None
    ) -> tuple[Float[Tensor, "batch *shape"], Stats]:
        """The denoised batch and what is known about it, without touching `stats`.

        Cost: from one low-precision pass over the points to 4 n d flops a row, see docs/performance.md.

        Raises:
            ValueError: naming the argument: shape mismatch, non-finite x, sigma <= 0 or missing.
        """
        flat = self.flat(x)
        if self.tangent is not None:
            return self._tangent(x, self._level(sigma, len(x)))
        law = self.law(sigma, len(x))
        parts = []
        for start in range(0, len(x), ROWS):
            some = law.take(torch.arange(start, min(start + ROWS, len(x)), device=x.device))
            rows = flat[start : start + ROWS]
            parts.append((self.run(rows, some), some, (rows - self.table.mean).square().sum(1)))
        mean = torch.cat([flat[:0], *(r.sums.mean / r.sums.mass[:, None] for r, _, _ in parts)])
        return mean.to(x.dtype).reshape(x.shape), join([describe(*part) for part in parts])

    def run(self, x: Float[Tensor, "batch d"], law: Law) -> Result:
        """Moments of flat float64 rows, by the cheapest path."""
        variance = None
        if isinstance(law, Gaussian) and len(x):
            if self.small is not None and (all_points := self.small.run(x, law)) is not None:
                return all_points
            variance = float(law.variance.min())
        result = run(x, self.table, law, self.ladder.worthwhile(len(x), variance), self.tol)
        self.ladder.learn(result.path, variance)
        return result

    def trajectory(
        self, x: Float[Tensor, "batch *shape"], sigmas: Float[Tensor, " steps"], *, last: bool = False
    ) -> Iterator[Tensor]:
        """The states of `sample.heun`, which asks for them here; see `tracked_heun`."""
        return tracked_heun(self, x, sigmas, last=last)

    def _tangent(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Stats]:
        assert self.tangent is not None
        found = self.tangent.evaluate(x.flatten(1), sigma)
        zero, size = torch.zeros_like(found.peak), found.entropy.exp()
        cost = 4.0 * len(x) * self.table.n * self.table.d
        stats = Stats(found.log_density, size, found.peak, zero, zero, ("tangent",) * len(x), cost, 0.0)
        return found.denoised.reshape(x.shape).to(x.dtype), stats

    def posterior(self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None) -> Posterior:
        """Weights of the points that are not dropped: [batch, k], k the largest number that any row keeps.

        Heaviest first; rows with fewer are filled up with weight 0. Memory: 24 batch k bytes, k up to n at
        high sigma.
        """
        flat = self.flat(x)
        if self.tangent is not None:
            return self.tangent.posterior(flat, self._level(sigma, len(x)))
        law = self.law(sigma, len(x))
        nats = survivors.nats_for(self.tol, self.table.n)
        found = survivors.find(flat, self.table, law, self.ladder.sharpest, nats, survivors.Caps.none(self.table.n))
        weighed, _ = survivors.weigh(flat, self.table, law, found, nats, self.table.n)
        return padded(weighed, len(x), law)

    def topk(self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None, k: int) -> Posterior:
        """The k heaviest points of each row, heaviest first, with their weights among all points.

        Fewer columns where no row keeps k points: the others are dropped, and weigh nothing.

        Raises:
            ValueError: if k is not in 1..n.
        """
        if not 1 <= k <= self.table.n:
            raise ValueError(f"k must be between 1 and the number of points {self.table.n}, got {k}")
        whole = self.posterior(x, sigma)
        top = whole.weights.topk(min(k, whole.weights.shape[1]), dim=1)
        index = top.indices if whole.index is None else whole.index.gather(1, top.indices)
        level = whole.sigma if whole.sigma.shape[1] == 1 else whole.sigma.gather(1, top.indices)
        return Posterior(top.values, level, index)

    def score(self, x: Float[Tensor, "batch *shape"], sigma: Tensor | None) -> Float[Tensor, "batch *shape"]:
        """sum_j w_j (mu_j - x) / sigma_j^2 in the type of x, from float64 differences."""
        denoised, _ = self.evaluate(x.double(), sigma)
        if self.curve is None:
            precision = self._level(sigma, len(x)) ** -2
        else:
            posterior = self.posterior(x, sigma)
            precision = (posterior.weights / posterior.sigma**2).sum(1)
        return ((denoised - x.double()) * expand(precision, x)).to(x.dtype)

    def flat(self, x: Tensor) -> Float[Tensor, "batch d"]:
        """Rows in float64, checked."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must be [batch, {', '.join(map(str, self.shape))}], got {tuple(x.shape)}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"x holds {int((~x.isfinite()).sum())} non-finite values")
        return x.flatten(1).double()

    def _level(self, sigma: Tensor | None, batch: int) -> Float[Tensor, " batch"]:
        if sigma is None:
            raise ValueError(f"sigma must be given in mode {self.mode!r}, got None")
        if sigma.shape != (batch,):
            raise ValueError(f"sigma must be [batch={batch}], got {tuple(sigma.shape)}")
        if not bool(((sigma > 0) & sigma.isfinite()).all()):
            raise ValueError(f"sigma must be finite and > 0, got {sigma.tolist()[:4]}")
        return sigma.double()

    def law(self, sigma: Tensor | None, batch: int) -> Law:
        """How squared distances become weights at these noise levels."""
        if self.curve is not None:
            return Marginal(self.curve)
        level = self._level(sigma, batch)
        hot = torch.ones_like(level)
        if self.sigma_collapse is not None and self.temperature is not None:
            raised = (self.temperature / level).clamp(min=1)
            hot = torch.where(level <= self.sigma_collapse, raised, hot)
        return Gaussian(level, hot)


def padded(weighed: Weighed, batch: int, law: Law) -> Posterior:
    """A table of the surviving pairs, heaviest first."""
    (row, index), r2 = weighed
    order = r2.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    row, index, r2 = row[order], index[order], r2[order]
    count = torch.bincount(row, minlength=batch)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    shape = (batch, max(1, int(count.max()) if batch else 0))
    distance = torch.full(shape, torch.inf, dtype=torch.float64, device=row.device)
    distance[row, place] = r2
    table = torch.zeros(shape, dtype=torch.long, device=row.device)
    table[row, place] = index
    finite = torch.where(distance.isfinite(), distance, distance[:, :1])
    log_precision = law.log_precision(finite)
    relative = law.log_weight(finite) - law.log_weight(distance[:, :1])
    weights = torch.where(distance.isfinite(), relative, -torch.inf).softmax(1)
    return Posterior(weights, (-log_precision / 2).exp(), table)


def _check_options(mode: str, given: dict[str, object], tol: float, block_bytes: int) -> None:
    needed = {
        "conditional": (),
        "unconditional": (),
        "temperature": ("sigma_collapse",),
        "tangent": ("neighbors", "h"),
    }
    if mode not in needed:
        raise ValueError(f"mode must be one of {', '.join(needed)}, got {mode!r}")
    optional = {"temperature": ("temperature",), "unconditional": ("sigma_min", "sigma_max")}
    allowed = {*needed[mode], *optional.get(mode, ())}
    for name, value in given.items():
        if value is None and name in needed[mode]:
            raise ValueError(f"{name} must be given in mode {mode!r}")
        if value is not None and name not in allowed:
            raise ValueError(f"{name} has no meaning in mode {mode!r}")
        if isinstance(value, float | int) and not (value > 0 or (name == "h" and value == 0)):
            raise ValueError(f"{name} must be > 0, got {value}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}")
    if block_bytes < 1 << 20:
        raise ValueError(f"block_bytes must be at least 1 MB, got {block_bytes}")
