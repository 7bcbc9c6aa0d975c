"""What all benchmarks share: image-like data, interleaved medians, the roofline of the run, one JSON line."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from temperance.data import Images
from temperance.denoiser import Denoiser
from temperance.recipe import Prepared, Recipe, prepare
from temperance.sample import Start, heun
from temperance.schedule import Schedule
from temperance.scorecard import Yardstick, score, yardstick
from temperance.trial import draw, draw_sets

DRAWN = 300  # samples of a denoiser that is judged
JUDGED = ("memorized_fraction", "copy_auc", "fd_heldout", "fd_floor", "precision", "recall")
SHAPES = {64: (1, 8, 8), 256: (1, 16, 16), 784: (1, 28, 28), 3072: (3, 32, 32), 12288: (3, 64, 64)}


def images(n: int, d: int, seed: int = 0) -> Tensor:
    """n flat images in [-1, 1] with the spectrum of photographs.

    Gaussian fields of power f^-2.8 whose channels share 95 % of it: of the variance at d = 3,072, 99 principal axes
    hold 92 %, 217 hold 95 % and 658 hold 98.5 %, close to CIFAR-10 (90, 95, 99 %), which no registry has.
    """
    c, side, _ = SHAPES[d]
    g = torch.Generator().manual_seed(seed)
    f = (torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None] ** 2).sqrt()
    amplitude = f.clamp(min=0.5 / side) ** -1.4
    out = torch.empty(n, d)
    for start in range(0, n, 4096):
        k = min(4096, n - start)
        z = torch.randn(k, c, side, side, generator=g)
        z = 0.05**0.5 * z + (0.95 * c) ** 0.5 * z.mean(1, keepdim=True)
        z = torch.fft.irfft2(torch.fft.rfft2(z) * amplitude, s=(side, side))
        contrast = 0.5 * torch.exp(0.3 * torch.randn(k, 1, 1, 1, generator=g))
        out[start : start + k] = (z / z.std() * contrast).flatten(1)
    return out.clamp_(-1, 1)


def medians(functions: Mapping[str, Callable[[], object]], rounds: int = 5, budget: float = 30.0) -> dict[str, float]:
    """Median seconds of each function, run in turn so that a busy machine slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for f in functions.values():
        f()
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > budget:
            break
    return {name: statistics.median(t) for name, t in times.items()}


def roof(batch: int = 64, n: int = 50_000, d: int = 784) -> dict[str, float]:
    """What this machine reaches right now: GFLOP/s of the float32 and integer products, GB/s of reading."""
    x, p = torch.randn(batch, d), torch.randn(n, d)
    x8, p8 = x.mul(20).to(torch.int8), p.mul(20).clamp(-127, 127).to(torch.int8)
    t = medians(
        {
            "gemm": lambda: x @ p.T,
            "int8": lambda: torch._int_mm(x8, p8.T),
            "read": lambda: torch.mv(p, x[0]),
        }
    )
    work = 2e-9 * batch * n * d
    return {"gemm_gflops": work / t["gemm"], "int8_gops": work / t["int8"], "read_gb_s": 4e-9 * n * d / t["read"]}


def resident(field: str) -> float:
    """MiB of this process alone: VmRSS now, VmHWM at most since it started or the mark was reset (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def arguments() -> argparse.Namespace:
    """--quick and --json, which every benchmark takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser.parse_args()


