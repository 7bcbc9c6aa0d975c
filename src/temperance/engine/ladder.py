"""Which screens a set of points gets, and when building them pays."""

from math import inf

import torch

from temperance.engine.screen import Integer, Single, principal
from temperance.engine.survivors import Screen
from temperance.engine.table import Table

SHARE = 0.75  # of the block budget, for codes
SMALL = 1 << 20  # numbers in the points below which one float32 product is as quick as any screen
RETRY = 32  # calls after which screens that were of no use get another chance
WORTH = 256  # rows after which the codes, which cost about as much as that many, are made


def integers_pay() -> bool:
    """Whether this processor multiplies 8-bit integers faster than floats.

    With AVX2 alone screens took ten times as long as the float32 product they save. Of a GPU it is not asked: its
    float32 products are fast, and 8-bit ones need shapes in multiples of 8.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class Ladder:
    """Screens from cheap to sharp: principal axes, 8-bit codes; the float32 product where those do not pay.

    Built on the way, when `WORTH` rows have been asked for. Memory: at most `SHARE` of `block_bytes`.
    """

    def __init__(self, table: Table, block_bytes: int):
        self.table, self.block_bytes = table, block_bytes
        self.sharpest: Screen = Single(table)
        self.rows = 0
        self.few = table.n * table.d < SMALL
        self.built: list[Screen] | None = [self.sharpest] if self.few else None
        self.refused: dict[str, float] = {}  # by screen: the least variance at which it kept too much of every row
        self.calls = 0

    def screens(self, rows: int) -> list[Screen]:
        """What to try for a batch of `rows`, in order."""
        self.rows += rows
        if self.built is None and self.rows >= WORTH:
            self.built = self._build()
        return self.built or [self.sharpest]

    def worthwhile(self, rows: int, variance: float | None) -> list[Screen]:
        """`screens` without those that were of no use at this noise variance (or a lower one) before.

        Only speed depends on it. Every `RETRY`-th call tries all of them again: other rows may be easier.
        """
        screens = self.screens(rows)
        self.calls += 1
        if variance is None or self.calls % RETRY == 0:
            return screens
        return [s for s in screens if variance < self.refused.get(s.name, inf)]

    def learn(self, path: tuple[str, ...], variance: float | None) -> None:
        """Remember the screens that every row of an evaluation fell through."""
        if variance is None or not path:
            return
        for name in set.intersection(*(set(p.split(">")[:-1]) for p in path)):
            self.refused[name] = min(variance, self.refused.get(name, inf))

    def axes(self) -> Integer | None:
        """The screen on principal axes, if there is one and its codes are kept."""
        found = [s for s in self.screens(WORTH) if isinstance(s, Integer) and s.axes is not None]
        return found[0] if found and found[0].codes is not None else None

    def free(self) -> int:
        """Bytes of the budget that indices do not take."""
        kept = [s for s in self.built or [] if isinstance(s, Integer) and s.codes is not None]
        taken = sum(s.width * self.table.n + 4 * s.slack.numel() for s in kept)
        return max(self.block_bytes - taken - 16 * self.table.n, self.block_bytes // 8)

    def _build(self) -> list[Screen]:
        table, rest = self.table, SHARE * self.block_bytes
        if table.points.is_cuda or not integers_pay():
            return [self.sharpest]
        screens: list[Screen] = []
        width = min(256, table.d // 6)
        if table.d >= 512 and table.n * width <= rest / 2:
            screens.append(Integer(table, rest, principal(table, width)))
            rest -= table.n * (width + 16)
        # Codes made again for every batch still save half the time of the float32 product.
        return [*screens, Integer(table, rest)]
