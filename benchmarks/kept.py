"""The rows behind the tables and the picture of the results: docs/results/*.json, each with the commands that made it.

    python -m benchmarks.kept digits-100 out/study.json               keep a study's rows
    python -m benchmarks.kept emoji-100 a/study.json b/study.json     or those of several, each row once
    python -m benchmarks.kept digits-100 docs/results/digits-100.json more/study.json     add to what is kept
    python -m benchmarks.kept digits-100-tuning out/study.json --last                     no look but the last ones

A name says what its rows are about: data, number of training images, kind (`KINDS`).
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from temperance.atomic import write_json

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "results"
SHOWN = ("memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision")
ONE = ("method", "seed", "n_train", "steps")  # what makes a row
NEEDED = (*ONE, "heldout_memorized_fraction", "fd_floor", *SHOWN, "spacing_auc", "drawn_on", "again")
KINDS = {
    "unet": "UNet",
    "unet-guided": "UNet",
    "28x28": "28x28",
    "28x28-long": "28x28",
    "32x32-long": "32x32, UNet",
}
Row = dict[str, Any]


def names() -> list[str]:
    return sorted(path.stem for path in KEPT.glob("*.json"))


def commands(name: str) -> list[str]:
    """The commands that made the rows of one table."""
    return json.loads((KEPT / f"{name}.json").read_text())["commands"]


def rows(name: str) -> list[Row]:
    return json.loads((KEPT / f"{name}.json").read_text())["rows"]


def note(name: str, again: Iterable[Row]) -> None:
    """Write into the kept rows of a table what those were drawn on that were drawn again."""
    where = {key(row): row["drawn_on"] for row in again}
    own = [row | {"again": where[key(row)]} if key(row) in where else row for row in rows(name)]
    write_json(KEPT / f"{name}.json", {"commands": commands(name), "rows": own})


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name, 0) for name in ONE)


def keep(name: str, files: Iterable[Path], last: bool = False) -> None:
    """Keep what the tables need of a `study.json` or `results.json`, rounded to what they show and a little more."""
    found = [json.loads(file.read_text()) for file in files]
    once = {key(row)[: 3 if last else 4]: row for one in found for row in one["rows"]}
    own = [{k: round(v, 5) if isinstance(v, float) else v for k, v in r.items() if k in NEEDED} for r in once.values()]
    made = [c for one in found for c in (one["commands"] if "commands" in one else [one["provenance"]["command"]])]
    write_json(KEPT / f"{name}.json", {"commands": list(dict.fromkeys(made)), "rows": own})


def studies() -> Iterator[tuple[str, int, list[Row]]]:
    """Every kept study and size with several looks: its name, its number of training images and its rows."""
    found = [(name.split("-")[0], n, name) for name in names() if looked(rows(name)) for n in sizes(rows(name))]
    for _, n, name in sorted(found):
        yield name, n, [r for r in rows(name) if r["n_train"] == n]


def looked(of: list[Row]) -> bool:
    """Whether there are looks before the last one; a demo has none."""
    return len(of) > len({key(row)[:3] for row in of})


def sizes(of: Iterable[Row]) -> list[int]:
    return sorted({r["n_train"] for r in of})


def seeds(of: Iterable[Row]) -> int:
    return len({r["seed"] for r in of})


def floor(of: Iterable[Row]) -> float:
    """The mean floor, every split counted once, however many methods were run on it."""
    return fmean({r["seed"]: r["fd_floor"] for r in of}.values())


def title(name: str, n: int) -> str:
    """What rows are about: those of `fashion-300-unet` about fashion, 300, UNet."""
    data, _, kind = (*name.split("-", 2), "")[:3]
    return ", ".join([data, f"{n:,}", *([KINDS.get(kind, kind)] if kind else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=", ".join(names()))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--last", action="store_true")
    options = parser.parse_args()
    missing = [str(file) for file in options.files if not file.is_file()]
    if missing:
        parser.error(f"no file {missing[0]}; give the study.json or results.json of runs")
    try:
        keep(options.name, options.files, options.last)
    except (ValueError, KeyError, TypeError) as error:
        parser.error(f"{' '.join(map(str, options.files))}: not all of it is a study.json or results.json ({error!r})")


if __name__ == "__main__":
    main()
