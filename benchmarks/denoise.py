"""The exact denoiser against two matrix products and a softmax, attention, and cdist: python -m benchmarks.denoise."""

import torch
from benchmarks.common import arguments, images, medians, noisy, ratios, roof, say, show, two_products
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from temperance.empirical import denoise, noise_conditional
from temperance.engine import EmpiricalDenoiser
from temperance.engine.paths import everything

LIMIT = 5 << 30  # bytes of points above which a case is left out


def attention(points: Tensor):
    half = points.square().sum(1) / 2

    def f(x: Tensor, sigma: Tensor) -> Tensor:
        bias = -half[None] / sigma[:, None] ** 2
        q = (x / sigma[:, None] ** 2)[None, None]
        return scaled_dot_product_attention(q, points[None, None], points[None, None], bias[None, None], scale=1.0)[
            0, 0
        ]

    return f


def by_cdist(points: Tensor):
    def f(x: Tensor, sigma: Tensor) -> Tensor:
        return (-(torch.cdist(x, points) ** 2) / (2 * sigma[:, None] ** 2)).softmax(1) @ points

    return f


def float64(points: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(noise_conditional(x.double(), points, sigma), points.double())


def bars(quick: bool) -> dict:
    """The rows of the bars table: the dense roof, and the certified speed at low noise."""
    points = images(50_000, 784)
    engine = EmpiricalDenoiser(points).prepare()
    x, sigma = noisy(points, 64, 3.0)
    law, wide = engine.law(sigma, 64), x.double()
    weights = torch.rand(64, len(points))
    dense = ratios(
        {
            "dense": lambda: everything(wide, engine.table, law),
            "roof": lambda: (x @ points.T, weights @ points),
            "peer": lambda: two_products(points)(x, sigma),
        },
        rounds=9 if quick else 25,
    )
    say("dense roof done")
    points = images(50_000, 3072)
    engine, plain = EmpiricalDenoiser(points).prepare(), two_products(points)
    out = {"roof_fraction": dense["roof"], "dense_vs_two_mm": dense["peer"]}
    for name, level in LEVELS.items():
        out[name] = _speedup(engine, plain, points, level, quick)
    return out | _real(quick) | {"max_error_sigma": worst_error()}


LEVELS = {"speedup_sigma_1": 1.0, "speedup_sigma_03": 0.3, "speedup_sigma_01": 0.1}


def _speedup(engine: EmpiricalDenoiser, plain, points: Tensor, level: float, quick: bool) -> float:
    x, sigma = noisy(points, 64, level)
    r = ratios({"engine": lambda: engine(x, sigma), "two_mm": lambda: plain(x, sigma)}, rounds=5 if quick else 15)
    say(f"sigma {level}: {r['two_mm']:.1f} times as fast")
    return r["two_mm"]


def _real(quick: bool) -> dict:
    """The same speeds on real images, which have another spectrum than the fields of `images`."""
    from temperance.data import InputError, load

    try:
        points = load("fashion[:50000]", progress=False).tensor().flatten(1)
    except InputError:
        return {}
    engine, plain = EmpiricalDenoiser(points).prepare(), two_products(points)
    return {f"fashion_{name}": _speedup(engine, plain, points, level, quick) for name, level in LEVELS.items()}


def worst_error(n: int = 5_000) -> float:
    """Largest error in units of sigma, half-way between points and at high sigma, where several share the weight.

    At low sigma a noisy point has all the weight and every method that finds it is exact; that is no test.
    """
    worst = 0.0
    for d in (64, 784, 3072):
        points = images(n, d)
        engine = EmpiricalDenoiser(points).prepare()
        for level in (0.1, 0.3, 1.0, 3.0, 20.0):
            x, sigma = noisy(points, 16, level)
            for rows in ((points[:16] + points[16:32]) / 2, x):
                error = engine(rows.double(), sigma) - float64(points, rows, sigma)
                worst = max(worst, float(error.abs().amax() / level))
    return worst


def table(quick: bool) -> list[dict]:
    """Milliseconds of every method over dimensions, sizes, batches and noise levels."""
    rows = []
    for d in (64, 784) if quick else (64, 784, 3072, 12288):
        for n in (5_000,) if quick else (5_000, 50_000, 200_000):
            if 4 * n * d > LIMIT:
                rows.append({"d": d, "n": n, "left out": f"{4 * n * d / 1e9:.0f} GB of points"})
                continue
            points = images(n, d)
            engine = EmpiricalDenoiser(points).prepare()
            engine(*noisy(points, 64, 1.0))
            peers = {"two_mm": two_products(points), "sdpa": attention(points), "cdist": by_cdist(points)}
            for batch in (1, 64) if quick else (1, 8, 64, 512):
                for level in (0.1, 1.0, 3.0, 20.0):
                    rows.append(_case(engine, peers, batch, level))
            say(f"d {d} n {n} done")
    return rows


def _case(engine: EmpiricalDenoiser, peers: dict, batch: int, level: float) -> dict:
    points = engine.table.points
    x, sigma = noisy(points, batch, level)
    calls = {"engine": lambda: engine(x, sigma)}
    calls |= {name: (lambda f=f: f(x, sigma)) for name, f in peers.items()}
    t = medians(calls, rounds=3, budget=2.0)
    paths = engine.stats.path if engine.stats else ()
    path = max(set(paths), key=paths.count)
    size = {"d": points.shape[1], "n": len(points), "batch": batch, "sigma": level}
    times = {f"{k}_ms": round(1e3 * v, 3) for k, v in t.items()}
    return {**size, **times, "speedup": t["two_mm"] / t["engine"], "path": path}


if __name__ == "__main__":
    options = arguments()
    result = {**bars(options.quick), "roof": roof(), "cases": table(options.quick)}
    show(result, options.json)
