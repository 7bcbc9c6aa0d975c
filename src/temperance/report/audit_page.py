"""The page of an audit: one generated set, every figure beside its null."""

from collections.abc import Mapping
from typing import Any

from temperance.report import figures
from temperance.report.blocks import (
    Block,
    Cell,
    Column,
    Distances,
    Figures,
    Measurement,
    Notes,
    Page,
    Report,
    Row,
    Table,
    Tile,
    between,
    number,
    percent,
)
from temperance.report.render import SHOWN, facts, gallery

# name: heading, plain sentence
_AUDIT: dict[str, tuple[str, str]] = {
    "memorized_fraction": (
        "Copied",
        "Share of images at least three times closer to one training image than to any other.",
    ),
    "ratio_median": (
        "Typical d1/d2",
        "Nearest over second nearest distance of the middle image; should equal real data's.",
    ),
    "copy_auc": (
        "Closer than real",
        "Chance that a generated image is closer to the training set than an unseen real one.",
    ),
    "ct_score": (
        "Copying test (CT)",
        "Standard score of being farther than unseen data; below -3 is a clear sign of copying.",
    ),
    "authpct": (
        "Authentic, %",
        "Images farther from their nearest training image than its own neighbors are.",
    ),
    "fd_heldout": (
        "FD to unseen",
        "Frechet distance to unseen real images: how far off the set is as a whole.",
    ),
    "fd_train": ("FD to training", "The same distance to the training images; copies score well here."),
    "fd_ratio": (
        "FD ratio",
        "Distance to training images over distance to unseen ones; below 1 leans to the training set.",
    ),
    "mifid": (
        "MiFID",
        "Frechet distance to the training set, made worse when the images lie very close to it.",
    ),
    "kid": (
        "KID",
        "A second whole-set distance, free of the bias that small sets give the Frechet distance.",
    ),
    "precision": ("Precision", "Share of generated images that look like real ones."),
    "recall": ("Recall", "Share of real images that the generated ones come close to: variety."),
    "density": ("Density", "How thickly real images surround the generated ones; about 1 for real data."),
    "coverage": ("Coverage", "Share of real images with a generated one in their neighborhood."),
}
_SHARES = ("memorized_fraction",)


def audit_page(report: Report, *, title: str = "Does the generator hand back its training data?") -> Page:
    """The page of `temperance audit`: every measurement beside its null, the distances, the closest pairs."""
    tiles: list[Tile] = []
    blocks: list[Block] = []
    for i, (encoder, found) in enumerate(report.measurements.items()):
        tiles += _audit_tiles(encoder, found, report.flags.get(encoder), len(report.measurements) > 1)
        blocks.append(_audit_table(encoder, found, "heldout" in report.sizes))
        blocks += _audit_figures(encoder, report.distances[encoder], i)
        blocks.append(
            gallery(
                f"Closest pairs · {encoder}",
                "Each card: a generated image, its three nearest training images with their distances, and"
                " the absolute difference to the nearest one (black where they agree).",
                report.pairs[encoder][:SHOWN],
                report.sizes["generated"],
                show_difference=True,
            )
        )
    blocks += [
        Notes("What was tested", report.tested),
        Notes("What was not", report.untested, "warning"),
        facts(report.provenance),
    ]
    return Page(title, _audit_lede(report), tuple(tiles), tuple(blocks), "Temperance · audit")


def _audit_lede(report: Report) -> str:
    sizes = report.sizes
    text = f"{sizes['generated']} generated images were compared with all {sizes['train']} training images"
    if "heldout" not in sizes:
        return text + (
            ". No held-out images were given, so no number here can tell a copy from real data that merely"
            " look alike: give a held-out set to get p-values, the null of each figure, and distances to"
            " unseen data."
        )
    text += f"; {sizes['heldout']} real images that the model never saw went through the same test as the null. "
    parts = []
    for encoder, found in report.measurements.items():
        m = found["memorized_fraction"]
        share = f"{percent(m.value)} are copies by d1/d2 (unseen real images: {percent(m.null)})"
        if m.value == 0:
            most = percent(min(1, 3 / m.n))
            share = f"0 of {m.n} are copies by d1/d2, so at most {most} (3/n) with 95 % confidence"
        parts.append(f"In {encoder}: {share}; {report.flags.get(encoder)} are closer than chance allows.")
    return text + " ".join(parts)


