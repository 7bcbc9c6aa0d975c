"""Upper bounds on affinities: cheap products that may err, each with a slack that provably covers its error.

From cheap to sharp: `Integer` with principal axes (q bytes a point), `Integer` without (d bytes a point),
`Single` (the float32 product itself). The slack is Cauchy-Schwarz on what the cheap product leaves out;
nothing is assumed about the data.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from temperance.engine.table import Table

AXES = 256  # principal axes kept
SAMPLE = 4096  # points that the axes are computed from
COLUMNS = 8192  # points per block of a screen
ULP = 2.0**-24


class Single:
    """The float32 product plus its rounding bound: the screen of last resort, one GEMM over the points."""

    name = "float32"

    def __init__(self, table: Table):
        self.table = table
        self.flops, self.bytes = 2.0 * table.n * table.d, float(table.n * table.row_bytes)

    def upper(self, query: Float[Tensor, "batch d"]) -> Iterator[tuple[int, Tensor]]:
        """See `survivors.Screen`. Cost: 2 * batch * n * d flops."""
        table, single = self.table, query.float()
        slack = table.rounding(single).float()
        shift = table.shift(single) - slack
        for start, block in table.blocks():
            yield start, table.affinity(single, shift, start, block)


class Integer:
    """Products of 8-bit integers, exact in 32 bits, of the points or of their coordinates on principal axes
    V.

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
        for _, part in table.raw():
            code, column = self._encode(part)
            slack.append(column)
            if keep:
                codes.append(code)
        self.codes = torch.cat(codes) if keep else None
        self.slack = torch.cat(slack, 1)
        self.slack[0] = -table.half.float()
        self.flops = 2.0 * table.n * self.width
        self.bytes = float(table.n * (self.width if keep else table.row_bytes))

    def _project(self, centered: Float[Tensor, "rows d"]) -> Float[Tensor, "rows q"]:
        return centered if self.matrix is None else centered @ self.matrix

    def _measure(self, centered: Float[Tensor, "rows d"], offset: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates in float32, a bound on their error (and the row's, if it was rounded), and the norm of the rest.

        Float32 rounds the difference to the mean, whose parts are up to `offset`; the d products of each coordinate;
        and the norms here.
        """
        z = self._project(centered)
        whole, norm = centered.norm(dim=1), z.norm(dim=1)
        wrong = 4 * ULP * (whole + offset)
        if self.matrix is not None:
            wrong = wrong + (self.table.d + 4) * ULP * self.width**0.5 * whole
        return z, wrong, _rest(whole * (1 + 1e-4), norm * (1 - 1e-4) - wrong)

    def _encode(self, part: Float[Tensor, "rows d"]) -> tuple[Tensor, Float[Tensor, "5 rows"]]:
        """Codes, and the factors of the slack that belong to points: -, |z|, |z - z^|, |Rmu|, 1."""
        z, wrong, rest = self._measure(part.float() - self.mean, float(self.mean.norm()))
        codes = (z / self.scale).round_().clamp_(-127, 127)
        norm = z.norm(dim=1) * (1 + 1e-4) + wrong
        error = z.sub_(codes, alpha=self.scale).norm(dim=1) * (1 + 1e-4) + wrong
        return codes.to(torch.int8), torch.stack([norm, norm, error, rest, torch.ones_like(norm)])

    def coordinates(self, start: int) -> Float[Tensor, "rows q"]:
        """Coordinates of a block of points whose codes are kept, to 8 bits."""
        assert self.codes is not None
        return self.codes[start : start + COLUMNS].float().mul_(self.scale)

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        if self.codes is None:
            yield from ((start, self._encode(part)[0]) for start, part in self.table.raw())
        else:
            yield from ((start, self.codes[start : start + COLUMNS]) for start in range(0, self.table.n, COLUMNS))

    def upper(self, query: Float[Tensor, "batch d"]) -> Iterator[tuple[int, Tensor]]:
        """See `survivors.Screen`. Cost: 2 * batch * n * width integer operations."""
        y, wrong, rest = self._measure(query.float(), 0.0)
        scale = y.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        codes = (y / scale).round_()
        kept = codes.norm(dim=1) * scale[:, 0] * (1 + 1e-4)
        lost = y.sub_(codes * scale).norm(dim=1) * (1 + 1e-4) + wrong
        # A dozen float32 roundings of terms that are at most this large.
        bias = 16 * ULP * (query.norm(dim=1) * self.table.radius + float(self.table.half.max()))
        left = torch.stack([torch.ones_like(lost), lost, kept, rest, bias.float()], 1)
        unit, codes = scale * self.scale, codes.to(torch.int8)
        for start, block in self._blocks():
            part = self.slack[:, start : start + len(block)]
            yield start, torch._int_mm(codes, block.T).float().mul_(unit).addmm_(left, part)


def _rest(whole: Float[Tensor, " rows"], along: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Norm of what a projection leaves out, from that of the row and of the projection; rounded up."""
    square = whole**2
    return (square - along.clamp(min=0) ** 2 + 1e-6 * square).clamp(min=0).sqrt()


def principal(table: Table, axes: int = AXES) -> Float[Tensor, "d axes"]:
    """About the leading principal axes of the points, orthonormal to float32.

    Any orthonormal axes give a valid screen, good ones a sharp one: two power iterations on a sample are
    enough. Cost: 12 * 4096 * d * axes flops.
    """
    sample = (table.points[:: max(1, table.n // SAMPLE)].double() - table.mean).float()
    start = torch.randn(len(sample), axes, generator=Generator().manual_seed(0)).to(sample)
    basis = sample.T @ start
    for _ in range(2):
        basis = sample.T @ (sample @ torch.linalg.qr(basis).Q)
    return torch.linalg.qr(basis.double()).Q.float().contiguous()
