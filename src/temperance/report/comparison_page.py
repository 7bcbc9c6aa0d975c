"""The page that holds several methods side by side on one data set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from temperance.report import figures
from temperance.report.blocks import (
    Block,
    Cell,
    Column,
    Distances,
    Figures,
    Notes,
    Page,
    Pair,
    Row,
    Table,
    Tile,
    between,
    number,
    percent,
)
from temperance.report.render import SHOWN, facts, gallery

TILES = 8  # methods at the top of a page


@dataclass(frozen=True)
class Series:
    """One method's samples, for plots and gallery: distances to the training set, and the worst pairs first."""

    method: str
    generated: Distances
    pairs: tuple[Pair, ...] = ()


def _ratio(value: float | None) -> str:
    """A ratio of distances; what is below a thousandth is 0 to the eye, and powers of ten would take half a column."""
    return "< 0.001" if value is not None and 0 < value < 0.001 else number(value)


# key: heading, plain sentence, writer, what is best: "low", "high", a null's key to be near to, or None
_COLUMNS: dict[str, tuple[str, str, Any, str | None]] = {
    "memorized_fraction": (
        "Copied",
        "Share of generated images that are a copy of one training image: at least three times closer to"
        " it than to any other training image. Below it, where there is one seed, the range that holds the true share"
        " with 95 % confidence.",
        percent,
        "low",
    ),
    "ratio_median": (
        "Typical d1/d2",
        "Distance to the nearest training image divided by the distance to the second nearest, for the"
        " middle image. It should be the same as for unseen real images; near 0 means copies.",
        _ratio,
        "heldout_ratio_median",
    ),
    "copy_auc": (
        "Closer than real",
        "Chance that a generated image lies closer to the training set than an unseen real image does. 0.5"
        " is right; 1 means always closer.",
        number,
        "half",
    ),
    "fd_heldout": (
        "FD to unseen",
        "Frechet distance between the generated images and real images that no method saw: how far off the"
        " set is as a whole. Lower is better. The floor is what the training images themselves score; where they are"
        " fewer than the samples, a good method can come out below it.",
        number,
        "low",
    ),
    "fd_train": (
        "FD to training",
        "The same distance to the training images. A method that copies scores well here, so it is not ranked.",
        number,
        None,
    ),
    "precision": ("Precision", "Share of generated images that look like real ones.", number, "high"),
    "recall": (
        "Recall",
        "Share of unseen real images that the generated ones come close to: variety. Copying lowers it.",
        number,
        "high",
    ),
    "final_sigma": (
        "Noise left",
        "Noise that is still in the images by the method's own estimate, in units where pixels run from -1"
        " to 1. A sampler that stops early leaves noise, which looks like variety.",
        number,
        None,
    ),
    "train_seconds": ("Seconds", "Spent on training; below, on sampling.", number, None),
}


