"""The tables of README.md and of the pages of results, from the rows that are kept in docs/results/*.json.

    python -m benchmarks.tables            write all tables anew
    python -m benchmarks.tables --check    change nothing; exit 1 if a table is not what its rows say

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Its rows are means over seeds, and, where there are
several, the standard deviation over them. NAME is that of kept rows, below the commands that make them; of a run's
looks every second one is shown, and the best early stops. Or it is one of these, with a row for each study that has
several looks:

- `bars`: against each of the bars, where they have three seeds: displaced images without a network; tangent smoothing
  at the halved width with exact targets, unguided and guided, at its last step; plain training from a smoothed start,
  and training on images that all are augmented, alone and from one, where samples without a start are as near to the
  training images as these to one another (where they never are, at the last step); the last of these also after four
  times the steps of plain training's early stop; training on images half of which are augmented, at half of the steps
  that copies came after
- `headline`: some of these, a column each, beside plain training's early stops, where they have three seeds
- `halves`: plain training, guided and augmented, at half of the steps that copies came after, against their best stops
- `spacings`: plain and augmented training where samples are as near to the training images as these to one another
- `comparisons`: each method of ours at its last step, and stops with guidance or augmentation, against the best early
  stop of plain training that copies no more
- `distances`: the same methods against the best of plain training until it has their copy AUC, read between its looks

The first four are made of looks that were drawn a second time on every split; elsewhere one that was not has a mark.
`again` has a row for every table of rows: how many were drawn a second time.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from statistics import fmean, stdev
from typing import Any

from benchmarks.again import again, drawn_once, repeated
from benchmarks.kept import ROOT, SHOWN, Row, commands, floor, looked, rows, seeds, sizes, studies, title
from benchmarks.markdown import WRITTEN, at_step, cells, distance, header, several, share, shown

from temperance.study.advice import ACCEPTED, advise, against_early_stop, best_stop, curve, half_stop, spacing_stop

DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", DOCS / "results.md", DOCS / "repeat.md", *sorted((DOCS / "results").glob("*.md")))
MARK = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
AUGMENTED, ALL, GUIDED = "conditional/augmented", "conditional/augmented-all", "conditional/guided"
UNGUIDED, BEST = "tangent/halved-exact", "tangent/halved-exact-guided-by-eighth"
DISPLACED = "closed-form-tangent/matched"
STARTED, ALL_STARTED = BEGUN = ("conditional/started", "conditional/augmented-all-started")
SUMMED = ("no network", "smoothed", "half augmented", "started", "all augmented, started")  # settings of README
# What is stopped early itself.
STOPPED = (
    AUGMENTED,
    ALL,
    STARTED,
    ALL_STARTED,
    GUIDED,
    "conditional/augmented-guided",
    "conditional/guided-by-half",
)
ENOUGH = 3  # seeds for the first two tables
ONCE = " †"  # drawn a single time on some split
WON, NOT_WON = "won", "**not won**"
QUALITY = "fd_heldout", "recall", "precision"
Verdict = dict[str, Any]
Looks = list[tuple[int, dict[str, float]]]


def table(name: str) -> str:
    """The rows of one study or demo, below the commands that make them."""
    own = [{"steps": 0} | r for r in rows(name)]
    null = fmean(r["heldout_memorized_fraction"] for r in own)
    count = seeds(own)
    made = [
        "```sh",
        *commands(name),
        "```",
        "",
        f"{count} seed{'s' * (count > 1)}, held-out images copied {share(null)}:",
    ]
    return "\n".join([*made, "", *(by_size(own) if len(sizes(own)) > 1 else by_look(own))])


def by_look(own: list[Row]) -> Iterator[str]:
    """One row for each method and look, of every second look, the last and the best early stops."""
    yield header("method", "step", "copied", "copy AUC", f"FD (floor {distance(floor(own))})", "recall", "precision")
    stops = {
        place
        for v in ours(own)
        for place in (("conditional", v["early_stop"]["steps"]), (v["method"], v["steps"] * (v["method"] in STOPPED)))
    }
    for method in dict.fromkeys(r["method"] for r in own):
        looks = sorted({r["steps"] for r in own if r["method"] == method})
        if not looked(own):
            yield line(method, looks, [r for r in own if r["method"] == method])
            continue
        for i, step in enumerate(looks):
            stop = (method, step) in stops and step != looks[-1]
            if stop or i % 2 == (len(looks) - 1) % 2:
                group = [r for r in own if (r["method"], r["steps"]) == (method, step)]
                yield line(method + " (best early stop)" * stop, [step], group)


def by_size(own: list[Row]) -> Iterator[str]:
    """One row for each number of training images, and how the time to memorize grows with it."""
    yield header(
        "images", "conditional leaves .05 copied at step", "best early stop: step, copied, FD, recall",
        "tangent: copied, copy AUC, FD, recall", "FD floor",
    )  # fmt: skip
    advice = advise(own)
    for v in (v for v in against_early_stop(own) if v["method"] == "tangent"):
        n, stop = v["n_train"], v["early_stop"]
        step = advice["memorization_step"][str(n)]
        yield cells(
            str(n),
            "never" if step is None else f"{'before ' * (n in advice['passed_before_first_look'])}{step:,.0f}",
            f"{stop['steps']:,}, {shown(stop, 'memorized_fraction', 'fd_heldout', 'recall')}",
            shown(v, "memorized_fraction", "copy_auc", "fd_heldout", "recall"),
            distance(floor(r for r in own if r["n_train"] == n)),
        )
    law = advice["scaling"]
    if law is not None:
        power = f"{law['factor']:.2g} n^{law['exponent']:.2f}"
        yield from ("", f"Fitted to {law['points']} sizes: {power} steps until .05 are copied.")


def bars() -> Iterator[str]:
    """The best early stop, then ours without one that is picked, against every bar (in brackets what it asks for)."""
    yield header(
        "images", "method", "early stop: step, FD, recall, precision", "ours", "copied (at most)",
        "copy AUC (at most)", "missed",
    )  # fmt: skip
    for name, n, own in repeated():
        if seeds(own) >= ENOUGH:
            for setting, v in unpicked(own, n).items():
                stop, most = v["early_stop"], v["heldout_memorized_fraction"] + ACCEPTED
                auc = allowed(curve(own, "conditional", n))
                missed = {
                    "FD": v["fd_heldout"] > stop["fd_heldout"],
                    "recall": v["recall"] <= stop["recall"],
                    "copied": v["memorized_fraction"] > most,
                    "copy AUC": v["copy_auc"] > auc,
                }
                yield cells(
                    title(name, n),
                    setting,
                    *(shown(m, "steps", *QUALITY) for m in (stop, v)),
                    f"{share(v['memorized_fraction'])} ({share(most)})",
                    f"{share(v['copy_auc'])} ({share(auc)})",
                    ", ".join(f"**{bar}**" for bar, miss in missed.items() if miss),
                )


def unpicked(own: list[Row], n: int) -> dict[str, Verdict]:
    """The settings that a study ran, none at a look that was picked by its figures."""
    ended = {v["method"]: v for v in ours(own) if v["method"] not in STOPPED}
    found = {
        "no network": ended.get(DISPLACED),
        "smoothed, unguided": ended.get(UNGUIDED),
        "smoothed": ended.get(BEST),
        "started": handed_over(own, n, STARTED, spacing_stop, "conditional"),
        "half augmented": handed_over(own, n, AUGMENTED, half_stop, AUGMENTED),
        "all augmented": handed_over(own, n, ALL, spacing_stop, ALL),
        "all augmented, started": handed_over(own, n, ALL_STARTED, spacing_stop, ALL),
        "the same, four times": after_four_times(own, n, ALL_STARTED),
    }
    return {setting: v for setting, v in found.items() if v is not None}


def handed_over(
    own: list[Row], n: int, method: str, rule: Callable[..., dict[str, Any] | None], watched: str
) -> Verdict | None:
    """A method where a run that stops by a rule is handed over, against the best early stop of plain training.

    Each seed stands where the rule stops the method `watched`, or at its last step where it says nothing: no copies
    that halve it, or copies at the first look, which hides none: they are counted. Rows that were drawn before
    `spacing_auc` was have held-out images stand in for the training ones.
    """
    found = []
    for seed in dict.fromkeys(r["seed"] for r in own if r["method"] == method):
        of = [{"spacing_auc": r["copy_auc"], **r} for r in own if r["seed"] == seed]
        looks, stop = dict(curve(of, method, n)), rule(of, watched, n)
        asked = stop["steps"][0] if stop else max(looks)
        found.append(min(looks.items(), key=lambda look: abs(math.log(look[0] / asked))))
    if not found:
        return None
    figures = {name: fmean(m[name] for _, m in found) for name in (*SHOWN, "heldout_memorized_fraction")}
    return beside_stop(own, n, {"method": method, "steps": [step for step, _ in found], **figures})


def after_four_times(own: list[Row], n: int, method: str) -> Verdict | None:
    """A method after four times the steps of plain training's stop.

    That stop is the best of those that copy no more than unseen images; of the looks, the one nearest to four times its
    steps, as a ratio, is taken. Nothing of its own figures is asked.
    """
    plain, looks = curve(own, "conditional", n), curve(own, method, n)
    if not looks:
        return None
    stop, _, _ = best_stop(plain, plain[-1][1]["heldout_memorized_fraction"])
    step, figures = min(looks, key=lambda look: abs(math.log(look[0] / (4 * stop))))
    return beside_stop(own, n, {"method": method, "steps": step, **figures})


def beside_stop(own: list[Row], n: int, m: Verdict) -> Verdict:
    """A method's figures with the best early stop of plain training that copies no more than it or unseen images."""
    most = max(m["memorized_fraction"], m["heldout_memorized_fraction"])
    step, stop, _ = best_stop(curve(own, "conditional", n), most)
    return {**m, "early_stop": {"steps": step, **stop}}


