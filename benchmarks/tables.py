"""The tables of README.md and docs/results.md, from the rows that a demo or a study left.

    python -m benchmarks.tables                         write all tables anew from docs/results/*.json
    python -m benchmarks.tables --keep digits-100 out/study.json     keep a study's rows there first
    python -m benchmarks.tables --keep emoji-100 a/study.json b/study.json     or those of several, each row once
    python -m benchmarks.tables --keep digits-100 docs/results/digits-100.json more/study.json     add to what is kept
    python -m benchmarks.tables --check                 change nothing; exit 1 if a table is not what its rows say

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Its rows are means over seeds, and, where there are
several, the standard deviation over them. Of a run's looks, every second one is shown, and the best early stops. The
table `comparisons` has one row for each study and method of ours: tangent smoothing at its last step, with autoguidance
or without, and guided early stops, against the best early stop of plain training that copies no more. `summary` has one
row for each study with three of those methods, a column each, `prices` has what `summary` leaves out, and `headline` is
`summary` without the studies of fewer than three seeds. `distances`
reads all methods at the look with the lowest Frechet distance among those where copy AUC exceeds .5 by at most half of
what plain training comes to.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from temperance.atomic import write_json
from temperance.study.advice import advise, against_early_stop, best_stop, curve

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
MARK = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
SHOWN = ("memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision")
NEEDED = ("method", "seed", "n_train", "steps", "heldout_memorized_fraction", "fd_floor", *SHOWN)
OURS = {
    "tangent": "tangent smoothing",
    "tangent/exact": "tangent smoothing with exact targets",
    "tangent/halved-exact": "tangent smoothing, halved width, exact",
    "tangent/guided": "tangent smoothing with autoguidance",
    "tangent/guided-by-half": "tangent smoothing guided by half of its steps",
    "tangent/exact-guided-by-eighth": "tangent smoothing with exact targets, guided by an eighth of its steps",
    "tangent/halved-exact-guided-by-eighth": "tangent smoothing, halved width, exact, guided by an eighth",
    "tangent/matched-exact-guided-by-eighth": "tangent smoothing, matched width, exact, guided by an eighth",
    "conditional/guided": "a guided early stop",
    "conditional/guided-by-half": "an early stop guided by half of its steps",
}
SUMMED = {  # the default, and the other settings of README
    "tangent": "default",
    "tangent/exact-guided-by-eighth": "exact, guided",
    "tangent/halved-exact-guided-by-eighth": "halved, exact, guided",
}
SHORT = {  # the least number of seeds, and the figures
    "headline": (3, "memorized_fraction", "fd_heldout", "recall"),
    "summary": (1, "memorized_fraction", "fd_heldout", "recall"),
    "prices": (1, "copy_auc", "precision"),
}
KINDS = {  # of a kept file's name
    "unet": "UNet",
    "unet-guided": "UNet",
    "unet-long": "UNet",
    "28x28": "28x28",
    "28x28-long": "28x28",
    "32x32": "32x32, UNet",
    "32x32-long": "32x32, UNet",
}
NOT_WON = "**not won**"
Row = dict[str, Any]
Looks = list[tuple[int, dict[str, float]]]


def keep(name: str, files: list[Path]) -> None:
    """Copy what a table needs of a `study.json` or `results.json`, rounded to what it shows and a little more."""
    found = [json.loads(file.read_text()) for file in files]
    once = {tuple(r.get(k) for k in NEEDED[:4]): r for one in found for r in one["rows"]}
    rows = [{k: round(v, 5) if isinstance(v, float) else v for k, v in r.items() if k in NEEDED} for r in once.values()]
    commands = "` and `".join(one["command"] if "command" in one else one["provenance"]["command"] for one in found)
    write_json(KEPT / f"{name}.json", {"command": commands, "rows": rows})


def table(name: str) -> str:
    """One table as Markdown, with the command above and, for a study, the comparison with early stopping below."""
    found = json.loads((KEPT / f"{name}.json").read_text())
    rows = [{"steps": 0} | r for r in found["rows"]]
    seeds, floor = len({r["seed"] for r in rows}), floors(rows)
    null = fmean(r["heldout_memorized_fraction"] for r in rows)
    said = f"`{found['command']}`; {seeds} seed{'s' * (seeds > 1)}, held-out images copied {share(null)}:"
    if len({r["n_train"] for r in rows}) > 1:
        return "\n".join([said, "", *by_size(rows)])
    head = f"| method | step | copied | copy AUC | FD (floor {distance(floor)}) | recall | precision |"
    lines = [said, "", head, "|" + "---|" * 7]
    if len(rows) == len({(r["method"], r["seed"]) for r in rows}):  # a demo: nothing looked at on the way
        for method in dict.fromkeys(r["method"] for r in rows):
            group = [r for r in rows if r["method"] == method]
            lines.append(line(method, sorted({r["steps"] for r in group}), group))
        return "\n".join(lines)
    verdicts = [v for v in against_early_stop(rows) if v["method"] in OURS]
    stops = {("conditional", v["early_stop"]["steps"]) for v in verdicts} | {
        (v["method"], v["steps"]) for v in verdicts
    }
    for method, n in dict.fromkeys((r["method"], r["n_train"]) for r in rows):
        looks = [steps for steps, _ in curve(rows, method, n)]
        for steps in looks:
            stop = (method, steps) in stops and steps != looks[-1]
            if stop or looks.index(steps) % 2 == (len(looks) - 1) % 2:
                group = [r for r in rows if (r["method"], r["n_train"], r["steps"]) == (method, n, steps)]
                lines.append(line(method + (" (best early stop)" if stop else ""), [steps], group))
    return "\n".join([*lines, *(verdict(v) for v in verdicts)])


def by_size(rows: list[Row]) -> list[str]:
    """One row for each number of training images, and how the time to memorize grows with it."""
    advice = advise(rows)
    lines = [
        "| images | conditional leaves .05 copied at step | best early stop: step, copied, FD, recall "
        "| tangent: copied, copy AUC, FD, recall | FD floor |",
        "|" + "---|" * 5,
    ]
    for v in (v for v in against_early_stop(rows) if v["method"] == "tangent"):
        n, stop = v["n_train"], v["early_stop"]
        step = advice["memorization_step"][str(n)]
        floor = floors(r for r in rows if r["n_train"] == n)
        cells = [
            str(n),
            "never" if step is None else f"{'before ' * (n in advice['passed_before_first_look'])}{step:,.0f}",
            f"{stop['steps']:,}, " + ", ".join(shown(stop, "memorized_fraction", "fd_heldout", "recall")),
            ", ".join(shown(v, "memorized_fraction", "copy_auc", "fd_heldout", "recall")),
            distance(floor),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    law = advice["scaling"]
    if law is not None:
        power = f"{law['factor']:.2g} n^{law['exponent']:.2f}"
        lines += ["", f"Fitted to {law['points']} sizes: {power} steps until .05 are copied."]
    return lines


def comparisons() -> str:
    """Our methods against the best early stop that copies no more: a row for every kept study, size and method."""
    found = [
        (*place, list(OURS).index(v["method"]), summed(place[-1], rows, v))
        for place, rows, verdicts in studies()
        for v in verdicts
        if v["method"] in OURS
    ]
    return "\n".join(
        [
            "| images | method | seeds | step: early stop, method | copied: same | FD: same (floor) | recall: same | |",
            "|" + "---|" * 8,
            *(row for *_, row in sorted(found)),
        ]
    )


def studies() -> Iterator[tuple[tuple[str, int, str], list[Row], list[dict[str, Any]]]]:
    """Every kept study and size in order: where it stands, its rows, and its methods against an early stop."""
    found = []
    for path in KEPT.glob("*.json"):
        rows = json.loads(path.read_text())["rows"]
        for n in {r["n_train"] for r in rows} if path.stem != "demo" else ():
            own = [r for r in rows if r["n_train"] == n]
            found.append(((path.stem.split("-")[0], n, path.stem), own, against_early_stop(own)))
    yield from sorted(found, key=lambda study: study[0])


def summed(stem: str, rows: list[Row], v: dict[str, Any]) -> str:
    stop = v["early_stop"]
    cells = [
        named(stem, v["n_train"]),
        v["method"],
        str(len({r["seed"] for r in rows})),
        f"{stop['steps']:,}, {v['steps']:,}",
        f"{share(stop['memorized_fraction'])}, {share(v['memorized_fraction'])}",
        f"{distance(stop['fd_heldout'])}, {distance(v['fd_heldout'])} ({distance(floors(rows))})",
        f"{share(stop['recall'])}, {share(v['recall'])}",
        outcome(v, stop),
    ]
    return "| " + " | ".join(cells) + " |"


def summary(least: int, *names: str) -> str:
    """The named figures of each study of `least` seeds: the best early stop, `SUMMED` at the last step, bold if won."""
    lines = ["| images | seeds | early stop | " + " | ".join(SUMMED.values()) + " |", "|" + "---|" * (3 + len(SUMMED))]
    for (_, n, stem), rows, verdicts in studies():
        own = {v["method"]: v for v in verdicts if v["method"] in SUMMED}
        if own and len({r["seed"] for r in rows}) >= least:
            best = min((v["early_stop"] for v in own.values()), key=lambda stop: stop["fd_heldout"])
            cells = [named(stem, n), str(len({r["seed"] for r in rows})), at_step(best, *names)]
            for v in (own.get(method) for method in SUMMED):
                cell = "" if v is None else at_step(v, *names)
                cells.append(f"**{cell}**" if v and outcome(v, v["early_stop"]) != NOT_WON else cell)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def at_step(m: dict[str, Any], *names: str) -> str:
    return f"{m['steps']:,}: " + ", ".join(shown(m, *names))


def distances() -> str:
    """Each of our methods at its best look among those with half of plain training's excess of copy AUC, or less."""
    found = []
    for (data, n, stem), rows, _ in studies():
        for method in OURS:
            plain, ours = curve(rows, "conditional", n), curve(rows, method, n)
            if len(plain) > 1 and len(ours) > 1:
                found.append(((data, n, stem, method), halved(f"{named(stem, n)} | {method}", plain, ours)))
    return "\n".join(
        [
            "| images | method | copy AUC of plain training | allowed | method: step, copy AUC, FD, recall "
            "| best early stop: step, copy AUC, FD, recall | |",
            "|" + "---|" * 7,
            *(row for _, row in sorted(found)),
        ]
    )


