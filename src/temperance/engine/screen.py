"""Upper bounds on affinities: float32 products, and cheaper ones."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from temperance.engine.table import Table


class Exact32:
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