def headline() -> Iterator[str]:
    """The best early stops, and `SUMMED` without one that is picked, each at its step; bold if won; what is copied."""
    yield header("images", "early stop", "early stop, guided", *SUMMED)
    copied = {True: 0.0, False: 0.0}
    for name, n, own in repeated():
        found = {setting: v for setting, v in unpicked(own, n).items() if setting in SUMMED}
        if len(found) > 1 and seeds(own) >= ENOUGH:
            best = min((v["early_stop"] for v in found.values()), key=lambda stop: stop["fd_heldout"])
            guided = [v for v in ours(own) if v["method"] == GUIDED]
            stops = [at_step(best, *QUALITY), "".join(at_step(v, *QUALITY) for v in guided)]
            yield cells(title(name, n), *stops, *(beside(found.get(setting), best) for setting in SUMMED))
            for stopped, of in ((True, [best, *guided]), (False, found.values())):
                copied[stopped] = max([copied[stopped], *(v["memorized_fraction"] for v in of)])
    yield from (
        "",
        f"Copied are at most {share(copied[False])} of our samples, {share(copied[True])} of an early stop's.",
    )


def beside(m: Verdict | None, stop: Verdict) -> str:
    if m is None:
        return ""
    text = at_step(m, *QUALITY)
    return f"**{text}**" if {outcome(m, stop), outcome(m, m["early_stop"])} == {WON} else text


