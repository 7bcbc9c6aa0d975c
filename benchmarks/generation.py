"""Closed-form generation at scale: images per second, and whether they are training images or new ones.

python -m benchmarks.generation [--quick] [--json] [--data fashion] [-n 64]
"""

import argparse
import time

import torch
from benchmarks.common import show

from temperance.data import load
from temperance.metrics import nearest_rows
from temperance.recipe import closed_form
from temperance.sample import Noise, heun, integrate
from temperance.schedule import edm_for

SAME = 1.0  # distance below which an image is a training image: 8-bit rounding alone moves 784 pixels by 0.06


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 training images, 16 samples")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="fashion")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--form", action="append", help="empirical, temperature or tangent; may be repeated")
    options = parser.parse_args()
    n = 16 if options.quick else options.n
    points = load(f"{options.data}[:2000]" if options.quick else options.data, progress=False).tensor()
    rows = []
    for form in options.form or ("empirical", "tangent"):
        start = time.perf_counter()
        denoiser = closed_form(points, form)
        built = time.perf_counter() - start
        grid = edm_for(points.flatten(1)).grid(20)
        start = time.perf_counter()
        got = integrate(heun, denoiser, points.shape[1:], grid, Noise(0, range(n)))
        seconds = time.perf_counter() - start
        distance = nearest_rows(got.x.clamp(-1, 1).flatten(1), points.flatten(1), 1).distance[:, 0]
        rows.append(
            {
                "form": form, "points": len(points), "n": n, "nfe": got.nfe, "build_seconds": built,
                "images_per_second": n / seconds, "converged": float(got.converged.float().mean()),
                "training_images": float((distance < SAME).float().mean()), "median_d1": float(distance.median()),
            }
        )  # fmt: skip
    show({"threads": torch.get_num_threads(), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
