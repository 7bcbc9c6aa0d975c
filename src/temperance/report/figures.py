"""Plots as inline SVG: text stays text, colours are CSS variables so that they follow the page's light or dark.

Each series has a colour, a marker, a dash and a hatch, so that no plot needs colour to be read. Output is
deterministic: ids are salted with the figure's name and no date is written.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from temperance.report.blocks import COPY_RATIO, Figure, percent

MARKERS = "osD^vPX*"
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo")
DASHES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 1)),
    (0, (8, 2)),
)
# Stand-ins that matplotlib can parse and the page never shows: they become CSS variables.
INK, LINE, PAPER = "#010203", "#010204", "#010205"
SERIES = tuple(f"#01030{i}" for i in range(8))
_VARIABLES = {INK: "--ink", LINE: "--line", PAPER: "--paper"} | {c: f"--s{i}" for i, c in enumerate(SERIES)}
PAIR = (5.2, 2.9)  # inches
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
}


ENLARGED = 1.6  # pixels of a page for a point of a figure, at most


@contextmanager
def _axes(name: str, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure with one axes, in the style of the page, which holds until the end. Needs no display."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=size, layout="constrained")
        yield canvas, canvas.add_subplot()


def _svg(canvas: Any, name: str) -> str:
    """The drawing without XML header, fixed size, fonts or shared ids."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    widest = f"max-width: {ENLARGED * 72 * canvas.get_figwidth():.0f}px"  # letters of all figures are of one size
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return re.sub(r"(stroke|fill)=\"(var\([^)]*\))\"", r'style="\1: \2"', text).replace(
        "<svg ", f'<svg aria-hidden="true" style="{widest}" ', 1
    )


_NEAR = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_PLACES = (*_NEAR, *((right, reach * up) for reach in (4, 8) for right, up in _NEAR if up))


