"""A training run on disk."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from temperance import hub
from temperance.atomic import write_json, write_text
from temperance.data import Images
from temperance.recipe import fit, prepare
from temperance.run.settings import settings_from


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
