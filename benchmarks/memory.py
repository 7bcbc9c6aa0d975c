"""Peak memory of one evaluation above interpreter, points and engine: python -m benchmarks.memory [--quick].

Each case runs in a process of its own. Needs Linux, whose /proc can forget a peak.
"""

import multiprocessing
from pathlib import Path

import torch
from benchmarks.common import arguments, images, noisy, show

from temperance.engine import EmpiricalDenoiser


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since the mark was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def case(n: int, d: int, batch: int, sigma: float) -> dict:
    points = images(n, d)
    engine = EmpiricalDenoiser(points).prepare()
    rows = noisy(points, batch, sigma)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building points and engine (Linux)
    engine(*rows)
    path = engine.stats.path[0] if engine.stats else ""
    return {"n": n, "d": d, "batch": batch, "sigma": sigma, "path": path, "extra_mb": round(resident("VmHWM") - before)}


if __name__ == "__main__":
    options = arguments()
    sigmas = (1.0, 10.0) if options.quick else (0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
    sizes = [(60_000, 784, 256, s) for s in sigmas]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        cases = [pool.apply(case, size) for size in sizes]
    show(
        {"threads": torch.get_num_threads(), "largest_mb": max(c["extra_mb"] for c in cases), "cases": cases},
        options.json,
    )
