"""A sampling run on disk: batch by batch, so that it can be resumed and shared out among processes."""

import hashlib
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from temperance.atomic import write_json
from temperance.autoguidance import Autoguided
from temperance.data import to_uint8
from temperance.denoiser import elsewhere
from temperance.guard import ATTEMPTS, Guard
from temperance.hub import Model
from temperance.run.pictures import SHOWN, write_array, write_pngs, write_sheet
from temperance.run.shards import Shard, Shards
from temperance.run.sources import ClosedForm
from temperance.sample import SAMPLERS, STEPS, Noise, NotConverged, Project, Samples, integrate, usual, walk
from temperance.schedule import levels
from temperance.start import SmoothedStart
from temperance.workers import Place

WHOLE = ("samples.npz", "sample.json", "grid.png")  # written at the end, from all batches


def sample_run(
    model: Model,
    out: Path,
    n: int,
    *,
    sampler: str,
    steps: int,
    batch_size: int,
    guard: Guard | None,
    guide: bool = False,
    start: SmoothedStart | None = None,
    seed: int,
    device: str,
    resume: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Draw `n` images and write PNGs, `samples.npz` and `sample.json`. Image i depends on (seed, i) alone.

    Every batch is kept in `shards/` once finished; `resume` draws only what is missing, also for a larger `n`, and
    writes all PNGs again. Under torchrun the processes take turns with the batches, and the first one waits for the
    others and writes the arrays; `images_per_second` is that of all of them. A closed form is evaluated on the CPU.
    Memory: one batch. With `guard`, what it refuses is drawn again; what it refuses every time is not written, and the
    shortfall is reported.

    Returns:
        What `sample.json` holds; empty in all processes but the first.

    Raises:
        ValueError: in one line, before anything is written, if the options do not fit together.
    """
    began = time.perf_counter()
    name, place = _sampler(sampler, model), Place.here()
    _check_guard(guard, guide, model)
    _check_start(start, model)
    drawing = _Drawing(model, name, steps, seed, _where(device, place, model), guard, guide, start)
    plan = _plan(model, name, steps, batch_size, guard, guide, start, seed)
    shards = Shards(out / "shards", plan, n, batch_size)
    if resume:
        shards.check_resumable()
        shards.trim(out / "images")
    else:
        shards.clear(place, out / "images")
        for file in WHOLE if place.rank == 0 else ():  # of an earlier run: not to be taken for this one's
            (out / file).unlink(missing_ok=True)
    write_json(shards.folder / "plan.json", shards.plan)
    todo = {start for start in shards.starts if not (resume and shards.done(start))}  # of all processes
    _draw(drawing, shards, place, todo, out / "images", progress)
    if place.rank:
        return {}
    found = _collected(shards, place, out, model)
    seconds, drawn = time.perf_counter() - began, sum(len(shards.indices(start)) for start in todo)
    found |= {"seconds": seconds, "images_per_second": drawn / seconds}
    found |= {"sampler": name, "seed": seed, "processes": place.world, "model": model.about}
    found["start"] = None if start is None else start.describe()
    found["guard"] = None if guard is None else _about(guard, found)
    write_json(out / "sample.json", found)
    return found


def _sampler(asked: str, model: Model) -> str:
    name = usual(told=model.told or "closed_form" in model.about) if asked == "auto" else asked
    if name not in SAMPLERS:
        raise ValueError(f"--sampler must be one of auto, {', '.join(SAMPLERS)}, got {asked!r}")
    return name


def _check_guard(guard: Guard | None, guide: bool, model: Model) -> None:
    if guide and (guard is None or guard.threshold is None):
        raise ValueError("--guide needs a calibrated guard: give --guard and --heldout, or a saved --guard-index")
    if guide and guard is not None and not guard.leads_away:
        raise ValueError(f"--guide needs an encoder with a gradient, and {guard.encoder.name} has none; leave it out")
    if guard is not None and guard.index.shape != tuple(model.shape):
        raise ValueError(
            f"--guard images are {guard.index.shape}, the model makes {tuple(model.shape)}; set --size or --channels"
        )


def _check_start(start: SmoothedStart | None, model: Model) -> None:
    if start is None:
        return
    if model.classes and start.labels is None:
        raise ValueError("--start needs images with classes: the model draws samples of a class")
    if start.points.shape[1:] != model.shape:
        raise ValueError(
            f"--start images are {tuple(start.points.shape[1:])}, the model makes {tuple(model.shape)};"
            " set --size or --channels"
        )
    end = float(levels(model.schedule, 2)[-1])
    if start.sigma <= end:
        raise ValueError(
            f"--start: its images collapse at a noise level of {start.sigma:.2g}, and the model's schedule ends at"
            f" {end:.2g}: look for near-duplicates with temperance analyze"
        )


def _where(device: str, place: Place, model: Model) -> str:
    if isinstance(model.denoiser, ClosedForm):
        if device not in ("auto", "cpu"):
            raise ValueError(f"--closed-form is evaluated on the CPU; leave out --device {device}")
        return "cpu"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Processes take turns at the GPUs of a machine, whether there are as many or not.
    return f"cuda:{place.local % torch.cuda.device_count()}" if device == "cuda" else device


def _plan(
    model: Model,
    name: str,
    steps: int,
    batch_size: int,
    guard: Guard | None,
    guide: bool,
    start: SmoothedStart | None,
    seed: int,
) -> dict[str, Any]:
    """All that decides the pixels, and nothing else."""
    # Not the paths, which can be spelled in several ways: weights and `train_sha256` tell models apart.
    about = {key: value for key, value in model.about.items() if key != "source"}
    if "autoguidance" in about:
        about["autoguidance"] = about["autoguidance"]["weight"]
    digest = hashlib.sha256(str(sorted(about.items())).encode())
    for key, value in model.denoiser.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    rule = None if guard is None else {
        "encoder": guard.encoder.name, "threshold": guard.threshold, "guide": guide,
        "train": hashlib.sha256(guard.index.digests.numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    plan = {
        "model": digest.hexdigest(), "sampler": name, "steps": steps or STEPS[name], "batch_size": batch_size,
        "seed": seed, "guard": rule,
    }  # fmt: skip
    return plan if start is None else plan | {"start": start.describe()}


class _Drawing:
    """Draws one batch, with refused images drawn again."""

    def __init__(
        self,
        model: Model,
        name: str,
        steps: int,
        seed: int,
        where: str,
        guard: Guard | None,
        guide: bool,
        start: SmoothedStart | None,
    ):
        self.model, self.name, self.seed, self.guard, self.guide, self.start = model, name, seed, guard, guide, start
        self.denoiser, self.where = model.denoiser.to(where), where
        self.walk = walk(name, model.schedule, steps)

    def shard(self, index: list[int]) -> Shard:
        seen: dict[int, tuple[float, bool]] = {}
        most = 0

        def draw(stream: Sequence[int], project: Project | None = None) -> Tensor:
            nonlocal most
            found = self._once(stream, project)
            most = max(most, found.nfe)
            seen.update(zip(stream, zip(found.final_sigma.tolist(), found.converged.tolist())))
            return found.x

        if self.guard is None:
            x, stream, refused = draw(index), index, 0
            passed = torch.ones(len(index), dtype=torch.bool)
        else:
            x, passed, stream, refused = self.guard.draw(draw, index, guide=self.guide)
        kept = [i for i, good in enumerate(passed.tolist()) if good]
        final, converged = np.array([seen[stream[i]] for i in kept]).reshape(-1, 2).T
        counts = np.array([len(index), refused, most])
        return Shard(to_uint8(x[kept]), np.array(index)[kept], final, converged.astype(bool), counts)

    def _once(self, stream: Sequence[int], project: Project | None) -> Samples:
        labels = [label.to(self.where) for label in self.model.labels(stream)]

        def labeled(x: Tensor, sigma: Tensor | None) -> Tensor:
            return self.denoiser(x, sigma, *labels)

        # Without labels it is the denoiser itself, so that one that walks by itself still does.
        there = elsewhere(labeled if labels else self.denoiser, self.where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)  # reported once for all batches
            noise = Noise(self.seed, stream)
            sampler, sigmas, options = self.walk
            start = self.start.of(labels[0].cpu()) if self.start is not None and labels else self.start
            options = {**options, "project": project, "start": start}
            return integrate(sampler, there, self.model.shape, sigmas, noise, **options)


def _draw(drawing: _Drawing, shards: Shards, place: Place, todo: set[int], images: Path, progress: bool) -> None:
    """Draw this process's batches that are `todo`, and write the PNGs of all of them."""
    mine = shards.mine(place)
    share = f", the share of one of {place.world} processes" if place.world > 1 else ""
    bar = tqdm(
        total=sum(len(shards.indices(start)) for start in todo.intersection(mine)),
        desc=f"sample ({drawing.name}{share})", unit="image", file=sys.stderr,
        disable=not (progress and place.rank == 0), leave=False,
    )  # fmt: skip
    with bar:
        for start in mine:
            if start in todo:
                shards.write(start, drawing.shard(shards.indices(start)))
                bar.update(len(shards.indices(start)))
            shard = shards.read(start)
            write_pngs(images, shard.pixels, shard.number.tolist())


def _collected(shards: Shards, place: Place, out: Path, model: Model) -> dict[str, Any]:
    """Write the array and the sheet from the batches, one at a time, and count."""
    final, converged, counts, first = [], [], [], []
    for shard in shards.all(place):
        final.append(shard.final_sigma)
        converged.append(shard.converged)
        counts.append(shard.counts)
        if sum(map(len, first)) < SHOWN:
            first.append(shard.pixels)
    sigma, good, totals = np.concatenate(final), np.concatenate(converged), np.array(counts)
    channels, height, width = model.shape
    blocks = (shard.pixels for shard in shards.all(place))
    write_array(out / "samples.npz", blocks, (len(sigma), height, width, channels))
    write_sheet(out / "grid.png", np.concatenate(first))
    evaluations = int(totals[:, 2].max()) * (2 if isinstance(model.denoiser, Autoguided) else 1)
    notes = []
    if not good.all():
        notes.append(f"{int((~good).sum())} of {len(good)} samples have not converged; use more --steps")
    if len(good) < shards.n:
        notes.append(
            f"{shards.n - len(good)} of {shards.n} samples still copied after {ATTEMPTS} draws and were not written"
        )
    return {
        "n": len(good), "asked": shards.n, "nfe": evaluations, "refused": int(totals[:, 1].sum()),
        "final_sigma": float(sigma.mean()) if len(sigma) else None,
        "sigma_min": float(levels(model.schedule, 2)[-1]),
        "converged": float(good.mean()) if len(good) else None, "warnings": notes,
    }  # fmt: skip


def _about(guard: Guard, found: dict[str, Any]) -> dict[str, Any]:
    threshold = None if guard.threshold is None else guard.threshold._asdict()
    return {
        "encoder": guard.encoder.name, "rule": "d1/d2 < 1/3" if threshold is None else "distance",
        "n": len(guard.index), "threshold": threshold, "false_refusal_rate": guard.rate, "refused": found["refused"],
        "withheld": found["asked"] - found["n"],
    }  # fmt: skip
