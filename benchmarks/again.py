"""Which rows of the tables were drawn more than once, as `benchmarks.reproduce --note` writes down."""

from collections.abc import Iterable, Iterator

from benchmarks.kept import Row, names, rows, studies
from benchmarks.markdown import cells, header

from temperance.study.advice import ACCEPTED


def repeated() -> Iterator[tuple[str, int, list[Row]]]:
    """The kept studies as `benchmarks.kept.studies`, of looks that were drawn a second time on every split.

    A study whose plain training was not is left out: there is nothing to hold the others against.
    """
    for name, n, own in studies():
        found = drawn_again(own)
        if "conditional" in {r["method"] for r in found}:
            yield name, n, found


def drawn_again(own: list[Row]) -> list[Row]:
    """The rows of looks that were drawn a second time on every split, of methods that can be judged by these.

    A method stands at its last look, so that this has to be among them. Plain training and its variants are stopped, at
    any look; where the first copies on a split decide where, they may not be in a look that was drawn once.
    """
    once = drawn_once(own)
    last = {r["method"]: look(r) for r in sorted(own, key=lambda r: r.get("steps", 0))}
    unjudged = {m for m, end in last.items() if end in once and not m.startswith("conditional")}
    seen = {(r["method"], r["seed"]) for r in own if look(r) not in once and copies(r)}
    unjudged |= {r["method"] for r in own if look(r) in once and copies(r) and (r["method"], r["seed"]) not in seen}
    return [r for r in own if look(r) not in once and r["method"] not in unjudged]


def copies(row: Row) -> bool:
    """Whether more is copied than is accepted."""
    return row["memorized_fraction"] > row["heldout_memorized_fraction"] + ACCEPTED


def drawn_once(own: Iterable[Row]) -> set[tuple[str, int, int]]:
    """The looks that were drawn a single time on some split."""
    return {look(row) for row in own if "again" not in row}


def look(row: Row) -> tuple[str, int, int]:
    """What is averaged over splits: a method, a number of images and a step."""
    return row["method"], row["n_train"], row.get("steps", 0)


def again() -> Iterator[str]:
    """Every table of rows: how many were drawn again, and the others, by method; at the end, all."""
    yield header("table", "rows", "drawn again", "drawn once")
    total, twice = 0, 0
    for name in names():
        own = rows(name)
        once = [r for r in own if "again" not in r]
        total, twice = total + len(own), twice + len(own) - len(once)
        yield cells(name, f"{len(own)}", f"{len(own) - len(once)}", listed(once, own))
    yield cells("all", f"{total:,}", f"{twice:,}", f"{total - twice:,}")


def listed(once: Iterable[Row], of: Iterable[Row]) -> str:
    """How many rows of each method, and of which splits and from which step on where these are not all."""
    by: dict[str, list[Row]] = {}
    for row in once:
        by.setdefault(row["method"], []).append(row)
    found = []
    for method, own in by.items():
        whole = [r for r in of if r["method"] == method]
        splits, first = sorted({r["seed"] for r in own}), min(r.get("steps", 0) for r in own)
        where = [f"of split{'s' * (len(splits) > 1)} {', '.join(map(str, splits))}"]
        where *= len(splits) < len({r["seed"] for r in whole})
        where += [f"from {first:,} steps on"] * (first > min(r.get("steps", 0) for r in whole))
        found.append(f"{len(own)} `{method}`" + f" ({', '.join(where)})" * bool(where))
    return "; ".join(found)
