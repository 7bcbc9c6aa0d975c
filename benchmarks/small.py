"""Where two products win: the engine on few points, in processor time: python -m benchmarks.small."""

import statistics
import time
from collections.abc import Callable

import torch
from benchmarks.common import arguments, images, noisy, show, two_products

from temperance.engine import EmpiricalDenoiser


def processor_time(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds, in turn: cases of a millisecond drown in the wall time of a busy machine."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, f in functions.items():
            begin = time.process_time()
            f()
            spent[name].append(time.process_time() - begin)
    return {name: statistics.median(s[1:]) for name, s in spent.items()}


def case(engine: EmpiricalDenoiser, batch: int, sigma: float, rounds: int) -> dict:
    points = engine.table.points
    plain, (x, level) = two_products(points), noisy(points, batch, sigma)
    t = processor_time({"engine": lambda: engine(x, level), "two_mm": lambda: plain(x, level)}, rounds)
    path = engine.stats.path[0] if engine.stats else ""
    sizes = {"n": len(points), "d": points.shape[1], "batch": batch, "sigma": sigma, "path": path}
    return {**sizes, "two_mm_ms": 1e3 * t["two_mm"], "times_as_long": t["engine"] / t["two_mm"]}


if __name__ == "__main__":
    options = arguments()
    torch.set_num_threads(1)
    cases = []
    for n, d in ((1_000, 64), (5_000, 64), (50_000, 64), (1_000, 784), (5_000, 784), (20_000, 784), (5_000, 3072)):
        engine = EmpiricalDenoiser(images(n, d)).prepare()
        for batch in (1, 64):
            cases += [case(engine, batch, sigma, 3 if options.quick else 11) for sigma in (0.1, 1.0, 3.0, 20.0)]
    show({"slowest": max(c["times_as_long"] for c in cases), "cases": cases}, options.json)
