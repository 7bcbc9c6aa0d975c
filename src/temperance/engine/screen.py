"""Upper bounds on affinities: cheap products that may err, each with a slack that provably covers its error.

From cheap to sharp: `Integer` with principal axes (q bytes a point), `Integer` without (d bytes a point),
`Single` (the float32 product itself). The slack is Cauchy-Schwarz on what the cheap product leaves out;
nothing is assumed about the data.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from temperance.engine.table import Table

AXES = 256  # principal axes kept
SAMPLE = 4096  # points that the axes are computed from
COLUMNS = 8192  # points per block of a screen
GROUP = 1 << 22  # bounds that are looked at together: 16 MB
ULP = 2.0**-24
RUN = 128  # elements of a product that float32 adds up


class Look(NamedTuple):
    """One look of a screen at a batch."""

    upper: Iterator[tuple[int, Tensor]]  # blocks (first point, bounds [batch, rows]) over all points
    excess: Callable[[Tensor, Tensor], Tensor]  # of rows and points: how much of a bound is slack


class Single:
    """The float32 product plus its rounding bound: the screen of last resort, one GEMM over the points."""

    name = "float32"

    def __init__(self, table: Table):
        self.table = table
        self.flops, self.bytes = 2.0 * table.n * table.d, float(table.n * table.row_bytes)

    def look(self, query: Float[Tensor, "batch d"]) -> "Look":
        """See `survivors.Screen`. Cost: 2 * batch * n * d flops."""
        single = query.float()
        slack = self.table.rounding(single).float()
        return Look(self._upper(single, slack), lambda row, point: slack[row])

    def _upper(self, single: Tensor, slack: Tensor) -> Iterator[tuple[int, Tensor]]:
        shift = self.table.shift(single) - slack
        for start, block in self.table.blocks():
            yield start, self.table.affinity(single, shift, start, block)


class Integer:
    """Products of 8-bit integers, exact in 32 bits, of the points or of their coordinates on principal axes V.

    With y = V'x, z = V'mu (around the mean), hats for what 8 bits keep and R for what V leaves out,
    x.mu <= y^.z^ + |y - y^| |z| + |y^| |z - z^| + |Rx| |Rmu|. One scale for all points, one per row of x.
    Codes are kept if they fit `budget` bytes, else made again for every batch. A 2023 CPU with integer dot
    products (AVX-512 VNNI) multiplies them ten times as fast as float32.

    Cost: n q bytes (n d without axes) and 16 n; two passes over the points to build, 2 n d q flops with axes.
    """

    def __init__(self, table: Table, budget: float, axes: Float[Tensor, "d q"] | None = None):
        self.name = "int8" if axes is None else "pca"
        self.table, self.axes = table, axes
        self.width = table.d if axes is None else axes.shape[1]
        self.mean = table.mean.float()
        self.matrix = axes
        # Codes of a point beyond the sample's peak are clipped; its error then says so.
        sample = table.points[:: max(1, table.n // SAMPLE)].float() - self.mean
        self.scale = max(float(self._project(sample).abs().max()), 1e-30) / 127
        keep = table.n * self.width <= budget
        codes, slack = [], []
        for start, part in table.raw():
            code, column = self._encode(start, part)
            slack.append(column)
            if keep:
                codes.append(code)
        self.codes = torch.cat(codes) if keep else None
        self.slack = torch.cat(slack, 1)
        self.slack[0] = -table.half.float()
        self.flops = 2.0 * table.n * self.width
        self.bytes = float(table.n * (self.width if keep else table.row_bytes))

    def _project(self, centered: Float[Tensor, "rows d"]) -> Float[Tensor, "rows q"]:
        """Coordinates, from float32 products over runs of `RUN` elements, added up in float64."""
        if self.matrix is None:
            return centered
        runs = zip(centered.split(RUN, 1), self.matrix.split(RUN))
        out = torch.zeros(len(centered), self.width, dtype=torch.float64, device=centered.device)
        for part, axes in runs:
            out.add_(part @ axes)
        return out

    def _measure(self, centered: Tensor, whole: Float[Tensor, " rows"], offset: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates of float32 rows of norm `whole`, a bound on their error, and the norm of what they leave out.

        Float32 rounds the difference to the mean, whose parts are up to `offset`, and the products of a run.
        """
        z = self._project(centered)
        wrong = 4 * ULP * (whole + offset)
        if self.matrix is not None:
            wrong = wrong + (RUN + 4) * ULP * self.width**0.5 * whole
        along = (z.norm(dim=1).double() * (1 - 1e-6 * (self.matrix is None)) - wrong).clamp(min=0)
        return z, wrong, (whole**2 * (1 + 1e-9) - along**2).clamp(min=0).sqrt()

    def _encode(self, start: int, part: Float[Tensor, "rows d"]) -> tuple[Tensor, Float[Tensor, "4 rows"]]:
        """Codes, and the factors of the slack that belong to points: -, |z|, |z - z^|, |Rmu|."""
        whole = (2 * self.table.half[start : start + len(part)]).sqrt()
        z, wrong, rest = self._measure(part.float() - self.mean, whole, float(self.mean.norm()))
        codes = (z / self.scale).round_().clamp_(-127, 127)
        norm = z.norm(dim=1) * (1 + 1e-4) + wrong
        error = z.sub_(codes, alpha=self.scale).norm(dim=1) * (1 + 1e-4) + wrong
        return codes.to(torch.int8), torch.stack([norm, norm, error, rest]).float()

    def coordinates(self, start: int) -> Float[Tensor, "rows q"]:
        """Coordinates of a block of points whose codes are kept, to 8 bits."""
        assert self.codes is not None
        return self.codes[start : start + COLUMNS].float().mul_(self.scale)

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        if self.codes is None:
            yield from ((start, self._encode(start, part)[0]) for start, part in self.table.raw())
        else:
            yield from ((start, self.codes[start : start + COLUMNS]) for start in range(0, self.table.n, COLUMNS))

    def _room(self, batch: int, start: int) -> Float[Tensor, "batch columns"]:
        """Where bounds of the points from `start` on go: products are made in blocks, looked at in larger groups."""
        columns = max(COLUMNS, self.table.rows, GROUP // batch)
        return torch.empty(batch, min(columns, self.table.n - start), device=self.slack.device)

    def look(self, query: Float[Tensor, "batch d"]) -> Look:
        """See `survivors.Screen`. Cost: 2 * batch * n * width integer operations."""
        whole = query.norm(dim=1)
        y, wrong, rest = self._measure(query.float(), whole, 0.0)
        scale = y.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        codes = (y / scale).round_()
        kept = codes.norm(dim=1) * scale[:, 0] * (1 + 1e-4)
        lost = y.sub_(codes * scale).norm(dim=1) * (1 + 1e-4) + wrong
        # A dozen float32 roundings of terms that are at most this large.
        bias = (16 * ULP * (whole * self.table.radius + float(self.table.half.max()))).float()[:, None]
        left = torch.stack([torch.ones_like(lost), lost, kept, rest], 1).float()
        unit, codes = (scale * self.scale).float(), codes.to(torch.int8)

        def upper() -> Iterator[tuple[int, Tensor]]:
            group, first = self._room(len(query), 0), 0
            for start, block in self._blocks():
                if start + len(block) - first > group.shape[1]:
                    yield first, group[:, : start - first]
                    group, first = self._room(len(query), start), start
                part = group[:, start - first : start - first + len(block)]
                torch.mul(torch._int_mm(codes, block.T), unit, out=part)
                part.addmm_(left, self.slack[:, start : start + len(block)]).add_(bias)
            yield first, group[:, : self.table.n - first]

        def excess(row: Tensor, point: Tensor) -> Tensor:
            return (left[row, 1:] * self.slack[1:, point].T).sum(1)

        return Look(upper(), excess)


def principal(table: Table, axes: int = AXES) -> Float[Tensor, "d axes"]:
    """Axes of about the leading principal subspace of the points, orthonormal to float32, turned at random in it.

    Any orthonormal axes give a valid screen. Good ones leave little out: two power iterations on a sample are enough.
    And their coordinates must be alike to share a scale of 8 bits, which principal ones are not: hence the turn.
    Cost: 12 * 4096 * d * axes flops.
    """
    generator = Generator().manual_seed(0)
    sample = (table.points[:: max(1, table.n // SAMPLE)].double() - table.mean).float()
    basis = sample.T @ torch.randn(len(sample), axes, generator=generator).to(sample)
    for _ in range(2):
        basis = sample.T @ (sample @ torch.linalg.qr(basis).Q)
    turn = torch.linalg.qr(torch.randn(axes, axes, generator=generator, dtype=torch.float64)).Q.to(basis.device)
    return (torch.linalg.qr(basis.double()).Q @ turn).float().contiguous()
