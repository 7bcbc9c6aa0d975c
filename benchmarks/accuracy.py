"""Errors against float64 at ties, duplicates and all noise levels: python -m benchmarks.accuracy.

The reference is evaluated in float64, on differences where points are near. The engine is given float64 rows, so that
what is measured is its arithmetic and not the rounding of its answer; `float32_error` is that of a float32 answer.
"""

import torch
from benchmarks.common import arguments, images, show, two_products
from torch import Tensor

from temperance.distance import direct, squared
from temperance.engine import EmpiricalDenoiser

SIGMAS = (0.002, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 80.0)
TIED = 64  # points whose distances the reference takes from differences


def reference(points: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Float64: differences for the points that are nearest, centered products (off by 1e-15 of the spread) for others.

    More than `TIED` points share the weight only at noise levels where an error of that size is far below a nat.
    """
    x = x.double()
    r2 = squared(x, points)
    near = r2.topk(min(TIED, len(points)), largest=False).indices
    r2.scatter_(1, near, direct(x, points, near))
    return (-(r2 - r2.amin(1, keepdim=True)) / (2 * sigma**2)).softmax(1) @ points.double()


def rows(points: Tensor, kind: str, sigma: float, batch: int, g: torch.Generator) -> Tensor:
    i = torch.randint(len(points), (batch,), generator=g)
    j = torch.randint(len(points), (batch,), generator=g)
    mu = points[i].double()
    noise = sigma * torch.randn(mu.shape, generator=g, dtype=torch.float64)
    return {
        "midpoint": (mu + points[j].double()) / 2,
        "near tie": (mu + points[j].double()) / 2 + 1e-3 * noise,
        "noisy": mu + noise,
        "duplicate": points[torch.arange(batch) % 8].double() + noise,
        "noise": noise,
    }[kind]


def measure(n: int, d: int, batch: int, offset: float) -> list[dict]:
    points = images(n, d) + offset
    points[n // 2 : n // 2 + 8] = points[:8]
    engine, plain, g = EmpiricalDenoiser(points).prepare(), two_products(points), torch.Generator().manual_seed(0)
    out = []
    for kind in ("midpoint", "near tie", "noisy", "duplicate", "noise"):
        for sigma in SIGMAS:
            x = rows(points, kind, sigma, batch, g) + (offset if kind == "noise" else 0)
            level, exact = torch.full((batch,), sigma), reference(points, x, sigma)
            rounded = reference(points, x.float(), sigma)
            error = {
                "engine": engine(x, level) - exact,
                "float32": engine(x.float(), level).double() - rounded,
                "two_mm": plain(x.float(), level).double() - rounded,
            }
            worst = {f"{name}_error": float(e.abs().max()) / sigma for name, e in error.items()}
            out.append({"n": n, "d": d, "offset": offset, "rows": kind, "sigma": sigma, **worst})
    return out


if __name__ == "__main__":
    options = arguments()
    shapes = [(2_000, 784, 0.0), (2_000, 784, 10.0)]
    if not options.quick:
        shapes += [(5_000, 3072, 0.0), (20_000, 784, 0.0), (5_000, 64, 0.0), (1_000, 12288, 0.0)]
    cases = [case for n, d, offset in shapes for case in measure(n, d, 8 if options.quick else 16, offset)]
    ties = [c for c in cases if c["rows"] in ("midpoint", "near tie", "duplicate") and 0.1 <= c["sigma"] <= 0.5]
    head = {
        "max_error_sigma": max(c["engine_error"] for c in cases),
        "cases": len(cases) * (8 if options.quick else 16),
        "max_error_sigma_at_ties": max(c["engine_error"] for c in ties),
        "two_mm_error_sigma_at_ties": max(c["two_mm_error"] for c in ties),
    }
    show({**head, "rows": cases}, options.json)
