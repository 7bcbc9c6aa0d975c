"""Run the commands of a table again, and say which of its rows come out otherwise.

    python -m benchmarks.reproduce digits-100 digits-300     names of docs/results/*.json; none: all
    python -m benchmarks.reproduce fashion-300 --seed 11     the rows of one split only
    python -m benchmarks.reproduce fashion-300 --until 1000  the looks of the first steps only, at their price
    python -m benchmarks.reproduce fashion-300 --out again   where runs go; interrupted, they go on there
    python -m benchmarks.reproduce fashion-300 --note        and write into the kept rows on what

For every method: how many of its rows repeat, which is within `SAME` in every figure, how far apart others are at most,
and, with its sign, on average. Exit 1 if one does not repeat or is missing. On another kind of machine sums are
rounded differently, which training makes grow (docs/repeat.md). Commands for a GPU are left out where there is
none, and their rows are missing; where there is one, their rows differ from run to run.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from benchmarks.kept import SHOWN, Row, commands, key, names, note, rows

from temperance.study import Plan
from temperance.study.plan import looks

SAME = 0.001  # a tenth of the last digit of shares, a hundredth of that of Frechet distances


def split_of(command: str, seed: int) -> str | None:
    """The command for one of its seeds; None where it is none of them."""
    words = shlex.split(command)
    first, count = (int(words[words.index(n) + 1]) if n in words else d for n, d in (("--seed", 0), ("--seeds", 3)))
    return f"{command} --seed {seed} --seeds 1" if first <= seed < first + count else None  # the last one given counts


def cut_short(command: str, until: int | None) -> str | None:
    """The command for its looks at up to `until` steps, which a shorter run repeats; None where it has none."""
    words = shlex.split(command)
    if until is None or "study" not in words:  # a demo looks at its end only
        return command
    steps = int(words[words.index("--steps") + 1]) if "--steps" in words else Plan.steps
    within = [look for look in looks(steps) if look <= until]
    return f"{command} --steps {within[-1]}" if within else None


def drawn_again(command: str, out: Path) -> list[Row]:
    """The rows of one command, run by this interpreter in `out`; none where it needs a GPU and there is none."""
    words = shlex.split(command)[1:]
    if "--device" in words and not torch.cuda.is_available():
        print(f"not run, for want of a GPU: {command}", flush=True)
        return []
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    subprocess.run([sys.executable, "-m", "temperance", *words, "--out", str(out)], check=True)
    (found,) = (out / name for name in ("study.json", "results.json") if (out / name).exists())
    return json.loads(found.read_text())["rows"]


class Again(NamedTuple):
    """A method's rows, kept and drawn again."""

    total: int
    off: list[dict[str, float]]  # by figure, new less kept, of every row that was found again

    @property
    def same(self) -> int:
        return sum(max(map(abs, off.values())) < SAME for off in self.off)

    def __str__(self) -> str:
        missing = self.total - len(self.off)
        apart = []
        for figure in SHOWN:
            by = [off[figure] for off in self.off]
            if max(map(abs, by), default=0) >= SAME:
                apart.append(f"{figure} {max(map(abs, by)):.3g} ({fmean(by):+.2g})")
        said = f"{self.same} of {self.total} rows repeat" + f", {missing} missing" * (missing > 0)
        return said + f"; apart at most (and on average): {', '.join(apart)}" * bool(apart)


def compared(kept: Iterable[Row], new: Iterable[Row]) -> dict[str, Again]:
    """By method, how every row of `kept` came out in `new`."""
    again = {key(row): row for row in new}
    found: dict[str, Again] = {}
    for row in kept:
        total, off = found.get(row["method"], Again(0, []))
        other = again.get(key(row))
        found[row["method"]] = Again(
            total + 1, off if other is None else [*off, {name: other[name] - row[name] for name in SHOWN}]
        )
    return found


def where(of: Iterable[Row]) -> str:
    """The kinds of processor that rows were drawn on; rows from before 2026-11-29 do not say."""
    return " and ".join(sorted({row.get("drawn_on", "one that was not noted") for row in of})) or "none"


def main() -> None:
    known = names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=Path("again"))
    parser.add_argument("--seed", type=int, help="this split only; without, all")
    parser.add_argument("--until", type=int, help="looks at up to so many steps; without, all")
    parser.add_argument(
        "--note", action="store_true", help="write into docs/results/*.json on what rows were drawn again"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(known)}")
    asked = options.names or known
    repeats = [repeat(name, options.out, options.seed, options.until, options.note) for name in asked]
    sys.exit(not all(repeats))


def repeat(name: str, out: Path, seed: int | None, until: int | None = None, noted: bool = False) -> bool:
    """Draw one table's rows again and say what came of each method; whether all repeat."""
    kept = [r for r in rows(name) if seed in (None, r["seed"]) and (until is None or r.get("steps", 0) <= until)]
    if not kept and until is not None:
        sys.exit(f"{name} has no such rows of up to {until} steps; leave out --until, or give more")
    if not kept:
        there = ", ".join(str(s) for s in sorted({r["seed"] for r in rows(name)}))
        sys.exit(f"{name} has no rows of seed {seed}; there are {there}")
    asked = [c if seed is None else split_of(c, seed) for c in commands(name)]
    asked = [c and cut_short(c, until) for c in asked]
    new = [row for i, command in enumerate(asked) if command for row in drawn_again(command, out / f"{name}-{i}")]
    if until is not None:  # looks at a shorter run are rounded otherwise, now and then
        there = {key(row) for row in new}
        print(f"{name}: {sum(key(r) in there for r in kept)} of {len(kept)} rows of up to {until} steps drawn")
        kept = [r for r in kept if key(r) in there]
    if noted:
        note(name, new)
    found = compared(kept, new)
    for method, again in found.items():
        print(f"{name} {method}: {again}", flush=True)
    print(f"{name}: kept rows were drawn on {where(kept)}; these on {where(new)}")
    return bool(found) and all(again.same == again.total for again in found.values())


if __name__ == "__main__":
    main()