def comparisons() -> Iterator[str]:
    """The best early stop that copies no more, then a method of ours: a row for every kept study, size and method."""
    yield header(
        "images", "method", "seeds", "steps", "copied", "copy AUC", "FD (floor)", "recall", "precision", "",
    )  # fmt: skip
    for name, n, own in studies():
        for v in ours(own):
            pairs = pair(v, "steps", "memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision")
            pairs[3] += f" ({distance(floor(own))})"
            won = outcome(v, v["early_stop"])
            yield cells(title(name, n), named(v, own), str(seeds(own)), *pairs, won)


def distances() -> Iterator[str]:
    """Our methods against the best of plain training that is no closer to the training images."""
    yield header(
        "images", "method", "seeds", "copy AUC", "method: step, FD, recall", "plain training: step, FD, recall", ""
    )
    for name, n, own in studies():
        plain = curve(own, "conditional", n)
        for v in ours(own):
            start = [title(name, n), named(v, own), str(seeds(own)), share(v["copy_auc"])]
            yield cells(*start, shown(v, "steps", "fd_heldout", "recall"), *equally_close(plain, v))


def named(v: Verdict, own: list[Row]) -> str:
    """A method, marked where its look or the early stop beside it was drawn once."""
    n, stop = v["n_train"], v["early_stop"]
    looks = {(v["method"], n, v["steps"]), ("conditional", n, stop["steps"])}
    return v["method"] + ONCE * (not looks.isdisjoint(drawn_once(own)))


