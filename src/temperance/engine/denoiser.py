"""The front door: `EmpiricalDenoiser`, one object for the four closed-form denoisers."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.denoiser import expand
from temperance.distance import Neighbors
from temperance.empirical import Posterior, tangent
from temperance.engine import survivors
from temperance.engine.curve import Curve
from temperance.engine.law import Gaussian, Law, Marginal
from temperance.engine.moments import Moments
from temperance.engine.stats import Stats
from temperance.engine.table import Table

Mode = Literal["conditional", "unconditional", "temperature", "tangent"]
BLOCK_BYTES = 256 << 20


class EmpiricalDenoiser:
    """E[mu | x] over training points, exact to `tol` of the weight, as a `Denoiser`.

    Modes, with their formulas in `temperance.empirical`:

    * `conditional`: `noise_conditional`;
    * `unconditional`: `noise_unconditional` between `sigma_min` and `sigma_max`; the sigma of a call is not used;
    * `temperature`: `noise_conditional` at temperature max(temperature / sigma, 1) for sigma <= `sigma_collapse` and 1
      above it; `temperature` is `sigma_collapse` unless given;
    * `tangent`: `Tangent` with `neighbors` and `h`.

    Args:
        points: [n, *shape], any floating type; may be memory-mapped. Not copied.
        mode: which posterior.
        tol: largest share of the weight that points left out may have had, per row.
        sigma_min: lowest level of the unconditional mode.
        sigma_max: highest level of the unconditional mode.
        sigma_collapse: sigma below which the temperature mode smooths.
        temperature: numerator of its temperature.
        neighbors: of the points, for the tangent mode.
        h: tangent width, dimensionless.
        block_bytes: memory for temporaries and indices beyond the points.

    Raises:
        ValueError: naming the argument: non-finite or empty points, a missing or unusable option.
    """

    def __init__(
        self,
        points: Float[Tensor, "n *shape"],
        mode: Mode = "conditional",
        *,
        tol: float = 1e-6,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_collapse: float | None = None,
        temperature: float | None = None,
        neighbors: Neighbors | None = None,
        h: float | None = None,
        block_bytes: int = BLOCK_BYTES,
    ):
        _check_options(mode, tol, sigma_collapse, temperature, neighbors, h, block_bytes)
        if points.ndim < 2:
            raise ValueError(f"points must be [n, *shape], got {tuple(points.shape)}")
        self.mode, self.tol, self.shape = mode, tol, points.shape[1:]
        self.sigma_collapse = sigma_collapse
        self.temperature = sigma_collapse if temperature is None else temperature
        self.table = Table(points.flatten(1), block_bytes)
        self.curve = Curve(self.table.d, sigma_min, sigma_max, points.device) if mode == "unconditional" else None
        self.tangent = tangent(points.flatten(1), neighbors, h) if mode == "tangent" and neighbors and h else None
        self.stats: Stats | None = None  # of the last evaluation

    def __call__(
        self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *shape"]:
        """E[mu | x] in the type of x; `stats` then describes this call."""
        denoised, self.stats = self.evaluate(x, sigma)
        return denoised

    def evaluate(
        self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None
    ) -> tuple[Float[Tensor, "batch *shape"], Stats]:
        """The denoised batch and what is known about it, without touching `stats`.

        Cost: between one product with a few numbers per point and four d flops per point, see docs/performance.md.
        """
        flat, law = self._flat(x), self.law(sigma, len(x))
        parts = [self._rows(flat[i : i + ROWS], law, i) for i in range(0, len(x), ROWS)]
        if not parts:
            return x.clone(), describe([])
        mean = torch.cat([p.sums.mean / p.sums.mass[:, None] for p in parts])
        return mean.to(x.dtype).reshape(x.shape), describe(parts)