def halved(name: str, plain: Looks, ours: Looks) -> str:
    """One row of `distances`; the early stop beside it is the best that copies no more."""
    last = plain[-1][1]["copy_auc"]
    allowed = (max(last, 0.5) + 0.5) / 2
    fair = [look for look in ours if look[1]["copy_auc"] <= allowed]
    if not fair:
        return f"| {name} | {share(last)} | {share(allowed)} | none | | {NOT_WON} |"
    step, own = min(fair, key=lambda look: look[1]["fd_heldout"])
    stop, other, _ = best_stop(plain, max(own["memorized_fraction"], own["heldout_memorized_fraction"]))
    cells = [
        name,
        share(last),
        share(allowed),
        f"{step:,} of {ours[-1][0]:,}, " + ", ".join(shown(own, "copy_auc", "fd_heldout", "recall")),
        f"{stop:,}, " + ", ".join(shown(other, "copy_auc", "fd_heldout", "recall")),
        outcome(own, other),
    ]
    return "| " + " | ".join(cells) + " |"


def outcome(own: dict[str, Any], stop: dict[str, Any]) -> str:
    """Won: a Frechet distance that is not worse, and more recall."""
    return "won" if own["fd_heldout"] <= stop["fd_heldout"] and own["recall"] > stop["recall"] else NOT_WON


