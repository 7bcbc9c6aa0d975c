"""The audit: what it finds of planted copies, and what a large one costs: python -m benchmarks.audit.

Recall and false discovery rate are those of the planted controls that every report holds, on fashion[:1200] and, where
it is installed, on emoji; the worse of the two is at the top. Time and memory are those of a child process that audits
memory-mapped sets of synthetic fields against each other: --quick 1,000, else 10,000, --full 50,000 images of 3,072
numbers each. `peak_extra_mb` is its whole resident memory at the peak, interpreter included, less the data's bytes;
`interpreter_mb` is what the interpreter and its libraries held before the data were opened.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.common import images, resident, roof, say, show

from temperance.auditing import as_json, audit
from temperance.data import Images, InputError, load, split
from temperance.features import Pixels
from temperance.heap import return_freed

KINDS = ("exact", "flipped", "shifted", "jpeg")


def planted(name: str, train: Images, heldout: Images) -> dict:
    """Recall by kind of planted copy and the worst false discovery rate, as a report of these sets shows them."""
    say(f"planted controls on {name}: {len(train)} training and {len(heldout)} held-out images")
    report = audit(train, heldout[:2], heldout, quality_limit=2)
    found = report.planted["pixels"]
    assert found is not None
    kinds = found["kinds"]
    row = {"data": name, "train": len(train), "heldout": len(heldout), "null": found["null"]}
    row |= {f"recall_{kind}": v["recall"] for kind, v in kinds.items()}
    row |= {f"fdr_{kind}": v["fdr"] for kind, v in kinds.items()}
    return row | {"source_named": min(kinds[k]["source_named"] for k in KINDS)}


def controls(quick: bool) -> list[dict]:
    """The planted controls on the data sets that are here."""
    unseen = load("fashion/test[:2000]" if quick else "fashion/test", progress=False)
    rows = [planted("fashion[:1200]", load("fashion[:1200]", progress=False), unseen)]
    try:
        emoji = load("emoji", progress=False)
    except InputError as error:
        say(f"emoji left out: {error}")
        return rows
    train, heldout = split(emoji, [1200, len(emoji) - 1200], seed=0)
    return [*rows, planted("emoji", train, heldout)]


def field(path: Path, n: int, seed: int) -> None:
    """A `.npy` of n synthetic images, 32x32 in colour, written block by block."""
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 32, 32, 3))
    for start in range(0, n, 5000):
        k = min(5000, n - start)
        x = images(k, 3072, seed=seed + start).reshape(k, 3, 32, 32).permute(0, 2, 3, 1)
        out[start : start + k] = ((x + 1) * 127.5).round().numpy().astype(np.uint8)
    out.flush()


def scale(n: int) -> dict:
    """Seconds and peak memory of an audit of n against n images, with n / 10 held out, in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"train": n, "generated": n, "heldout": n // 10}
        for i, (name, size) in enumerate(sizes.items()):
            field(Path(folder) / f"{name}.npy", size, 1_000_000 * i)
        say(f"auditing {n} x {n} x 3072 in a child process")
        command = [sys.executable, "-m", "benchmarks.audit", "--child", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    data = sum(sizes.values()) * 3072
    result = json.loads(done.stdout)
    return {"n": n, "peak_extra_mb": (result.pop("peak") - data) / 1e6, "data_mb": data / 1e6, **result}


def child(folder: Path) -> dict:
    """The audit itself, as the command runs it."""
    return_freed()
    interpreter = resident("VmRSS") * 1.048576
    train, generated, heldout = (load(folder / f"{s}.npy", progress=False) for s in ("train", "generated", "heldout"))
    start, cpu = time.perf_counter(), time.process_time()
    report = audit(train, generated, heldout, encoders=(Pixels(),), work=folder / "work", progress=True)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    figures = as_json(report)["encoders"]["pixels"]
    peak = resident("VmHWM") * (1 << 20)
    return {
        "peak": peak,
        "interpreter_mb": interpreter,
        "seconds": seconds,
        "cpu_seconds": used,
        "copy_auc": figures["copy_auc"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--full", action="store_true", help="audit 50,000 against 50,000 images")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return
    rows = controls(options.quick)
    size = scale(50_000 if options.full else 1_000 if options.quick else 10_000)
    head = {f"recall_{kind}": min(r[f"recall_{kind}"] for r in rows) for kind in KINDS}
    head["fdr"] = max(r[f"fdr_{kind}"] for r in rows for kind in KINDS)
    show(
        {
            **head,
            **{k: size[k] for k in ("peak_extra_mb", "interpreter_mb", "seconds")},
            "roof": roof(),
            "planted": rows,
            "scale": [size],
        },
        options.json,
    )


if __name__ == "__main__":
    main()