def split_arguments(
    description: str | None, *, data: str = "digits", heldout: int = 700, seed: int = 10
) -> argparse.ArgumentParser:
    """A parser of the options that name a data set and one split of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=data)
    parser.add_argument("--size", type=int)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--heldout", type=int, default=heldout)
    parser.add_argument("--seed", type=int, default=seed)
    return parser


def draw_split(options: argparse.Namespace) -> tuple[Images, Yardstick]:
    """The training images that such options name, and what scores samples against held-out ones."""
    train, heldout, encoder = draw_sets(options.data, options.n, options.heldout, options.seed, size=options.size)
    return train, yardstick(train.tensor(), heldout.tensor(), encoder)


def run_arguments(description: str | None, *, train: str, batch_size: int) -> argparse.ArgumentParser:
    """Those of a split, and of one run on it that is judged at some steps; `train` is what is trained by default."""
    parser = split_arguments(description)
    parser.add_argument("--train", choices=("conditional", "exact"), default=train)
    parser.add_argument("--network", choices=("auto", "mlp", "unet"), default="auto")
    parser.add_argument("--step", type=int, action="append", help="may be repeated")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    return parser


def asked_steps(options: argparse.Namespace, usual: Sequence[int]) -> list[int]:
    """The steps at which such a run is judged."""
    return [max(1, s // 40) if options.quick else s for s in options.step or usual]


def plain_or_smoothed(options: argparse.Namespace, points: Tensor, augment: float = 0.0) -> Prepared:
    """What such a run trains: plain training, or tangent smoothing at the halved width with exact targets."""
    plain = Recipe(objective="conditional", network=options.network, augment=augment)
    smoothed = Recipe(objective="tangent", h="halved", targets="exact", network=options.network)
    return prepare(smoothed if options.train == "exact" else plain, points, seed=options.seed)


def judge(
    name: str, denoiser: Denoiser, schedule: Schedule, against: Yardstick, seed: int, start: Start | None = None
) -> None:
    """Draw 300 samples from a denoiser, score them and print a line."""
    told(name, draw(denoiser, schedule, heun, against.train.shape[1:], seed, range(DRAWN), start=start).x, against)


def told(name: str, images: Tensor, against: Yardstick) -> None:
    """Score images and print a line."""
    row, _ = score(images.clamp(-1, 1), against)
    print(f"{name:46s} " + "  ".join(f"{key} {row[key]:.3g}" for key in JUDGED), flush=True)


def show(result: dict, as_json: bool) -> None:
    """Print a result: one JSON object, or a line for each key."""
    result = {"threads": torch.get_num_threads(), **result}
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, list):
            print(f"{key}:")
            for row in value:
                print("  " + "  ".join(f"{k}={_short(v)}" for k, v in row.items()))
        else:
            print(f"{key}: {_short(value)}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ratios(functions: Mapping[str, Callable[[], object]], rounds: int = 5, budget: float = 30.0) -> dict[str, float]:
    """Median over rounds of each function's time divided by the first one's, in the same round."""
    names = list(functions)
    shares: dict[str, list[float]] = {name: [] for name in names}
    for f in functions.values():
        f()
    begin = time.perf_counter()
    for _ in range(rounds):
        taken = {}
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            taken[name] = time.perf_counter() - start
        for name in names:
            shares[name].append(taken[name] / taken[names[0]])
        if time.perf_counter() - begin > budget:
            break
    return {name: statistics.median(s) for name, s in shares.items()}


def two_products(points: Tensor) -> Denoiser:
    """What a competent user writes: float32, |x|^2 left out, two matrix products and a softmax; norms kept."""
    half = points.square().sum(1) / 2

    def denoise(x: Tensor, sigma: Tensor | None) -> Tensor:
        assert sigma is not None
        return torch.addmm(half, x, points.T, beta=-1).div_(sigma[:, None] ** 2).softmax(1) @ points

    return denoise


def noisy(points: Tensor, batch: int, sigma: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows mu + sigma eps around random points, and their noise levels."""
    g = torch.Generator().manual_seed(seed)
    mu = points[torch.randint(len(points), (batch,), generator=g)]
    return mu + sigma * torch.randn(mu.shape, generator=g), torch.full((batch,), sigma)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def fashion(n: int) -> Tensor | None:
    """The first n images of Fashion-MNIST as flat rows in [-1, 1], or None where it is not installed."""
    from temperance.data import InputError, load

    try:
        return load(f"fashion[:{n}]", progress=False).tensor().flatten(1)
    except InputError:
        say("fashion is not installed: left out")
        return None
