"""A training run on disk."""

import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from temperance import hub
from temperance.atomic import read_json, write_json, write_text
from temperance.data import Images, unseen
from temperance.data.spec import absolute
from temperance.diagnostics import near_duplicate_share
from temperance.distance import duplicates
from temperance.recipe import USED_BY, Recipe, fit, mirror_groups, prepare, with_mirrors
from temperance.run.earlier import keep, kept, nearest
from temperance.run.labels import labels_digest, labels_of
from temperance.run.monitor import Monitor
from temperance.run.settings import Given, settings_from
from temperance.train import Settings, checkpoints, listed, step_of, stopped_at
from temperance.versions import versions
from temperance.workers import Place

MANY = 0.05  # near-duplicates among the training images that are worth a word


def train_run(
    images: Images,
    out: Path,
    given: Given,
    *,
    resume: bool,
    progress: bool,
    device: str,
    heldout: Images | None = None,
    shaped: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Train on images and write `config.yaml`, `env.json`, `metrics.jsonl`, `checkpoint-N/`, `model/` and `earlier/`.

    A resumed run takes its settings from its own `config.yaml`, except for what is given anew; one that was stopped
    before its first checkpoint starts again. Nothing is written before the settings are known to work on the images.
    With `heldout`, or if copies are to end it, the run is watched every `monitor_every` steps; if that is 0, at every
    checkpoint or, with `halve` and `prevent`, at landmarks. `shaped` is how the images were read, for `config.yaml`.

    Of several processes the first writes, and only it gets an answer.
    """
    if resume:
        _check_resumable(out, images, heldout)
    recipe, settings, asked = settings_from(given, resumed=out / "config.yaml" if resume else None)
    settings = _watched(settings, heldout is not None)
    began = time.perf_counter()
    points = images.tensor()
    labels, classes = _labels(images, out if resume else None) if recipe.class_conditional else (None, ())
    ready = prepare(recipe, points, seed=settings.seed, labels=labels, classes=len(classes))
    _check_init(recipe, ready.recipe, asked)
    merged = {**vars(recipe), **vars(settings), "process": ready.recipe.process, "betas": ready.recipe.betas}
    rank, world, _ = Place.here()
    main = rank == 0
    against = None if heldout is None else _unseen(heldout, images, recipe.flips, told=main)
    look = settings.monitor_every or settings.at_landmarks
    monitor = _monitor(points, recipe.flips, against, settings, out) if look else None
    if main:
        _warn(recipe, asked, points)
        _warn_of_classes(recipe, classes)

    def begin() -> None:
        apart = None if heldout is None else absolute(heldout.source)
        about = {"data": absolute(images.source), "heldout": apart, **(shaped or {})}
        _begin(out, about, merged, {**environment(images, heldout), "world_size": world})
        if progress:
            print(f"world size {world}", file=sys.stderr)

    def earlier(step: int, model: hub.Model) -> None:
        if main:
            keep(out, step, lambda folder: _save(out, folder, _at(step, model)))

    model = fit(
        ready, points, settings, out=out, resume=resume and bool(listed(out)), progress=progress, device=device,
        classes=classes, begin=begin, earlier=earlier, monitor=monitor,
    )  # fmt: skip
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not main:
        return None
    step, model = _end(out, model, settings)
    _save(out, out / "model", _at(step, model))
    seconds = time.perf_counter() - began
    return {
        "out": str(out),
        "model": str(out / "model"),
        "model_step": step,
        "stopped_after": stopped_at(out),
        "n_train": len(images),
        "seconds": seconds,
        "world_size": world,
        **merged,
        "chosen": ready.chosen,
    }


def _watched(settings: Settings, heldout: bool) -> Settings:
    """The settings, with looks at every checkpoint where copies are to be told or to end a run, and none are set."""
    due = settings.on_copying == "stop" or (heldout and not settings.at_landmarks)
    return replace(settings, monitor_every=settings.monitor_every or settings.checkpoint_every * due)


def _monitor(points: Tensor, flips: bool, against: Tensor | None, settings: Settings, out: Path) -> Monitor:
    rows = with_mirrors(points) if flips else points
    group = mirror_groups(rows) if flips else duplicates(rows.flatten(1))
    if len(group.unique()) < 2:
        raise ValueError("all images are the same: copies of one of them cannot be told; do not watch for them")
    return Monitor(rows, against, settings, out, group)


def _check_init(given: Recipe, found: Recipe, asked: set[str]) -> None:
    """Refuse a process that was asked for beside the model to start from, which has its own."""
    for name in ("process", "betas"):
        own, other = getattr(found, name), getattr(given, name)
        if name in asked and own != other:
            raise ValueError(f"--init {given.init} is a model of {name} {own}; leave out {name} {other}")


def _warn(recipe: Recipe, asked: set[str], points: Tensor) -> None:
    """Say what was asked for and has no use, and what the images have that settings do not expect."""
    for name, users in USED_BY.items():
        if name in asked and recipe.objective not in users and getattr(recipe, name) != getattr(Recipe, name):
            print(f"{name} is of the {' or '.join(users)} objective: {recipe.objective} ignores it", file=sys.stderr)
    share = near_duplicate_share(points.flatten(1))
    if share > MANY:
        print(
            f"{share:.0%} of the images have a near-duplicate: widths come out too small beside it, and copies of it"
            " are not counted as such while training; temperance analyze lists them",
            file=sys.stderr,
        )


def _warn_of_classes(recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Say whose places the classes take in the model to start from; one of others may name none."""
    known = hub.load(Path(recipe.init)) if recipe.init and classes else None
    if known is None or known.about.get("source") == "diffusers" or known.classes == classes:
        return
    old, new = next(pair for pair in zip(known.classes, classes, strict=True) if pair[0] != pair[1])
    print(f"--init {recipe.init} has other classes: {old} becomes {new}, and so on", file=sys.stderr)


def _end(out: Path, model: hub.Model, settings: Settings) -> tuple[int, hub.Model]:
    """The step and the model that a run hands over: its last one or, with `halve`, that of half of the steps."""
    copied = stopped_at(out)
    if copied is None or settings.on_copying != "halve":
        return step_of(listed(out)[0]), model
    if min(kept(out), default=copied) >= copied:
        print("copies came before any earlier model was kept: the last one is handed over", file=sys.stderr)
        return step_of(listed(out)[0]), model
    half = nearest(out, copied, 1 / 2)
    return int(half.name), hub.load(half)


def _check_resumable(out: Path, images: Images, heldout: Images | None) -> None:
    """Refuse what is no run of these images; other held-out images are only told."""
    if not ((out / "config.yaml").exists() and (out / "env.json").exists()):
        raise ValueError(f"nothing to resume: {out} holds no run; start without --resume")
    before = read_json(out / "env.json")
    if before.get("train_sha256") != images.fingerprint:
        raise ValueError(f"--resume: the images are not those that {out} was trained on")
    known = before.get("heldout_sha256")
    if heldout is not None and known not in (None, heldout.fingerprint) and Place.here().rank == 0:
        print(f"--resume: the held-out images are not those that {out} was watched with", file=sys.stderr)


def _labels(images: Images, resumed: Path | None) -> tuple[Tensor | None, tuple[str, ...]]:
    """The labels and their names; those of a run that is `resumed` must be the same."""
    before = None if resumed is None else read_json(resumed / "env.json").get("labels_sha256")
    if before not in (None, labels_digest(images)):
        raise ValueError(f"--resume: the labels are not those that {resumed} was trained with")
    return labels_of(images)


def _begin(out: Path, about: dict[str, Any], merged: dict[str, Any], env: dict[str, Any]) -> None:
    """Write down what is about to be done; last `config.yaml`, which a run is known by."""
    known = {key: value for key, value in about.items() if value is not None}
    write_json(out / "env.json", env)
    write_text(out / "config.yaml", yaml.safe_dump({**known, **merged}, sort_keys=False))


def _unseen(heldout: Images, images: Images, flips: bool, *, told: bool) -> Tensor:
    """Held-out images that can be held against the training images, without those that are training images."""
    found = unseen(heldout, images, mirrored=flips)
    if len(found) < len(heldout) and told:
        text = f"{len(heldout) - len(found)} of {len(heldout)} held-out images are training images and are left out"
        print(text, file=sys.stderr)
    return found.tensor()


def _at(step: int, model: hub.Model) -> hub.Model:
    return replace(model, about={**model.about, "step": step})


def _save(out: Path, folder: Path, model: hub.Model) -> None:
    """Write a model of the run `out`; if that fails, say in one line what there is to go on from."""
    try:
        hub.save(folder, model)
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        last = next((path.name for path in checkpoints(out)), None)
        left = f"{last} is intact: make room and --resume" if last else "make room, and --resume begins again"
        raise OSError(f"cannot save {folder}: {reason}; {left}") from error


def environment(images: Images, heldout: Images | None) -> dict[str, Any]:
    """What a run was made with."""
    packages = ("temperance", "torch", "diffusers", "accelerate", "numpy", "safetensors")
    return {
        "versions": versions(*packages),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "n_train": len(images),
        "train_sha256": images.fingerprint,
        "labels_sha256": labels_digest(images),
        "heldout_sha256": None if heldout is None else heldout.fingerprint,
    }