def _audit_tiles(encoder: str, found: Mapping[str, Measurement], flagged: int | None, several: bool) -> list[Tile]:
    m, where = found["memorized_fraction"], f" · {encoder}" if several else ""
    range95 = (
        f"{between(m.low, m.high, percent)} at 95 %" if m.value else f"at most {percent(min(1, 3 / m.n))} at 95 % (3/n)"
    )
    null = "" if m.null is None else f" · unseen real {percent(m.null)}"
    tiles = [Tile(percent(m.value), f"copied by d1/d2{where}", range95 + null)]
    if flagged is not None:
        tiles.append(Tile(f"{flagged} of {m.n}", f"closer than chance allows{where}", "flagged at the chosen rate"))
    if "copy_auc" in found:
        tiles.append(
            Tile(
                number(found["copy_auc"].value),
                f"closer than unseen real{where}",
                "0.5 is right, 1 is copying",
            )
        )
    return tiles


def _audit_table(encoder: str, found: Mapping[str, Measurement], heldout: bool) -> Table:
    reference = "unseen real images" if heldout else "training images (no held-out set)"
    rows = []
    for name, (label, sentence) in _AUDIT.items():
        if name not in found:
            continue
        m = found[name]
        write = percent if name in _SHARES else number
        direction = {True: "higher", False: "lower", None: "like real data"}[m.higher_is_better]
        cells = (
            Cell(label, sentence),
            Cell(write(m.value)),
            Cell(between(m.low, m.high, write) or "–"),
            Cell(write(m.null)),
            Cell(direction),
            Cell(m.source),
        )
        rows.append(Row(cells))
    return Table(
        f"Measurements · {encoder}",
        f"Quality is measured against {reference}. Images are compared as {encoder} features.",
        (
            Column("Measurement", "What is measured, in one sentence.", text=True),
            Column("Value", "The figure for the generated images."),
            Column(
                "95 % interval",
                "The range that holds the true figure with 95 % confidence, where one can be given.",
            ),
            Column(
                "Real data",
                "The null: the same figure for real images. For copying, unseen images against the"
                " training set; for quality, the training images against the unseen ones.",
            ),
            Column("Better", "Which direction is better."),
            Column("Source", "Where the definition comes from.", text=True),
        ),
        tuple(rows),
    )


_AUDIT_DISTANCES = (
    "If nothing is copied, generated images are as far from the training set as unseen real ones: the"
    f" shapes agree, the curves coincide and the dots follow the diagonal. {figures.LEGEND}"
)


def _audit_figures(encoder: str, distances: Mapping[str, Distances], i: int) -> list[Block]:
    generated, null = distances["generated"], distances.get("heldout")
    far, near = (null.d1, null.ratio) if null else (None, None)
    shared: Any = {"series": i, "size": figures.PAIR}
    top = figures.distance_limit([generated.d1] if far is None else [generated.d1, far])
    shown = [
        figures.histogram(
            generated.d1,
            far,
            name=f"a{i}-d1",
            title="Distance to the nearest training image",
            xlabel="d1",
            limit=top,
            **shared,
        ),
        figures.ratio_histogram(
            generated.ratio,
            near,
            name=f"a{i}-ratio",
            title="How much one training image stands out",
            **shared,
        ),
        figures.cumulative(generated.d1, far, name=f"a{i}-ecdf", xlabel="d1", series=i),
    ]
    if far is not None:
        shown.append(figures.quantiles(generated.d1, far, name=f"a{i}-qq", xlabel="d1", series=i))
    caption = (
        _AUDIT_DISTANCES if far is not None else "Distances of the generated images; nothing to hold them against."
    )
    return [Figures(f"Distances · {encoder}", caption, tuple(shown), "pair")]