def floors(rows: Iterable[Row]) -> float:
    """The mean floor, every split counted once, however many methods were run on it."""
    return fmean({r["seed"]: r["fd_floor"] for r in rows}.values())


def shown(m: dict[str, Any], *names: str) -> list[str]:
    return [distance(m[name]) if name == "fd_heldout" else share(m[name]) for name in names]


def named(stem: str, n: int) -> str:
    """What a row of the summary is about: `mnist-100-unet` is mnist, 100, UNet."""
    data, _, kind = (*stem.split("-", 2), "")[:3]
    return ", ".join([data, str(n), *([KINDS.get(kind, kind)] if kind else [])])


def line(method: str, steps: list[int], rows: list[Row]) -> str:
    cells = [method, " and ".join(f"{s:,}" for s in steps if s)]
    for key in SHOWN:
        values = [r[key] for r in rows]
        show = distance if key == "fd_heldout" else share
        spread = f" ± {show(stdev(values))}" if len(values) > 1 and key in ("fd_heldout", "recall") else ""
        cells.append(show(fmean(values)) + spread)
    return "| " + " | ".join(cells) + " |"


def verdict(v: dict[str, Any]) -> str:
    """One sentence on one of our methods against the best early stop that copies no more."""
    stop = v["early_stop"]
    at = f" at step {v['steps']:,}" if v["method"].startswith("conditional/") else ""
    which = "that copies no more" if stop["copies_no_more"] else "there is, which copies more,"
    return (
        f"\nThe best early stop {which} is at step {stop['steps']:,}: FD {distance(stop['fd_heldout'])} against "
        f"{distance(v['fd_heldout'])} for {OURS[v['method']]}{at}, "
        f"recall {share(stop['recall'])} against {share(v['recall'])}: {outcome(v, stop)}."
    )


def share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.2f}"


def distance(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def written(page: str) -> str:
    """A page with all of its tables made anew."""

    def drawn(name: str) -> str:
        if name in SHORT:
            return summary(*SHORT[name])
        whole = {"comparisons": comparisons, "distances": distances}.get(name)
        return table(name) if whole is None else whole()

    return MARK.sub(lambda m: f"<!-- table: {m['name']} -->\n{drawn(m['name'])}\n<!-- end -->", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs="+", metavar=("NAME", "FILE"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.keep:
        keep(options.keep[0], [Path(file) for file in options.keep[1:]])
    for path in PAGES:
        old = path.read_text()
        new = written(old)
        if options.check and new != old:
            sys.exit(f"{path.name}: a table is not what its rows say; run `python -m benchmarks.tables`")
        if new != old:
            path.write_text(new)
            print(path.name)


if __name__ == "__main__":
    main()
