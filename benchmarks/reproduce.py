"""Run the commands of a table again, and say which of its rows come out otherwise.

    python -m benchmarks.reproduce digits-100 digits-300     names of docs/results/*.json; none: all
    python -m benchmarks.reproduce fashion-300 --seed 11     the rows of one split only
    python -m benchmarks.reproduce fashion-300 --out again   where runs go; interrupted, they go on there

For every method: how many of its rows repeat, which is within `SAME` in every figure, and how far apart others are at
most. Exit 1 if one does not repeat or is missing. On another kind of machine sums are rounded differently, which
training makes grow (docs/results.md). Commands for a GPU are left out where there is none, and their rows are missing;
where there is one, their rows differ from run to run.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from benchmarks.kept import SHOWN, Row, commands, key, names, rows

SAME = 0.001  # a tenth of the last digit of shares, a hundredth of that of Frechet distances


def split_of(command: str, seed: int) -> str | None:
    """The command for one of its seeds; None where it is none of them."""
    words = shlex.split(command)
    first, count = (int(words[words.index(n) + 1]) if n in words else d for n, d in (("--seed", 0), ("--seeds", 3)))
    return f"{command} --seed {seed} --seeds 1" if first <= seed < first + count else None  # the last one given counts


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


def compared(kept: Iterable[Row], new: Iterable[Row]) -> dict[str, tuple[int, int, int, dict[str, float]]]:
    """Per method: rows kept, rows that repeat, rows not found again, the largest difference of each figure."""
    again = {key(row): row for row in new}
    found: dict[str, tuple[int, int, int, dict[str, float]]] = {}
    for row in kept:
        total, same, missing, apart = found.get(row["method"], (0, 0, 0, dict.fromkeys(SHOWN, 0.0)))
        other = again.get(key(row))
        off = {} if other is None else {name: abs(other[name] - row[name]) for name in SHOWN}
        found[row["method"]] = (
            total + 1,
            same + (other is not None and max(off.values()) < SAME),
            missing + (other is None),
            {name: max(most, off.get(name, 0.0)) for name, most in apart.items()},
        )
    return found


def main() -> None:
    known = names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=Path("again"))
    parser.add_argument("--seed", type=int, help="this split only; without, all")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(known)}")
    repeats = [repeat(name, options.out, options.seed) for name in options.names or known]
    sys.exit(not all(repeats))


def repeat(name: str, out: Path, seed: int | None) -> bool:
    """Draw one table's rows again and say what came of each method; whether all repeat."""
    asked = [c if seed is None else split_of(c, seed) for c in commands(name)]
    new = [row for i, command in enumerate(asked) if command for row in drawn_again(command, out / f"{name}-{i}")]
    found = compared((r for r in rows(name) if seed in (None, r["seed"])), new)
    for method, (total, same, missing, apart) in found.items():
        most = ", ".join(f"{figure} {most:.5g}" for figure, most in apart.items() if most >= SAME)
        said = f"{name} {method}: {same} of {total} rows repeat"
        print(said + f", {missing} missing" * (missing > 0) + f"; at most apart: {most}" * bool(most), flush=True)
    return all(same == total for total, same, *_ in found.values())


if __name__ == "__main__":
    main()