def comparison(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    provenance: Mapping[str, Any],
    series: Sequence[Series] = (),
    heldout: Distances | None = None,
    notes: Sequence[str] = (),
    extra: Sequence[Block] = (),
) -> Page:
    """The page of `temperance demo` and `temperance study`: copying and quality of several methods side by side.

    Args:
        rows: one mapping per method, sampler and seed, with the keys of `results.json`; rows that differ
        only in
            their seed are averaged, and the spread over seeds is shown.
        title: the page's heading.
        provenance: names and values (nested mappings are flattened).
        series: distances and pairs per method, for the histograms and galleries.
        heldout: distances of unseen real images, drawn into every histogram.
        notes: sentences that belong beside the results, such as limits of this run.
        extra: blocks that are put between the table and the galleries, such as curves.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("rows is empty: a comparison needs at least one result")
    groups = _groups(rows)
    color = _colors([str(r["method"]) for r in rows] + [s.method for s in series])
    copied = {label: _mean(group, "memorized_fraction") for label, group in groups.items()}
    null = percent(_mean(rows, "heldout_memorized_fraction"))
    seeds = len({r["seed"] for r in rows})
    sizes = sorted({r["n_train"] for r in rows})
    lede = (
        f"Every sample was compared with all {' or '.join(map(str, sizes))} images its method had learned"
        f" from. {_extremes(copied)} Of unseen real images, the same test takes {null} for copies."
    )
    tiles = [Tile(null, "unseen real images", "the level that copying is judged against")]
    tiles += [
        Tile(
            percent(copied[label]),
            label,
            f"copied · FD {number(_mean(g, 'fd_heldout'))} · recall {number(_mean(g, 'recall'))}",
            color[str(g[0]["method"])],
        )
        for label, g in list(groups.items())[:TILES]
    ]
    if len(groups) > TILES:
        lede += f" Below, the first {TILES} of {len(groups)} methods; the table has all."
    blocks: list[Block] = [_comparison_table(list(groups.values()), color, seeds), _frontier(groups, color)]
    blocks += [*extra, *_histograms(series, heldout, color)]
    blocks += [
        gallery(
            f"Closest pairs · {s.method}",
            "Each card: a generated image, then its three nearest training images with their distances.",
            s.pairs[:SHOWN],
            len(s.generated.d1),
            series=color[s.method],
        )
        for s in series
        if s.pairs
    ]
    blocks += [Notes("What to keep in mind", (*notes, *_COMPARISON_LIMITS)), facts(provenance)]
    return Page(title, lede, tuple(tiles), tuple(blocks), "Temperance · methods compared")


_COMPARISON_LIMITS = (
    "The copy test compares images as they are: copies that were shifted, mirrored or recoloured escape"
    " it, unless the features it uses undo that.",
    "A Frechet distance rewards copies: read it together with the copied share and with recall, and only"
    " between rows with the same number of images.",
    "Seeds show how much training and sampling vary, not how much another data set would change the result.",
)


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of one method under its name, and what else tells its variants apart: sampler, training images, steps.

    Steps count only where one seed has several: an early stop may come at another step with every seed. Evaluations
    never do: an adaptive sampler needs another number for every seed.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        same = [r for r in rows if r["method"] == row["method"]]
        peers = [r for r in same if r["seed"] == row["seed"] and r["n_train"] == row["n_train"]]
        keys = [key for key in ("sampler", "n_train") if len({r.get(key) for r in same}) > 1]
        keys += ["steps"] if len({r.get("steps") for r in peers}) > 1 else []
        extra = [f"{key} {row.get(key)}".replace("n_train", "n").removeprefix("sampler ") for key in keys]
        label = str(row["method"]) + (f" ({', '.join(extra)})" if extra else "")
        found.setdefault(label, []).append(row)
    return found


def _colors(methods: Sequence[str]) -> dict[str, int]:
    return {m: i % len(figures.SERIES) for i, m in enumerate(dict.fromkeys(methods))}


def _values(group: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(r[key]) for r in group if r.get(key) is not None and math.isfinite(r[key])]


def _mean(group: Sequence[Mapping[str, Any]], key: str) -> float:
    values = _values(group, key)
    return fmean(values) if values else math.nan


def _extremes(copied: dict[str, float]) -> str:
    """Who copies most and who least, in a sentence or two."""
    worst, best = max(copied, key=lambda g: copied[g]), min(copied, key=lambda g: copied[g])
    most, least = percent(copied[worst]), percent(copied[best])
    if most == least:
        which = f"all {len(copied)} methods" if len(copied) > 1 else worst
        return f"Of the samples of {which}, {most} are a training image."
    return f"Most copies: {worst}, where {most} of the samples are a training image. Fewest: {best}, {least}."


def _spanned(group: list[Mapping[str, Any]], key: str) -> str:
    """A whole number of every seed's row: an early stop and an adaptive sampler have one for each seed."""
    found = sorted({row[key] for row in group if row.get(key) is not None})
    return "–".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def _comparison_table(groups: list[list[Mapping[str, Any]]], color: dict[str, int], seeds: int) -> Table:
    sizes = {g[0]["n_train"] for g in groups}
    best = {key: _best(groups, key, rule) for key, (_, _, _, rule) in _COLUMNS.items()}
    rows = [_null_row(groups)]
    for group in groups:
        row = group[0]
        detail = f"{row['sampler']} · {_spanned(group, 'nfe')} evaluations"
        detail += f" · n = {row['n_train']}" if len(sizes) > 1 else ""
        detail += f" · step {_spanned(group, 'steps')}" if row.get("steps") is not None else ""
        cells = [Cell(str(row["method"]), detail)]
        cells += [_mean_cell(group, key, best[key]) for key in _COLUMNS]
        rows.append(Row(tuple(cells), series=color[str(row["method"])]))
    columns = (
        Column(
            "Method",
            "How the model was trained, which sampler drew the images, with how many evaluations.",
            text=True,
        ),
        *(Column(label, sentence) for label, sentence, _, _ in _COLUMNS.values()),
    )
    over = "One seed." if seeds == 1 else f"Means over {seeds} seeds; below each, the lowest and highest seed."
    return Table(
        "Results",
        f"{over} The first row is real data that no method saw; its Frechet distance is that of the training images."
        " A dot marks the best value of a column; where the right value is that of real data, the closest one.",
        columns,
        tuple(rows),
    )


