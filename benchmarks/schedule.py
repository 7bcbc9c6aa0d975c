"""A whole ODE schedule, 63 evaluations, against the dense float32 form: python -m benchmarks.schedule.

`--steps` instead prints how much faster every step is, for one batch of each real set on one thread: where time goes.
"""

import sys
import time

import torch
from benchmarks.common import arguments, images, roof, say, show, two_products
from torch import Tensor

from temperance import data
from temperance.distance import nearest
from temperance.engine import EmpiricalDenoiser, tracked_heun
from temperance.sample import heun
from temperance.schedule import Edm

SIGMAS = Edm().grid(32)  # 31 steps of two evaluations, and the one that reads the result


def ours(engine: EmpiricalDenoiser, x: Tensor) -> Tensor:
    *_, x = tracked_heun(engine, x, SIGMAS, last=True)
    return engine(x, SIGMAS[-1:].expand(len(x)))


def dense(points: Tensor, x: Tensor) -> Tensor:
    denoiser = two_products(points)
    *_, x = heun(denoiser, x, SIGMAS)
    return denoiser(x, SIGMAS[-1:].expand(len(x)))


def compare(name: str, points: Tensor, trajectories: int, batch: int = 64) -> dict:
    """Both ways in turn, batch by batch; seconds, and the share that ends at the same training point."""
    engine, spent, same = EmpiricalDenoiser(points).prepare(), [0.0, 0.0], 0
    for start in range(0, trajectories, batch):
        g = torch.Generator().manual_seed(start)
        x = 80.0 * torch.randn(min(batch, trajectories - start), points.shape[1], generator=g)
        ends = []
        for i, run in enumerate((lambda: ours(engine, x), lambda: dense(points, x))):  # noqa: B023
            begin = time.perf_counter()
            ends.append(run())
            spent[i] += time.perf_counter() - begin
        same += int((nearest(ends[0], points, 1).index == nearest(ends[1], points, 1).index).sum())
        say(f"{name}: {start + len(x)} of {trajectories}, {spent[1] / spent[0]:.2f} times as fast")
    row = {"data": name, "n": len(points), "d": points.shape[1], "trajectories": trajectories}
    return {
        **row,
        "ours_s": spent[0],
        "dense_s": spent[1],
        "speedup": spent[1] / spent[0],
        "agree": same / trajectories,
    }


def by_step(points: Tensor, batch: int = 64) -> list[dict]:
    """The processor time of every step both ways, each keeping its state; the second of two runs."""
    torch.set_num_threads(1)
    engine, denoiser, rows = EmpiricalDenoiser(points).prepare(), two_products(points), []
    x = 80.0 * torch.randn(batch, points.shape[1], generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        ours_, dense_ = tracked_heun(engine, x, SIGMAS), heun(denoiser, x, SIGMAS)
        rows = []
        for sigma in SIGMAS[:-1].tolist():
            spent = []
            for states in (ours_, dense_):
                begin = time.thread_time()
                next(states)
                spent.append(time.thread_time() - begin)
            rows.append({"sigma": sigma, "ours_s": spent[0], "speedup": spent[1] / spent[0]})
    return rows


def real(name: str, limit: int) -> Tensor | None:
    """A built-in set as flat rows in [-1, 1], or None where it is not installed."""
    try:
        return data.load(f"{name}[:{limit}]").tensor().flatten(1)
    except data.InputError:
        say(f"{name} is not installed: left out")
        return None


def profile(json: bool) -> None:
    """`--steps`."""
    found = {name: by_step(points) for name in ("fashion", "mnist") if (points := real(name, 60_000)) is not None}
    for name, rows in found.items():
        for row in rows:
            say(f"{name}: sigma {row['sigma']:.3g}: {1000 * row['ours_s']:.0f} ms, {row['speedup']:.2f} times as fast")
    show({"steps": found}, json)


def main() -> None:
    if "--steps" in sys.argv:
        sys.argv.remove("--steps")
        profile(arguments().json)
        return
    options = arguments()
    rows = [compare("spectrum of photographs", images(50_000, 3072), 64)] if not options.quick else []
    if options.quick:
        rows.append(compare("spectrum of photographs", images(10_000, 3072), 64))
    for name in ("fashion", "mnist"):
        points = real(name, 10_000 if options.quick else 60_000)
        if points is not None:
            rows.append(compare(name, points, 128 if options.quick else 1024))
    total = sum(r["trajectories"] for r in rows)
    agree = sum(r["agree"] * r["trajectories"] for r in rows) / total
    head = {"speedup": rows[0]["speedup"], "trajectories": total, "agree": agree}
    show({**head, "evaluations": 2 * len(SIGMAS) - 1, "roof": roof(), "cases": rows}, options.json)


if __name__ == "__main__":
    main()
