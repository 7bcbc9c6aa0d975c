"""Runs on disk: what `temperance train` and `temperance sample` read and write."""

import difflib
import json
import platform
import sys
import time
import warnings
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from temperance import hub
from temperance.atomic import write_bytes, write_json, write_text
from temperance.data import Images, to_uint8
from temperance.hub import Model
from temperance.metrics import proximity
from temperance.recipe import Recipe, closed_form, fit, names, prepare
from temperance.sample import Noise, NotConverged, Samples, adaptive, heun, integrate, predictor_corrector
from temperance.schedule import edm_for
from temperance.train import Settings

SAMPLERS = {"heun": heun, "pc": predictor_corrector, "adaptive": adaptive}
STEPS = {"heun": 20, "pc": 100, "adaptive": 400}
REDRAWS = 10  # rounds of fresh noise before a guarded sampler gives up
COPY = 1 / 3  # d1/d2 below which a sample counts as a copy (Yoon 2023)


# Training -------------------------------------------------------------------------------------------------------------


def settings_from(
    defaults: dict[str, Any], config: Path | None, typed: set[str], assignments: list[str]
) -> tuple[Recipe, Settings]:
    """Merge option defaults, configuration file, the options named in `typed`, and `key=value`; later ones win.

    Raises:
        ValueError: for a key that does not exist (the nearest one is named) or a value of the wrong kind.
    """
    merged = dict(defaults)
    if config is not None:
        try:
            held = yaml.safe_load(config.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"cannot read --config {config}: {error}") from error
        if not isinstance(held, dict):
            raise ValueError(f"--config {config} must hold key: value lines")
        merged |= {k: v for k, v in held.items() if k not in ("data", "version")}
    merged |= {name: defaults[name] for name in typed}
    for text in assignments:
        key, found, value = text.partition("=")
        if not found:
            raise ValueError(f"--set takes key=value, got {text!r}")
        merged[key] = yaml.safe_load(value)
    for key in merged:
        if key not in names():
            near = difflib.get_close_matches(key, names(), n=1)
            raise ValueError(
                f"unknown setting {key!r}; {'did you mean ' + near[0] if near else 'see temperance train --help'}?"
            )
    try:
        return tuple(c(**{f.name: merged[f.name] for f in fields(c) if f.name in merged}) for c in (Recipe, Settings))  # pyright: ignore[reportReturnType]
    except TypeError as error:
        raise ValueError(f"a setting has the wrong type: {error}") from error


def train_run(
    images: Images,
    out: Path,
    defaults: dict[str, Any],
    config: Path | None,
    typed: set[str],
    assignments: list[str],
    *,
    resume: bool,
    progress: bool,
    device: str,
) -> dict[str, Any]:
    """Train on images and write `config.yaml`, `env.json`, `metrics.jsonl`, `checkpoint-N/` and `model/`.

    A resumed run takes its settings from its own `config.yaml`, except for what is given anew. Nothing is written
    before the settings are known to work on the images.
    """
    saved = out / "config.yaml"
    if resume and not (saved.exists() and (out / "env.json").exists()):
        raise ValueError(f"nothing to resume: {out} holds no run; start without --resume")
    recipe, settings = settings_from(defaults, saved if resume and config is None else config, typed, assignments)
    if resume and json.loads((out / "env.json").read_text())["train_sha256"] != images.fingerprint:
        raise ValueError(f"--resume: the images are not those that {out} was trained on")
    merged = {**vars(recipe), **vars(settings)}
    began = time.perf_counter()
    points = images.tensor()
    ready = prepare(recipe, points, seed=settings.seed)
    write_text(saved, yaml.safe_dump({"data": images.source, **merged}, sort_keys=False))
    write_json(out / "env.json", environment(images))
    model = fit(ready, points, settings, out=out, resume=resume, progress=progress, device=device)
    hub.save(out / "model", model)
    seconds = time.perf_counter() - began
    return {
        "out": str(out),
        "model": str(out / "model"),
        "n_train": len(images),
        "seconds": seconds,
        **merged,
        "chosen": ready.chosen,
    }


def environment(images: Images) -> dict[str, Any]:
    """What a run was made with."""
    packages = ("temperance", "torch", "diffusers", "accelerate", "numpy", "safetensors")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "n_train": len(images),
        "train_sha256": images.fingerprint,
    }


# Sampling -------------------------------------------------------------------------------------------------------------


def open_model(source: str) -> Model:
    """A run or model folder by its path.

    Raises:
        ValueError: if there is no such folder or it holds no model.
    """
    if not Path(source).is_dir():
        raise ValueError(
            f"{source} is not a folder; give a run of `temperance train`, a diffusers folder, or --closed-form"
        )
    return hub.load(Path(source))


def closed_form_model(images: Images, name: str) -> Model:
    """A training-free model: the closed-form denoiser of the images themselves."""
    points = images.tensor()
    shape = (points.shape[1], points.shape[2], points.shape[3])
    denoiser = _Closed(closed_form(points, name))
    return Model(denoiser, edm_for(points.flatten(1)), shape, {"closed_form": name, "source": images.source})


class _Closed(torch.nn.Module):
    """A closed form in the place of a network."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        return self.denoiser(x, sigma)


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
    _write_images(out, pixels)
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
        good = proximity(drawn.x.flatten(1), train).ratio >= COPY
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


def _write_images(out: Path, pixels: np.ndarray) -> None:
    import io

    from PIL import Image

    def png(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    for i, image in enumerate(pixels):
        write_bytes(out / "images" / f"{i:05d}.png", png(image))
    packed = io.BytesIO()
    np.savez_compressed(packed, arr_0=pixels)
    write_bytes(out / "samples.npz", packed.getvalue())
    if len(pixels):
        write_bytes(out / "grid.png", png(_grid(pixels[:100])))


def _grid(pixels: np.ndarray) -> np.ndarray:
    """A near-square sheet of images with a one-pixel gap."""
    n, h, w, c = pixels.shape
    columns = int(np.ceil(n**0.5))
    sheet = np.full((-(-n // columns) * (h + 1), columns * (w + 1), c), 255, np.uint8)
    for i, image in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * (h + 1) : y * (h + 1) + h, x * (w + 1) : x * (w + 1) + w] = image
    return sheet
