"""What a study's rows come to: when to stop, how the time to memorize grows with n, and who beats an early stop."""

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from temperance.metrics import EVEN

Row = dict[str, Any]
ACCEPTED = 0.05  # memorized fraction above held-out data's own that is still accepted
MEASURES = ("memorized_fraction", "heldout_memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision")


def means(rows: Iterable[Row]) -> dict[tuple[str, int, int], dict[str, float]]:
    """Every (method, n, steps) with its measures averaged over seeds."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["n_train"], row["steps"]), []).append(row)
    return {key: {name: fmean(r[name] for r in group) for name in MEASURES} for key, group in groups.items()}


def curve(rows: Iterable[Row], method: str, n: int) -> list[tuple[int, dict[str, float]]]:
    """The looks at one method, in order of steps."""
    return sorted(
        ((steps, m) for (name, size, steps), m in means(rows).items() if (name, size) == (method, n)),
        key=lambda pair: pair[0],
    )


def memorization_step(looks: Sequence[tuple[int, dict[str, float]]]) -> float | None:
    """The step at which copying leaves what is accepted, read between looks on a logarithmic axis; None if never.

    The first look's own step, where it left before.
    """
    before: tuple[int, float] | None = None
    for steps, m in looks:
        excess = _excess(m)
        if excess > 0:
            if before is None:
                return float(steps)
            share = -before[1] / (excess - before[1])
            return before[0] * (steps / before[0]) ** share
        before = steps, excess
    return None


class Scaling(NamedTuple):
    """Steps to memorize = factor * n^exponent, by least squares in logarithms over `points` sizes."""

    factor: float
    exponent: float
    points: int


def scaling(times: dict[int, float]) -> Scaling | None:
    """The power law through memorization steps by n; None for fewer than two sizes."""
    if len(times) < 2:
        return None
    x, y = np.log(list(times)), np.log(list(times.values()))
    exponent, intercept = np.polyfit(x, y, 1)
    return Scaling(float(math.exp(intercept)), float(exponent), len(times))


def best_stop(looks: Sequence[tuple[int, dict[str, float]]], allowed: float) -> tuple[int, dict[str, float], bool]:
    """The look with the lowest Frechet distance to held-out among those that copy at most `allowed`, and True.

    Where all copy more, the one that copies least, and False.
    """
    fair = [s for s in looks if s[1]["memorized_fraction"] <= allowed + 1e-9]
    if fair:
        return *min(fair, key=lambda s: s[1]["fd_heldout"]), True
    return *min(looks, key=lambda s: s[1]["memorized_fraction"]), False


def half_stop(rows: Sequence[Row], method: str, n: int) -> dict[str, Any] | None:
    """The early stop that nobody has to know: each seed at half of the steps after which copies came.

    They have come at the first look whose memorized fraction is over `ACCEPTED` above held-out data's own; of the looks
    before it, the one nearest to half of its steps, as a ratio, is taken. `steps` and `copies` list both by seed, the
    other figures are means. None if there is no seed, or one never copies that much or does so at its first look.
    """
    stops, copies = [], []
    for seed in dict.fromkeys(r["seed"] for r in rows if (r["method"], r["n_train"]) == (method, n)):
        looks = curve([r for r in rows if r["seed"] == seed], method, n)
        before = list(takewhile(lambda look: _excess(look[1]) <= 0, looks))
        if not before or len(before) == len(looks):
            return None
        copies.append(looks[len(before)][0])
        stops.append(min(before, key=lambda look: abs(math.log(2 * look[0] / copies[-1]))))
    return _averaged(stops, method=method, n_train=n, copies=copies) if stops else None


def spacing_stop(rows: Sequence[Row], method: str, n: int) -> dict[str, Any] | None:
    """The early stop that the training images tell: each seed at its first look as near to them as unseen images.

    That is the first one whose samples lie as near to the training images as these to one another, `spacing_auc` of a
    half, or the last look where none does. `steps` lists it by seed, the other figures are means. None if there is no
    seed, or one with a look before that does not have that figure.
    """
    stops = []
    for seed in dict.fromkeys(r["seed"] for r in rows if (r["method"], r["n_train"]) == (method, n)):
        own = [r for r in rows if (r["method"], r["n_train"], r["seed"]) == (method, n, seed)]
        looks = sorted(own, key=lambda r: r["steps"])
        far = list(takewhile(lambda r: r.get("spacing_auc", EVEN) < EVEN, looks))
        stop = looks[min(len(far), len(looks) - 1)]
        if "spacing_auc" not in stop:
            return None
        stops.append((stop["steps"], stop))
    return _averaged(stops, method=method, n_train=n) if stops else None


def _averaged(stops: Sequence[tuple[int, Row]], **about: Any) -> dict[str, Any]:
    """Looks at several seeds, their steps side by side and their figures in the mean."""
    figures = {name: fmean(m[name] for _, m in stops) for name in MEASURES}
    return {**about, "steps": [step for step, _ in stops], **figures}


def _excess(m: dict[str, float]) -> float:
    """By how much copying is beyond what is accepted."""
    return round(m["memorized_fraction"] - m["heldout_memorized_fraction"] - ACCEPTED, 9)  # .14 - .09 is not above .05


def against_early_stop(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every method at its last step beside the best early stop of conditional training that copies no more.

    Variants of conditional training are stopped early themselves, at the look with the lowest Frechet distance among
    those that copy at most `ACCEPTED` more than held-out data; `copies_more` where none does. The early stop that
    they are held against is the look with the lowest Frechet distance among those whose memorized fraction is at most
    the method's or held-out data's own: it is picked with knowledge of the figures that are compared, which favors
    it. Where every look copies more, the one that copies least stands in.
    """
    found = []
    table = means(rows)
    for method, n in dict.fromkeys((name, size) for name, size, _ in table if name != "conditional"):
        stops = curve(rows, "conditional", n)
        if not stops:
            continue
        looks = curve(rows, method, n)
        steps, own = looks[-1]
        null, within = own["heldout_memorized_fraction"], True
        if method.startswith("conditional/"):
            steps, own, within = best_stop(looks, null + ACCEPTED)
        stop, other, fair = best_stop(stops, max(own["memorized_fraction"], null))
        found.append(
            {
                "method": method, "n_train": n, "steps": steps, "copies_more": not within, **own,
                "early_stop": {"steps": stop, "copies_no_more": fair, **other},
                "fd_not_worse": own["fd_heldout"] <= other["fd_heldout"],
                "recall_higher": own["recall"] > other["recall"],
            }
        )  # fmt: skip
    return found


def advise(rows: Sequence[Row]) -> dict[str, Any]:
    """When to stop a conditional run, for every n, and how that grows with n: only sizes seen to cross are fitted."""
    sizes = sorted({r["n_train"] for r in rows if r["method"] == "conditional"})
    looks = {n: curve(rows, "conditional", n) for n in sizes}
    times = {n: memorization_step(looks[n]) for n in sizes}
    passed = [n for n in sizes if _excess(looks[n][0][1]) > 0]
    law = scaling({n: t for n, t in times.items() if t is not None and n not in passed})
    return {
        "accepted_above_heldout": ACCEPTED,
        "memorization_step": {str(n): t for n, t in times.items()},
        "passed_before_first_look": passed,
        "half_stop": {str(n): half_stop(rows, "conditional", n) for n in sizes},
        "spacing_stop": {str(n): spacing_stop(rows, "conditional", n) for n in sizes},
        "scaling": None if law is None else law._asdict(),
    }
