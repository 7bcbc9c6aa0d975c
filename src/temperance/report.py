"""What was measured, and the page that shows it: one HTML file that needs nothing else, and its JSON twin."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One number, with all that is needed to judge it.

    `low` and `high` end a 95 % interval (None where none is given); `null` is the same figure for real data
    that the model never saw; `higher_is_better` is None where the right value is the null itself.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    higher_is_better: bool | None
    source: str
    null: float | None = None