def by_size(rows: Sequence[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows by the number of training images."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.get("n_train"), []).append(row)
    return found


def _best(groups: list[list[Mapping[str, Any]]], key: str, rule: str | None) -> float | None:
    """The mean that gets the dot, if the column is ranked and has at least two values."""
    means = [m for m in (_mean(g, key) for g in groups) if math.isfinite(m)]
    if rule is None or len(means) < 2:
        return None
    if rule in ("low", "high"):
        return min(means) if rule == "low" else max(means)
    goal = 0.5 if rule == "half" else fmean(_mean(g, rule) for g in groups)
    return min(means, key=lambda m: abs(m - goal)) if math.isfinite(goal) else None


def _mean_cell(group: list[Mapping[str, Any]], key: str, best: float | None) -> Cell:
    write, values, mean = _COLUMNS[key][2], _values(group, key), _mean(group, key)
    if key == "train_seconds":
        detail = number(_mean(group, "sample_seconds"))
    elif len(values) > 1 and write(min(values)) != write(max(values)):
        detail = between(min(values), max(values), write)
    elif key == "memorized_fraction" and len(values) == 1 and group[0].get("memorized_ci"):
        low, high = group[0]["memorized_ci"]
        detail = between(low, high, write)
    else:
        detail = ""
    return Cell(write(mean), detail, best is not None and mean == best)


def _null_row(groups: list[list[Mapping[str, Any]]]) -> Row:
    flat = [row for group in groups for row in group]
    known = {"memorized_fraction": "heldout_memorized_fraction", "ratio_median": "heldout_ratio_median"}
    cells = [Cell("Unseen real images", "what copying is judged against")]
    for key, (_, _, write, _) in _COLUMNS.items():
        if key == "copy_auc":
            cells.append(Cell(write(0.5)))
        elif key == "fd_heldout":
            floors = [_mean(rows, "fd_floor") for rows in by_size(flat).values()]
            alone = len(floors) == 1
            text = write(floors[0]) if alone else between(min(floors), max(floors), write)
            cells.append(Cell(text, "the floor" if alone else "the floor, by n"))
        else:
            cells.append(Cell(write(_mean(flat, known[key])) if key in known else "–"))
    return Row(tuple(cells), null=True)


def _frontier(groups: dict[str, list[Mapping[str, Any]]], color: dict[str, int]) -> Figures:
    flat = [row for group in groups.values() for row in group]
    points = [
        (
            label,
            _mean(g, "memorized_fraction"),
            _mean(g, "fd_heldout"),
            f"recall {number(_mean(g, 'recall'))}",
            color[str(g[0]["method"])],
        )
        for label, g in groups.items()
        if math.isfinite(_mean(g, "memorized_fraction") + _mean(g, "fd_heldout"))
    ]
    # Real data score better against more training images: one line for several sizes would be wrong for each.
    floor = _mean(flat, "fd_floor") if len(by_size(flat)) == 1 else math.nan
    null = _mean(flat, "heldout_memorized_fraction") if len(by_size(flat)) == 1 else math.nan
    figure = figures.frontier(
        points,
        name="frontier",
        xlabel="Copied share of the generated images",
        ylabel="Frechet distance to unseen images",
        floor=floor if math.isfinite(floor) else None,
        null=null if math.isfinite(null) else None,
    )
    return Figures(
        "Copying against quality",
        "Down and to the left is better. Quality alone does not show copying: a method at the far right"
        f" may reach a low Frechet distance by handing back its training data.{figures.numbered(points)}",
        (figure,),
    )


def _histograms(series: Sequence[Series], heldout: Distances | None, color: dict[str, int]) -> list[Block]:
    if not series:
        return []
    top = figures.distance_limit([s.generated.d1 for s in series] + ([heldout.d1] if heldout else []))
    far, near = (heldout.d1, heldout.ratio) if heldout else (None, None)
    d1, ratio = [], []
    for i, s in enumerate(series):
        shared: Any = {"title": s.method, "series": color[s.method]}
        d1.append(figures.histogram(s.generated.d1, far, name=f"d1-{i}", xlabel="d1", limit=top, **shared))
        ratio.append(figures.ratio_histogram(s.generated.ratio, near, name=f"ratio-{i}", **shared))
    return [
        Figures("Distance to the nearest training image (d1)", f"{_D1} {figures.LEGEND}", tuple(d1), "small"),
        Figures("How much one training image stands out (d1/d2)", f"{_RATIO} {figures.LEGEND}", tuple(ratio), "small"),
    ]


_D1 = "A generator that learned the data keeps the same distances as unseen real images. A heap at the left is copies."
_RATIO = (
    "Left of the dotted line at 1/3 an image counts as a copy. The share under the line is not enough to"
    " judge by: the whole shape should follow that of unseen real images."
)
