"""A study from its plan to its page: cells that are there already are read, the others run and kept as they end."""

import multiprocessing
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from temperance.atomic import read_json
from temperance.report import write_json, write_page
from temperance.study.advice import advise, against_early_stop
from temperance.study.cell import Cell, check, run
from temperance.study.page import command, page
from temperance.study.plan import Plan, cells
from temperance.versions import versions
from temperance.workers import check_single, spread


def study(plan: Plan, out: Path, *, progress: bool = True, device: str = "auto") -> dict[str, Any]:
    """Run a plan and write `out/report.html` and `out/study.json`; `out/cells/` keeps every cell.

    An interrupted study goes on where it stopped, and a wider plan reuses the cells it shares with a narrower one.
    Trainings, one for cells that differ only in how they sample, are spread over the processor's cores, one thread
    each, and their networks over the GPUs, if there are some and `device` is not `cpu`. Returns the content of
    `study.json`.

    Raises:
        ValueError: if the data cannot be used, or under torchrun.
    """
    check_single("study")
    began = time.perf_counter()
    wanted = cells(plan)
    images = check(wanted[0])  # before anything is written or started
    out.mkdir(parents=True, exist_ok=True)
    kept = {cell.key: _read(out, cell, images) for cell in wanted}
    missing = [cell for cell in wanted if kept[cell.key] is None]
    together: dict[Cell, list[Cell]] = {}
    for cell in missing:
        together.setdefault(cell.training, []).append(cell)
    total = sum(training.steps for training in together)
    places = _places(device)
    jobs = [(group, out, images, places[i % len(places)]) for i, group in enumerate(together.values())]
    for found in spread(keep, jobs, total=total, unit="step", label="study", progress=progress):
        kept |= found
    rows = [row for cell in wanted for row in kept[cell.key] or ()]
    told = {
        "schema": 1,
        "rows": rows,
        "early_stop": advise(rows),
        "against_early_stop": against_early_stop(rows),
        "provenance": {
            "command": command(plan),
            "plan": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(plan).items()},
            "split": describe(plan),
            "seconds": round(time.perf_counter() - began, 1),
            "cells": len(wanted),
            "reused": len(wanted) - len(missing),
            "versions": versions("temperance", "torch", "diffusers", "numpy"),
            "python": platform.python_version(),
            "processors": multiprocessing.cpu_count(),
            "devices": [torch.cuda.get_device_name(place) for place in places if place != "cpu"],
        },
    }
    write_json(out / "study.json", told)
    write_page(page(plan, told), out / "report.html")
    return told


def keep(
    cells: Sequence[Cell], out: Path, images: list[str], device: str, tick: Any
) -> dict[str, list[dict[str, Any]]]:
    """Run the cells of one training in a worker and write their rows, by their keys, before they are handed back."""
    if device != "cpu":
        torch.cuda.set_device(device)  # training takes the current one
    where = {"drawn_on": _processor(device)}
    found = {}
    for cell, rows in zip(cells, run(cells, tick, device)):
        found[cell.key] = [row | where for row in rows]
        about = vars(cell) | {"looks": list(cell.looks)}
        write_json(_path(out, cell), {"cell": about, "images": images, "rows": found[cell.key]})
    return found


def _processor(device: str) -> str:
    """What rounded a cell's sums: on another kind a network's rows come out a little otherwise."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    told = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that is supported
    return f"{told.get('cpu_name', 'CPU')}, {torch.backends.cpu.get_cpu_capability()}"


def _places(device: str) -> list[str]:
    """Where networks are trained: the GPU that is named or, for `auto` and `cuda`, all there are."""
    if device == "cpu" or not torch.cuda.is_available():
        return ["cpu"]
    return [device] if ":" in device else [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def describe(plan: Plan) -> str:
    """How training and held-out images are told apart."""
    if plan.data == plan.heldout:
        return (
            f"each seed splits {plan.data} at random: {plan.n_train} images to train, {plan.n_heldout} held out; "
            "what is left trains the classifier that quality is measured with, where it is labeled"
        )
    return (
        f"each seed draws {plan.n_train} images of {plan.data} to train and up to {plan.n_heldout} of {plan.heldout} "
        "as held-out"
    )


def _path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.key}.json"


def _read(out: Path, cell: Cell, images: list[str]) -> list[dict[str, Any]] | None:
    try:
        found = read_json(_path(out, cell))
        return found["rows"] if found["images"] == images else None
    except (OSError, ValueError, KeyError):
        return None
