"""A sampling run on disk, with copies drawn again where a guard is asked for."""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from temperance.atomic import write_json
from temperance.data import Images, to_uint8
from temperance.hub import Model
from temperance.metrics import proximity
from temperance.report import COPY_RATIO
from temperance.run.pictures import write_pictures
from temperance.sample import Noise, NotConverged, Samples, adaptive, heun, integrate, predictor_corrector

SAMPLERS = {"heun": heun, "pc": predictor_corrector, "adaptive": adaptive}
STEPS = {"heun": 20, "pc": 100, "adaptive": 400}
REDRAWS = 10  # rounds of fresh noise before a guarded sampler gives up


def sample_run(
    model: Model,
    out: Path,
    n: int,
    *,
    sampler: str,
    steps: int,
    batch_size: int,
    guard: Images | None,
    seed: int,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """Draw `n` images and write PNGs, `samples.npz` and `sample.json`. Image i depends on (seed, i) alone.

    With `guard`, a sample whose d1/d2 to the guard's images is below 1/3 is drawn again from fresh noise, at most
    `REDRAWS` times; what still copies then is not written, and the shortfall is reported.
    """
    name = sampler if sampler != "auto" else ("heun" if model.told or "closed_form" in model.about else "adaptive")
    if name not in SAMPLERS:
        raise ValueError(f"--sampler must be auto, heun, pc or adaptive, got {sampler!r}")
    train = None if guard is None else guard.tensor().flatten(1)
    if train is not None and train.shape[1] != int(np.prod(model.shape)):
        raise ValueError(
            f"--guard images have {train.shape[1]} values, the model makes {int(np.prod(model.shape))}; set --size"
        )
    began = time.perf_counter()
    parts, refused, kept = [], 0, []
    bar = tqdm(total=n, desc=f"sample ({name})", unit="image", file=sys.stderr, disable=not progress, leave=False)
    for start in range(0, n, batch_size):
        index = list(range(start, min(n, start + batch_size)))
        drawn, again, good = _draw(model, name, steps, seed, index, n, train, device)
        refused += again
        parts.append(drawn)
        kept.append(good)
        bar.update(len(index))
    bar.close()
    mask = torch.cat(kept)
    pixels = to_uint8(torch.cat([p.x for p in parts])[mask].clamp(-1, 1))
    final = torch.cat([p.final_sigma for p in parts])[mask]
    converged = torch.cat([p.converged for p in parts])[mask]
    write_pictures(out, pixels)
    notes = []
    if not bool(converged.all()):
        notes.append(f"{int((~converged).sum())} of {len(pixels)} samples have not converged; use more --steps")
    if not bool(mask.all()):
        notes.append(f"{int((~mask).sum())} of {n} samples still copied after {REDRAWS} draws and were not written")
    found = {
        "n": len(pixels), "asked": n, "sampler": name, "nfe": max(p.nfe for p in parts), "seed": seed,
        "final_sigma": float(final.mean()) if len(final) else None, "sigma_min": float(model.schedule.grid(2)[-1]),
        "converged": float(converged.float().mean()) if len(final) else None, "guard": None if guard is None else
        {"source": guard.source, "refused": refused, "withheld": int((~mask).sum())},
        "seconds": time.perf_counter() - began, "model": model.about, "warnings": notes,
    }  # fmt: skip
    write_json(out / "sample.json", found)
    return found


def _draw(
    model: Model,
    name: str,
    steps: int,
    seed: int,
    index: list[int],
    n: int,
    train: Tensor | None,
    device: str,
) -> tuple[Samples, int, Float[Tensor, " batch"]]:
    """One batch, with copies drawn again: the samples, how many draws were refused, and which rows may be written."""
    drawn = _once(model, name, steps, seed, index, device)
    good = torch.ones(len(index), dtype=torch.bool)
    refused = 0
    for attempt in range(1, REDRAWS + 1):
        if train is None:
            break
        good = proximity(drawn.x.flatten(1), train).ratio >= COPY_RATIO
        bad = (~good).nonzero()[:, 0].tolist()
        refused += len(bad)
        if not bad or attempt == REDRAWS:
            break
        fresh = _once(model, name, steps, seed, [index[i] + attempt * (1 << 32) for i in bad], device)
        for old, new in zip(drawn[:1] + drawn[2:], fresh[:1] + fresh[2:]):
            old[bad] = new
    return drawn, refused, good


def _once(model: Model, name: str, steps: int, seed: int, index: list[int], device: str) -> Samples:
    count = steps or STEPS[name]
    options = {"limit": count} if name == "adaptive" else {}
    grid = model.schedule.grid(2 if name == "adaptive" else max(2, count))
    where = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    denoiser = model.denoiser.to(where)

    def call(x: Tensor, sigma: Tensor | None) -> Tensor:
        return denoiser(x.to(where), None if sigma is None else sigma.to(where)).cpu()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # reported once for all batches
        return integrate(SAMPLERS[name], call, model.shape, grid, Noise(seed, index), **options)