def _box(x: float, y: float, right: int, up: int, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top in points of a label that hangs to one side of (x, y)."""
    side = (up > 0) - (up < 0)
    left, low = x + 10 * right + (right - 1) * width / 2, y + 8 * up + (side - 1) * height / 2
    return left, low, left + width, low + height


def _overlap(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> float:
    """Area shared with other boxes; outside the plot counts too."""
    area = 20 * (max(0.0, -box[0]) + max(0.0, box[2] - 500) + max(0.0, -box[1]))
    for o in others:
        area += max(0.0, min(box[2], o[2]) - max(box[0], o[0])) * max(0.0, min(box[3], o[3]) - max(box[1], o[1]))
    return area


NAMED = 12  # points of a frontier that have room for their names


def frontier(
    points: Sequence[tuple[str, float, float, str, int]],
    *,
    name: str,
    xlabel: str,
    ylabel: str,
    floor: float | None = None,
    null: float | None = None,
) -> Figure:
    """Scatter of (label, x, y, small label, series): one marker a method, reference lines for real data.

    Args:
        points: what to draw; points of one series share a colour and a marker.
        name: prefix of the drawing's ids, unique in the page.
        xlabel: text below.
        ylabel: text at the left.
        floor: height of a dashed line (the training images against unseen ones).
        null: place of a dotted upright line (real data's own x).
    """
    with _axes(name, (7.6, 4.3)) as (canvas, ax):
        high = max([p[2] for p in points] + [floor or 0]) or 1.0
        wide = max([p[1] for p in points] + [null or 0, 0.05])
        ax.set(xlim=(-0.02 * wide, 1.12 * wide), ylim=(0, 1.15 * high), xlabel=xlabel, ylabel=ylabel)

        def at(x: float, y: float) -> tuple[float, float]:
            """A place in points, about: constrained layout settles it when the drawing is made."""
            return 500 * (x / wide + 0.02) / 1.14, 265 * y / (1.15 * high)

        taken: list[tuple[float, float, float, float]] = []
        if floor is not None:
            _, line = at(0.0, floor)
            taken += [(0.0, line - 3, 500.0, line + 3), (350.0, line, 500.0, line + 16)]
        if null is not None:
            left, _ = at(null, 0.0)
            taken.append((left, 250.0, left + 105, 265.0))
        for _, x, y, _, series in points:
            s = series % len(SERIES)
            ax.plot(x, y, MARKERS[s], color=SERIES[s], ms=10, mec=PAPER, mew=1, clip_on=False, zorder=3)
            taken.append(_box(*at(x, y), 0, 0, 14.0, 14.0))
        for number, (label, x, y, small, _) in enumerate(points, 1):
            lines = [label, small] if len(points) <= NAMED else [str(number)]
            width = 5.6 * max(map(len, lines))
            tall = 13.0 * len(lines)
            place = min(_PLACES, key=lambda p: _overlap(_box(*at(x, y), *p, width, tall), taken))
            taken.append(_box(*at(x, y), *place, width, tall))
            side = (place[1] > 0) - (place[1] < 0)
            ha, va = (("right", "center", "left")[place[0] + 1], ("top", "center", "bottom")[side + 1])
            ax.annotate(
                "\n".join(lines),
                (x, y),
                (10 * place[0], 8 * place[1]),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "lw": 0.6, "color": INK} if abs(place[1]) > 1 else None,
                ha=ha,
                va=va,
                fontsize=9,
                linespacing=1.25,
                zorder=4,
            )
        _real_data(ax, floor, null)
        ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        alt = "; ".join(f"{p[0]}: {xlabel.lower()} {percent(p[1])}, {ylabel.lower()} {p[2]:.3g}" for p in points)
        return Figure(_svg(canvas, name), f"Scatter plot. {alt}.")


def numbered(points: Sequence[tuple[str, float, float, str, int]]) -> str:
    """Which number stands for which point, where a frontier has more of them than names fit in."""
    if len(points) <= NAMED:
        return ""
    return f" The numbers: {', '.join(f'{i} {p[0]} ({p[3]})' for i, p in enumerate(points, 1))}."


def _real_data(ax: Any, floor: float | None, null: float | None) -> None:
    """The lines of real data, each with its name."""
    if floor is not None:
        ax.axhline(floor, color=INK, lw=1, ls="--")
        ax.annotate(
            "FD of the training images",
            (1, floor),
            (-2, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            bbox={"fc": PAPER, "ec": "none", "pad": 0.5},  # a leader that crosses the name stops at it
            zorder=4,
        )
    if null is not None:
        ax.axvline(null, color=INK, lw=1, ls=":")
        ax.annotate(
            "unseen real images",
            (null, 1),
            (4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
        )


def histogram(
    generated: Float[ndarray, " n"],
    heldout: Float[ndarray, " m"] | None,
    *,
    name: str,
    title: str,
    xlabel: str,
    limit: float,
    series: int = 0,
    mark: float | None = None,
    size: tuple[float, float] = (3.5, 2.25),
    of: str = "generated images",
) -> Figure:
    """Shares of generated images (filled, hatched) and of unseen real ones (outline) over [0, limit].

    Values beyond `limit` fall into the last bin. `mark` draws an upright line, such as the 1/3 of d1/d2. `of` says what
    else the filled ones are.
    """
    with _axes(name, size) as (canvas, ax):
        bins = np.linspace(0, limit, 25)
        s = series % len(SERIES)
        for values, filled in ((generated, True), (heldout, False)):
            if values is None or not len(values):
                continue
            share = np.histogram(np.clip(values, 0, limit), bins)[0] / len(values)
            if filled:
                ax.stairs(share, bins, fill=True, color=SERIES[s], alpha=0.35, lw=0)
                ax.stairs(share, bins, color=SERIES[s], lw=1.4, hatch=HATCHES[s])
            else:
                ax.stairs(share, bins, color=INK, lw=1.4, ls=(0, (4, 1.5)))
        if mark is not None:
            ax.axvline(mark, color=INK, lw=0.9, ls=":")
        ax.set(xlim=(0, limit), xlabel=xlabel)
        ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        ax.yaxis.set_major_locator(_ticks(3))
        alt = f"Histogram of {xlabel}: median {np.median(generated):.3g} for {of}"
        alt += "" if heldout is None or not len(heldout) else f", {np.median(heldout):.3g} for unseen real images"
        return Figure(_svg(canvas, name), alt + ".", title)


LEGEND = "Filled: generated images. Dashed outline: unseen real images."


def ratio_histogram(
    generated: Float[ndarray, " n"], heldout: Float[ndarray, " m"] | None, *, name: str, title: str, **style: Any
) -> Figure:
    """The histogram of d1/d2, with a line at the ratio below which an image counts as a copy."""
    return histogram(generated, heldout, name=name, title=title, xlabel="d1/d2", limit=1.0, mark=COPY_RATIO, **style)


def distance_limit(distances: Sequence[Float[ndarray, " _"]]) -> float:
    """Right end of a distance axis: all but the farthest half percent of every set."""
    return max(1e-9, *(float(np.quantile(d, 0.995)) for d in distances))


def _ticks(n: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(n)


def cumulative(
    generated: Float[ndarray, " n"],
    heldout: Float[ndarray, " m"] | None,
    *,
    name: str,
    xlabel: str,
    series: int = 0,
) -> Figure:
    """Share of images within a distance, generated against unseen real: a curve to the left means copies."""
    with _axes(name, PAIR) as (canvas, ax):
        share = np.linspace(0, 1, 301)  # a fixed number of quantiles, however many images
        for values, label, color, dash in (
            (generated, "generated", SERIES[series % 8], "-"),
            (heldout, "unseen real", INK, (0, (4, 1.5))),
        ):
            if values is not None and len(values):
                ax.plot(np.quantile(values, share), share, color=color, lw=1.8, ls=dash, label=label)
        ax.set(xlabel=xlabel, ylabel="share of images", ylim=(0, 1.02))
        ax.set_xlim(left=0)
        ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        ax.legend(fontsize=9, loc="lower right")
        return Figure(
            _svg(canvas, name),
            f"Cumulative share of images against {xlabel}.",
            "Share of images within a distance",
        )


def quantiles(
    generated: Float[ndarray, " n"], heldout: Float[ndarray, " m"], *, name: str, xlabel: str, series: int = 0
) -> Figure:
    """Quantiles of the generated images' distances against those of unseen real images: the diagonal is right."""
    with _axes(name, PAIR) as (canvas, ax):
        share = np.linspace(0, 1, min(101, max(2, len(generated), len(heldout))))
        x, y = np.quantile(heldout, share), np.quantile(generated, share)
        top = 1.05 * max(x.max(), y.max(), 1e-12)
        s = series % 8
        ax.plot([0, top], [0, top], color=INK, lw=1, ls="--")
        ax.plot(x, y, MARKERS[s], color=SERIES[s], markersize=4.5, alpha=0.8, clip_on=False)
        ax.annotate(
            "as far as unseen data",
            (0.97 * top, 0.99 * top),
            (-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
        )
        ax.annotate("closer: copies", (0.97 * top, 0.04 * top), ha="right", fontsize=8.5)
        ax.set(xlim=(0, top), ylim=(0, top), xlabel=f"unseen real: {xlabel}", ylabel="generated")
        return Figure(
            _svg(canvas, name),
            f"Quantile plot of {xlabel}, generated against unseen real.",
            "Distances, generated against unseen real",
        )


def _label_ends(ax: Any, ends: Sequence[tuple[str, float, float]]) -> None:
    """Write each label beside the end of its line, moved up where it would cover the one below."""
    height, least, below = 200.0, 12.0, -math.inf  # points: of the axes, between labels, of the last label
    to_axes = ax.transData + ax.transAxes.inverted()
    for label, x, y in sorted(ends, key=lambda end: end[2]):
        at = height * float(to_axes.transform((x, y))[1])
        place = max(at, below + least)
        ax.annotate(label, (x, y), (8, place - at - 3), textcoords="offset points", fontsize=9)
        below = place


def curves(
    lines: Sequence[tuple[str, Sequence[float | int], Sequence[float | int], int]],
    *,
    name: str,
    xlabel: str,
    ylabel: str,
    level: tuple[str, float] | None = None,
    log: tuple[bool, bool] = (False, False),
    span: tuple[float, float] | None = None,
) -> Figure:
    """Lines of (label, x, y, series), labelled at their ends; `level` is a dashed reference with its name.

    `span` fixes the ends of the upright axis.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with _axes(name, (7.6, 3.8)) as (canvas, ax):
        for _, x, y, series in lines:
            s = series % len(SERIES)
            ax.plot(x, y, color=SERIES[s], ls=DASHES[s], marker=MARKERS[s], markersize=5, lw=1.7)
        if level is not None:
            ax.axhline(level[1], color=INK, lw=1, ls=":")
            ax.annotate(
                level[0],
                (0, level[1]),
                (4, 4),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                fontsize=8.5,
            )
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.margins(x=0.12)
        if span is not None:
            ax.set_ylim(*span)
        for wanted, scale, axis in zip(log, (ax.set_xscale, ax.set_yscale), (ax.xaxis, ax.yaxis)):
            if wanted:
                scale("log")
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(lambda v, _: f"{v:,g}")
                axis.set_minor_formatter(NullFormatter())
        _label_ends(ax, [(label, float(x[-1]), float(y[-1])) for label, x, y, _ in lines if len(x)])
        return Figure(_svg(canvas, name), f"Line plot of {ylabel} against {xlabel} for {len(lines)} series.")
