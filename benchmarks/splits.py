"""The kept rows of one table, split by split: what its means are of, and the looks that it leaves out.

    python -m benchmarks.splits digits-100                                          every row
    python -m benchmarks.splits digits-100 --method conditional/started --step 530  those of a method, at a step

Shares have four digits, so that copies can be counted; FD has those of the tables.
"""

import argparse
from collections.abc import Sequence

from benchmarks.kept import SHOWN, Row, names, rows
from benchmarks.markdown import cells, distance, header

FIGURES = ("heldout_memorized_fraction", *SHOWN, "spacing_auc")
NAMES = ("held-out copied", "copied", "copy AUC", "FD", "recall", "precision", "spacing")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=names(), help=", ".join(names()))
    parser.add_argument("--method")
    parser.add_argument("--step", type=int)
    options = parser.parse_args(given)
    asked = {"method": options.method, "steps": options.step}
    own = [r for r in rows(options.name) if all(value in (None, r.get(name, 0)) for name, value in asked.items())]
    if not own:
        has = f"methods {', '.join(dict.fromkeys(r['method'] for r in rows(options.name)))}"
        parser.error(f"{options.name} has no such rows; it has {has}")
    print(header("method", "images", "step", "split", *NAMES))
    for row in sorted(own, key=lambda r: (r["method"], r["n_train"], r.get("steps", 0), r["seed"])):
        print(cells(row["method"], f"{row['n_train']:,}", f"{row.get('steps', 0):,}", str(row["seed"]), *figures(row)))


def figures(row: Row) -> list[str]:
    """To the digits that a page quotes of a single split; rows that are older than a figure lack it."""
    write = {"fd_heldout": distance}
    return [write.get(name, "{:.4f}".format)(row[name]) if name in row else "" for name in FIGURES]


if __name__ == "__main__":
    main()
