"""The picture of docs/results.md: Frechet distance and recall against copy AUC while training, for every kept study.

    python -m benchmarks.frontier        writes docs/frontier.png from docs/results/*.json

One panel for each study of three seeds and figure; a line joins the looks at one method, its last one is large. An open
marker is a look that copies over .05 more than unseen images do.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
from benchmarks.kept import ROOT, Row, floor, seeds, studies, title
from benchmarks.tables import ENOUGH

from temperance.study.advice import ACCEPTED, curve

PICTURE = ROOT / "docs" / "frontier.png"
FIGURES = {"fd_heldout": "Frechet distance", "recall": "recall"}
DRAWN = {  # method: what it is called, colour, marker
    "conditional": ("plain training", "#c44e00", "o"),
    "conditional/guided": ("plain, guided", "#e6a042", "s"),
    "conditional/started": ("plain, smoothed start", "#0a8fb0", "h"),
    "conditional/augmented": ("plain, half augmented", "#c2185b", "P"),
    "conditional/augmented-all": ("plain, all augmented", "#7a1030", "*"),
    "conditional/augmented-all-started": ("plain, all augmented, smoothed start", "#2a9d2a", "d"),
    "conditional/augmented-guided": ("plain, half augmented, guided", "#4a4a4a", "X"),
    "tangent": ("tangent smoothing, default", "#1f6fb4", "^"),
    "tangent/halved-exact": ("halved width, exact targets", "#12806a", "D"),
    "tangent/halved-exact-guided-by-eighth": ("halved width, exact targets, guided", "#7d3c98", "v"),
}
ACROSS = 4  # studies in one row of panels


def drawn() -> Iterator[tuple[str, int, list[Row]]]:
    """The studies with enough seeds, and a method of ours that the picture shows."""
    for name, n, own in studies():
        if seeds(own) >= ENOUGH and {"conditional"} < {r["method"] for r in own} & set(DRAWN):
            yield name, n, own


def panel(axes: Any, own: list[Row], n: int, figure: str) -> None:
    for method, (label, color, marker) in DRAWN.items():
        looks = [m for _, m in curve(own, method, n)]
        if not looks:
            continue
        x, y = [m["copy_auc"] for m in looks], [m[figure] for m in looks]
        axes.plot(x, y, color=color, lw=1, alpha=0.6, zorder=2)
        for i, m in enumerate(looks):
            copies = m["memorized_fraction"] - m["heldout_memorized_fraction"] > ACCEPTED
            size = 60 if i == len(looks) - 1 else 12
            face = "white" if copies else color
            axes.scatter(x[i], y[i], s=size, marker=marker, facecolors=face, edgecolors=color, lw=1, zorder=3)
        axes.plot([], [], color=color, marker=marker, lw=1, label=label)
    axes.axvline(0.5, color="#555555", lw=0.8, ls=":", zorder=1)
    axes.set_xlim(0, 1.02)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def picture() -> Any:
    found = list(drawn())
    bands = -(-len(found) // ACROSS)
    canvas, grid = plt.subplots(2 * bands, ACROSS, figsize=(2.8 * ACROSS, 4.2 * bands), layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (name, n, own) in enumerate(found):
        for j, (figure, label) in enumerate(FIGURES.items()):
            axes = grid[2 * (i // ACROSS) + j, i % ACROSS]
            axes.set_axis_on()
            panel(axes, own, n, figure)
            if i % ACROSS == 0:
                axes.set_ylabel(label)
            if figure == "recall":
                axes.set_ylim(0, 1)
                axes.set_xlabel("copy AUC", fontsize=9)
            else:
                axes.axhline(floor(own), color="#555555", lw=0.8, ls="--", zorder=1)
                axes.set_ylim(0, 2.6 * min(m[figure] for _, m in curve(own, "conditional", n)))
                axes.set_title(title(name, n), fontsize=10)
    named = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    canvas.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False)
    return canvas


def drawn_from() -> str:
    """What the picture carries to tell whether its rows are still those that are kept."""
    own = [(name, n, [{k: v for k, v in r.items() if k != "again"} for r in rows]) for name, n, rows in drawn()]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    picture().savefig(PICTURE, dpi=100, metadata={"Rows": drawn_from()})
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
