"""A whole ODE schedule, 63 evaluations, against the dense float32 form: python -m benchmarks.schedule."""

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


def real(name: str, limit: int) -> Tensor | None:
    """A built-in set as flat rows in [-1, 1], or None where it is not installed."""
    try:
        return data.load(f"{name}[:{limit}]").tensor().flatten(1)
    except data.InputError:
        say(f"{name} is not installed: left out")
        return None


if __name__ == "__main__":
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