def halves() -> Iterator[str]:
    """Stops at half of the steps that copies came after, beside the best that copies no more, or the accepted share."""
    yield header(
        "images", "method", "seeds", "copies came after", "half: step, copied, FD, recall",
        "best stop that copies no more", f"that copies {share(ACCEPTED)} more than unseen images",
    )  # fmt: skip
    for name, n, own in repeated():
        for method in ("conditional", *STOPPED):
            half = half_stop(own, method, n)
            if half is not None and method not in BEGUN:
                null, looks = half["heldout_memorized_fraction"], curve(own, method, n)
                stops = (best_stop(looks, most) for most in (max(half["memorized_fraction"], null), null + ACCEPTED))
                found = [title(name, n), method, str(seeds(own)), several(half["copies"])]
                yield cells(*found, at_step(half), *(at_step({"steps": step, **best}) for step, best, _ in stops))


def spacings() -> Iterator[str]:
    """Stops where samples are as near to the training images as these to one another, beside picked ones."""
    yield header(
        "images", "method", "seeds", "spacing: step, copied, FD, recall", "copy AUC", "best stop that copies no more"
    )
    for name, n, own in repeated():
        for method in ("conditional", *STOPPED):
            stop = spacing_stop(own, method, n)
            if stop is not None and method not in BEGUN:
                most = max(stop["memorized_fraction"], stop["heldout_memorized_fraction"])
                step, best, _ = best_stop(curve(own, method, n), most)
                start = [title(name, n), method, str(seeds(own)), at_step(stop), share(stop["copy_auc"])]
                yield cells(*start, at_step({"steps": step, **best}))


def equally_close(plain: Looks, v: Verdict) -> tuple[str, str]:
    """The best of plain training before it is closer than a method or unseen images, and the outcome.

    Both are blank where its first look is closer already.
    """
    looks = up_to(plain, max(v["copy_auc"], 0.5))
    if not looks:
        return "", ""
    step, stop = min(looks, key=lambda look: look[1]["fd_heldout"])
    return shown({"steps": step, **stop}, "steps", "fd_heldout", "recall"), outcome(v, stop)


def up_to(looks: Looks, auc: float) -> Looks:
    """The looks before training first exceeds a copy AUC, and where it does, read between looks over log steps."""
    before = list(takewhile(lambda look: look[1]["copy_auc"] <= auc, looks))
    if not before or len(before) == len(looks):
        return before
    (early, a), (late, b) = before[-1], looks[len(before)]
    part = (auc - a["copy_auc"]) / (b["copy_auc"] - a["copy_auc"])
    return [*before, (round(early * (late / early) ** part), {k: a[k] + part * (b[k] - a[k]) for k in a})]


def allowed(plain: Looks) -> float:
    """The copy AUC that exceeds one half by half of what plain training comes to."""
    return (max(plain[-1][1]["copy_auc"], 0.5) + 0.5) / 2


def ours(own: list[Row]) -> list[Verdict]:
    """What takes no network, methods of ours, and other stops, against the best early stop; shortest names first."""
    kinds = (*STOPPED, DISPLACED)
    found = [v for v in against_early_stop(own) if v["method"].startswith("tangent") or v["method"] in kinds]
    return sorted(found, key=lambda v: (v["method"] in STOPPED, v["method"] != DISPLACED, len(v["method"])))


def outcome(own: dict[str, Any], stop: dict[str, Any]) -> str:
    """Won: a Frechet distance that is not worse, and more recall."""
    return WON if own["fd_heldout"] <= stop["fd_heldout"] and own["recall"] > stop["recall"] else NOT_WON


def pair(v: Verdict, *figures: str) -> list[str]:
    """Each figure of an early stop and of the method beside it."""
    return [", ".join(shown(m, figure) for m in (v["early_stop"], v)) for figure in figures]


def line(method: str, steps: list[int], group: list[Row]) -> str:
    figures = []
    for figure in SHOWN:
        values, write = [r[figure] for r in group], WRITTEN.get(figure, share)
        spread = f" ± {write(stdev(values))}" if len(values) > 1 and figure in ("fd_heldout", "recall") else ""
        figures.append(write(fmean(values)) + spread)
    mark = ONCE * any("again" not in r for r in group)
    return cells(method, " and ".join(f"{s:,}" for s in steps if s) + mark, *figures)


WHOLE = {of.__name__: of for of in (bars, headline, comparisons, distances, halves, spacings, again)}


def written(page: str) -> str:
    """A page with all of its tables made anew."""

    def drawn(name: str) -> str:
        return "\n".join(WHOLE[name]()) if name in WHOLE else table(name)

    return MARK.sub(lambda m: f"<!-- table: {m['name']} -->\n{drawn(m['name'])}\n<!-- end -->", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
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
