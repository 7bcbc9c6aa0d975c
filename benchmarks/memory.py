"""Peak memory above interpreter, data and engine: python -m benchmarks.memory [--quick].

One evaluation of 256 rows on synthetic and on real points, and without --quick the whole of `temperance analyze
fashion`. Each case runs in a process of its own. Needs Linux, whose /proc can forget a peak.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments, fashion, images, noisy, resident, say, show

from temperance.engine import EmpiricalDenoiser


def forget() -> float:
    """MB resident now; the peak so far, of building points and engine, is forgotten (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def case(data: str, batch: int, sigma: float) -> dict:
    points = images(60_000, 784) if data == "synthetic" else fashion(60_000)
    if points is None:
        return {"data": data, "left out": "not installed", "extra_mb": 0}
    engine = EmpiricalDenoiser(points).prepare()
    rows = noisy(points, batch, sigma)
    before = forget()
    engine(*rows)
    path = engine.stats.path[0] if engine.stats else ""
    sizes = {"data": data, "n": len(points), "d": points.shape[1], "batch": batch, "sigma": sigma, "path": path}
    return {**sizes, "extra_mb": round(resident("VmHWM") - before)}


def whole_analysis() -> dict:
    """`temperance analyze fashion`: what it adds to imports, pixels and one float32 copy of them."""
    from temperance.analyze import analyze
    from temperance.data import InputError, load

    try:
        images = load("fashion", progress=False)
    except InputError:
        return {"data": "fashion", "left out": "not installed", "extra_mb": 0}
    floats, before, begin = 4 * images.pixels.size / 2**20, forget(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        analyze(images, Path(out), heldout=None, k=10, seed=0, progress=False)
    extra = round(resident("VmHWM") - before - floats)
    return {"data": "fashion", "job": "analyze", "seconds": time.perf_counter() - begin, "extra_mb": extra}


if __name__ == "__main__":
    options = arguments()
    sigmas = (1.0, 10.0) if options.quick else (0.01, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
    jobs: list[tuple] = [(case, (data, 256, s)) for data in ("synthetic", "fashion") for s in sigmas]
    jobs += [] if options.quick else [(whole_analysis, ())]
    found = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for job, arguments_of_it in jobs:
            found.append(pool.apply(job, arguments_of_it))
            say(str(found[-1]))
    evaluations = [c for c in found if "job" not in c]
    head = {"largest_mb": max(c["extra_mb"] for c in evaluations)}
    head |= {f"{c['job']}_{key}": c[key] for c in found if "job" in c for key in ("extra_mb", "seconds")}
    show({**head, "cases": found}, options.json)
