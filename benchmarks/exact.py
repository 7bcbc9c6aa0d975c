"""What exact targets cost a whole training step, against drawn ones: python -m benchmarks.exact.

Perceptrons and UNets of the sizes that docs/results.md reports on, image-like data, one thread; steps in turn, in
processor time.
"""

import time

import torch
from benchmarks.common import SHAPES, arguments, images, say, show
from benchmarks.train import K, compared, ours

from temperance.distance import neighbors
from temperance.objective import ExactTangent, TangentSmoothed
from temperance.schedule import edm_for

CASES = (  # network, images, numbers of one, rows of a step
    ("mlp", 100, 64, 128),
    ("mlp", 300, 64, 128),
    ("mlp", 100, 256, 128),
    ("mlp", 1200, 256, 128),
    ("mlp", 300, 784, 128),
    ("unet", 100, 256, 32),
)


def case(kind: str, n: int, d: int, batch: int, rounds: int) -> dict:
    flat = images(n, d)
    points = flat.reshape(n, *SHAPES[d])
    drawn = TangentSmoothed(edm_for(flat), points, neighbors(flat, K), 0.7)
    steps = {name: ours(o, points, kind=kind, batch=batch) for name, o in (("d", drawn), ("e", ExactTangent(drawn)))}
    ratio, wall, rounds = compared(steps, rounds, 60)
    sizes = {"network": kind, "n": n, "shape": SHAPES[d], "batch": batch, "rounds": rounds}
    return {**sizes, "drawn_step_ms": 1e3 * wall["d"], "step_ratio_exact": ratio["e"]}


if __name__ == "__main__":
    options = arguments()
    torch.set_num_threads(1)
    began, cases = time.perf_counter(), []
    for sizes in CASES:
        cases.append(case(*sizes, rounds=8 if options.quick else 40))
        say(f"{sizes}: {cases[-1]['step_ratio_exact']:.2f}")
    show({"cases": cases, "seconds": time.perf_counter() - began}, options.json)
