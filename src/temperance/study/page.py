"""The page of a study: the Pareto plots, the curves behind them, and who beats an early stop."""

from collections.abc import Sequence
from shlex import quote
from statistics import fmean
from typing import Any

from temperance.metrics import EVEN
from temperance.report import Block, Cell, Column, Figure, Figures, Page, Row, Table, comparison, curves
from temperance.report.figures import frontier, numbered
from temperance.study.advice import curve, means
from temperance.study.plan import Plan

SHOWN = 8  # lines that a plot can hold and still be read


def page(plan: Plan, found: dict[str, Any]) -> Page:
    """Lay out a study's results."""
    rows = found["rows"]
    last: dict[Any, dict[str, Any]] = {}
    for row in rows:  # in the order of methods, on which colors depend: a guided method's first look is a later one
        key = row["method"], row["n_train"], row["seed"]
        last[key] = max(last.get(key, row), row, key=lambda r: r["steps"])
    extra = [_pareto_auc(rows), *_over_steps(rows, plan), *_over_n(found), _verdicts(found)]
    return comparison(
        list(last.values()),
        title=f"Copying and quality on {plan.data}, over {plan.over}",
        provenance=found["provenance"],
        notes=(found["provenance"]["split"] + ".", *_advice(found)),
        extra=[block for block in extra if block is not None],
    )


def command(plan: Plan) -> str:
    """The command line that repeats this plan; options at their defaults are left out."""
    usual = Plan(data=plan.data, heldout=plan.heldout)
    parts = ["temperance study", quote(plan.data), "--heldout", quote(plan.heldout)]
    parts += [f"--method {m}" for m in plan.methods]
    named = (
        "over",
        "n_train",
        "n_heldout",
        "n_samples",
        "steps",
        "batch_size",
        "network",
        "size",
        "channels",
        "on_bad",
    )
    for name in named:
        value = getattr(plan, name)
        if value != getattr(usual, name):
            parts.append(f"--{name.removeprefix('n_') if name == 'n_samples' else name.replace('_', '-')} {value}")
    parts += [f"--seed {plan.seeds[0]}"] if plan.seeds[0] else []
    parts += [f"--seeds {len(plan.seeds)}"] if len(plan.seeds) != len(usual.seeds) else []
    return " ".join([*parts, "--out out"])


def _pareto_auc(rows: Sequence[dict[str, Any]]) -> Figures:
    """All methods at their last step: copy AUC against FD, recall beside it."""
    order = list(dict.fromkeys(r["method"] for r in rows))
    table = means(rows)
    last = {(m, n): max(s for a, b, s in table if (a, b) == (m, n)) for m, n, _ in table}
    sizes = {n for _, n in last}
    floor = sum(r["fd_floor"] for r in rows) / len(rows) if len(sizes) == 1 else None  # it differs with n
    points = []
    for (method, n), steps in last.items():
        m = table[(method, n, steps)]
        label = method if len(sizes) == 1 else f"{method} (n {n})"
        points.append((label, m["copy_auc"], m["fd_heldout"], f"recall {m['recall']:.2f}", order.index(method)))
    figure = frontier(
        points,
        name="pareto-auc",
        xlabel="Chance that a sample is closer to the training set than an unseen image is (copy AUC)",
        ylabel="Frechet distance to unseen images",
        floor=floor,
        null=EVEN,
    )
    return Figures(
        "Closeness against quality",
        "The right place is on the dotted line, as low as possible. Left of it samples are farther from the training"
        f" set than real images are: blurred or wrong, not better.{numbered(points)}",
        (figure,),
    )


