"""Which rows of the tables were drawn more than once, as `benchmarks.reproduce --note` writes down."""

from collections.abc import Iterable, Iterator

from benchmarks.kept import Row, names, rows
from benchmarks.markdown import cells, header


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
