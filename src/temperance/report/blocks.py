"""The nouns of a report: measurements, pairs of images, and the blocks a page is made of. Plain frozen data."""

import math
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, UInt8
from numpy import ndarray

COPY_RATIO = 1 / 3  # d1/d2 below which an image counts as a copy (Yoon et al. 2023)


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


@dataclass(frozen=True)
class Neighbor:
    """A training image, and how far it is from the generated one."""

    name: str
    distance: float
    image: UInt8[ndarray, "h w c"]


@dataclass(frozen=True)
class Pair:
    """A generated image beside its nearest training images, the matched one first. `p_value` needs held-out data.

    `view` says how it differs from the matched one, and `over` is the image moved so that it lies over it.
    """

    generated: str
    image: UInt8[ndarray, "h w c"]
    neighbors: tuple[Neighbor, ...]
    distance: float
    ratio: float
    p_value: float | None = None
    flagged: bool = False
    view: str = "as it is"
    over: UInt8[ndarray, "h w c"] | None = None


@dataclass(frozen=True)
class Distances:
    """Nearest-training distance d1 and ratio d1/d2 of every image of a set."""

    d1: Float[ndarray, " n"]
    ratio: Float[ndarray, " n"]


@dataclass(frozen=True)
class Class:
    """One class of an audit: its training images, and the generated ones that lie nearest to one of them.

    `copied` is their memorized fraction, with the held-out images of the same kind as its null; None where there are
    no generated ones. `flagged` counts those that match one of its training images, also moved; None without held-out
    data.
    """

    label: str
    train: int
    generated: int
    copied: Measurement | None
    flagged: int | None


@dataclass(frozen=True)
class Report:
    """An audit's outcome.

    Args:
        measurements: by encoder, then by name.
        pairs: by encoder, worst first.
        distances: by encoder, then "generated" and, where there is one, "heldout".
        copies: rows for `report.json`, best match first.
        provenance: sha256 of each set, versions, seed, settings.
        sizes: number of images of each set.
        tested: what was looked for, one sentence each.
        untested: what was not, one sentence each.
        flags: by encoder, the number of images flagged (None without held-out data).
        identical: by encoder, how many generated images equal a training image, as it is or mirrored, in pixels also
            moved.
        classes: by encoder, the training set's classes, where it has labels.
        planted: by encoder, what was found of planted copies (None where there are too few held-out images).
        nulls: by encoder, how p-values were made (None without held-out data).
        combined: one verdict from several encoders, or None.
        membership: what an attacker who holds the model could tell, the verdict first; empty without a model.
    """

    measurements: dict[str, dict[str, Measurement]]
    pairs: dict[str, tuple[Pair, ...]]
    distances: dict[str, dict[str, Distances]]
    copies: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]
    sizes: dict[str, int]
    tested: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    flags: dict[str, int | None] = field(default_factory=dict)
    identical: dict[str, int] = field(default_factory=dict)
    planted: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    nulls: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    combined: dict[str, Any] | None = None
    classes: dict[str, tuple[Class, ...]] = field(default_factory=dict)
    membership: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class Column:
    """A table's column: its heading and one plain sentence that explains it."""

    label: str
    help: str = ""
    text: bool = False


@dataclass(frozen=True)
class Cell:
    """A formatted value, a smaller second line, and a mark if no other row does better."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A table's row. `null` sets apart the row of real, unseen data; `series` gives it a plot's colour and
    marker; `group` is a heading that is drawn above it.
    """

    cells: tuple[Cell, ...]
    null: bool = False
    series: int | None = None
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table whose columns are explained below it."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """An inline SVG with a text that says what it shows."""

    svg: str
    alt: str
    title: str = ""


@dataclass(frozen=True)
class Figures:
    """Figures under one heading; `layout` is "wide", or "pair" or "small" for several in a row."""

    title: str
    caption: str
    figures: tuple[Figure, ...]
    layout: str = "wide"
    kind: str = "figures"


@dataclass(frozen=True)
class Card:
    """One entry of a gallery, its pictures already encoded as data URIs: (uri, alternative text, label)."""

    pictures: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    flag: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards, worst first. `total` is the number of images they were chosen from."""

    title: str
    caption: str
    cards: tuple[Card, ...]
    total: int
    series: int | None = None
    kind: str = "gallery"


@dataclass(frozen=True)
class Notes:
    """A list of sentences. `tone` is "" or "warning"."""

    title: str
    items: tuple[str, ...]
    tone: str = ""
    kind: str = "notes"


@dataclass(frozen=True)
class Facts:
    """Names and values, folded away: versions, hashes, settings."""

    title: str
    items: tuple[tuple[str, str], ...]
    kind: str = "facts"


@dataclass(frozen=True)
class Sign:
    """What a reviewer signs, and the blanks to fill in by hand on paper."""

    title: str
    statement: str
    blanks: tuple[str, ...]
    kind: str = "sign"


Block = Table | Figures | Gallery | Notes | Facts | Sign


@dataclass(frozen=True)
class Tile:
    """A large number at the top of a page, and what it says."""

    value: str
    label: str
    detail: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Page:
    """Everything a report page shows, in order."""

    title: str
    lede: str
    tiles: tuple[Tile, ...]
    blocks: tuple[Block, ...]
    eyebrow: str = "Temperance"


# ---- how numbers are written ----


def number(value: float | int | None) -> str:
    """Three significant digits, thousands separated, powers of ten where digits would not fit; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{_raised(int(exponent))}".replace("-", "−")
    if size >= 100:
        return f"{value:,.0f}".replace("-", "−")
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3
    if 0 < size < 0.1:
        decimals = 2 - math.floor(math.log10(size))
    return f"{value:.{min(decimals, 6)}f}".replace("-", "−")


def percent(value: float | int | None) -> str:
    """A share as a percentage: one decimal, below 0.1 % two digits, so that few are never written as none."""
    if value is None or not math.isfinite(value):
        return "–"
    share = 100 * value
    decimals = 1 if share == 0 or abs(share) >= 0.0995 else 1 - math.floor(math.log10(abs(share)))
    return f"{share:.{decimals}f} %"


def at_most(n: int) -> str:
    """What 0 of n leaves possible at 95 %: the rule of three, rounded up."""
    share = min(100.0, 300 / n)
    digits = 1 if share >= 0.1 else 1 - math.floor(math.log10(share))
    return f"at most {math.ceil(round(share * 10**digits, 6)) / 10**digits:.{digits}f} %"


def between(low: float | None, high: float | None, write=number) -> str:
    """An interval, or nothing."""
    if low is None or high is None:
        return ""
    return f"{write(low).removesuffix(' %')}{' to ' if low < 0 else '–'}{write(high)}"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