def _over_steps(rows: Sequence[dict[str, Any]], plan: Plan) -> list[Figures]:
    """Copying, Frechet distance and recall against steps, one line a method."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    trained = list(dict.fromkeys(r["method"] for r in rows if r["steps"]))
    null = fmean(r["heldout_memorized_fraction"] for r in rows if r["n_train"] == plan.n_train)
    drawn: list[Figure] = []
    for key, label in (
        ("memorized_fraction", "copied share"),
        ("copy_auc", "copy AUC"),
        ("fd_heldout", "Frechet distance to unseen images"),
        ("recall", "recall"),
    ):
        lines = []
        for method in trained[:SHOWN]:
            looks = curve(rows, method, plan.n_train)
            if len(looks) > 1:
                values = [m[key] for _, m in looks]
                lines.append((method, [s for s, _ in looks], values, methods.index(method)))
        if lines:
            level = {"memorized_fraction": ("unseen real images", null), "copy_auc": ("right", EVEN)}.get(key)
            drawn.append(
                curves(
                    lines, name=f"steps-{key}", xlabel="training steps", ylabel=label, level=level, log=(True, False)
                )
            )
    if not drawn:
        return []
    some = f" The first {SHOWN} of {len(trained)} methods; the table has all." if len(trained) > SHOWN else ""
    text = f"{plan.n_train} training images; means over seeds.{some}"
    return [Figures("Over training steps", text, tuple(drawn))]


def _over_n(found: dict[str, Any]) -> list[Figures]:
    """The step at which conditional training starts to copy, against n."""
    stops, law = found["early_stop"], found["early_stop"]["scaling"]
    times = {int(n): t for n, t in stops["memorization_step"].items() if t is not None}
    times = {n: t for n, t in times.items() if n not in stops["passed_before_first_look"]}
    if law is None:
        return []
    sizes = sorted(times)
    fit = [law["factor"] * n ** law["exponent"] for n in sizes]
    lines = [("measured", sizes, [times[n] for n in sizes], 0), ("power law", sizes, fit, 1)]
    figure = curves(
        lines, name="scaling", xlabel="training images", ylabel="steps until copying starts", log=(True, True)
    )
    text = (
        f"Steps until conditional training copies: {law['factor']:.3g} n^{law['exponent']:.2f}, fitted to"
        f" {law['points']} sizes."
    )
    return [Figures("When copying starts", text, (figure,))]


def _verdicts(found: dict[str, Any]) -> Block | None:
    """Every method beside the best early stop that copies no more."""
    rows = []
    for v in found["against_early_stop"]:
        stop = v["early_stop"]
        words = "yes" if v["fd_not_worse"] and v["recall_higher"] and not v["copies_more"] else "no"
        size = "" if len({w["n_train"] for w in found["against_early_stop"]}) == 1 else f" · n = {v['n_train']}"
        fair = "" if stop["copies_no_more"] else " · copies more"
        own = " · copies more at every look" if v["copies_more"] else ""
        cells = [Cell(v["method"], f"step {v['steps']}{size}{own}")]
        for key in ("memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision"):
            cells.append(Cell(f"{v[key]:.3g}", f"early stop {stop[key]:.3g}"))
        cells.append(Cell(words, f"stop at {stop['steps']}{fair}"))
        rows.append(Row(tuple(cells)))
    if not rows:
        return None
    names = ("Copied", "Copy AUC", "FD to unseen", "Recall", "Precision", "Beats it")
    columns = (Column("Method", "And the step it is taken at.", text=True), *(Column(n, "") for n in names))
    return Table(
        "Against the best early stop",
        "Each method at its last step, variants of conditional training at their best look that copies at most .05 more"
        " than unseen images; below, conditional training at the look with the lowest Frechet distance among"
        " those that copy no more. That look is picked with knowledge of these figures, which favors it. A method beats"
        " it when its Frechet distance is not higher and its recall is.",
        columns,
        tuple(rows),
    )


def _never(n: str, accepted: str, rows: Sequence[dict[str, Any]]) -> str:
    """What to say where the mean over seeds never came to copy: one seed may have."""
    own = [r for r in rows if r["method"] == "conditional" and r["n_train"] == int(n)]
    if len({r["seed"] for r in own}) == 1:
        return f"Conditional training on {n} images did not copy more than {accepted} in this study."
    most = max(r["memorized_fraction"] for r in own)
    return (
        f"Conditional training on {n} images did not copy more than {accepted} on average over seeds in this study; the"
        f" most that a single one copied is {most:.0%}."
    )


STOPS = (  # that a run can find without held-out images
    ("spacing_stop", "As near to the training images as these lie to one another", "prevent"),
    ("half_stop", "Half of the steps after which copies came", "halve"),
)


def _advice(found: dict[str, Any]) -> tuple[str, ...]:
    said = []
    for n, step in found["early_stop"]["memorization_step"].items():
        accepted = f"{found['early_stop']['accepted_above_heldout']:.0%} above unseen images"
        if step is None:
            said.append(_never(n, accepted, found["rows"]))
        elif int(n) in found["early_stop"]["passed_before_first_look"]:
            said.append(f"On {n} images, copying passed {accepted} before the first look, at step {step:.0f}.")
        else:
            said.append(f"On {n} images, stop conditional training before step {step:.0f}: copying passes {accepted}.")
        for key, what, verb in STOPS:
            if (stop := found["early_stop"][key][n]) is not None:
                steps = " and ".join(str(s) for s in sorted(set(stop["steps"])))
                said.append(
                    f"{what} on {n} images, as train --set on_copying={verb} stops: step {steps},"
                    f" {stop['memorized_fraction']:.0%} copied, Frechet distance {stop['fd_heldout']:.3g}, recall"
                    f" {stop['recall']:.2f}."
                )
    return tuple(said)
