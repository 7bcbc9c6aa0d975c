"""Checkpoints: folders `checkpoint-N/` that are complete and verified, or are not there.

A checkpoint is written under a hidden name, fsynced, read back, given a sha256 manifest and renamed; only then are
older ones deleted. Tensors are safetensors and the rest is JSON: opening a checkpoint runs no code.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from temperance.atomic import is_complete, new_folder, read_json, remove_folder, write_json, write_verified

NAME = "checkpoint-"


class CannotSave(OSError):
    """A checkpoint could not be written; those that were there before are intact."""


def checkpoints(out: Path) -> Iterator[Path]:
    """The valid checkpoints of a run, newest first; damaged ones are passed over. Cost: reading those asked for."""
    return (path for path in listed(out) if is_complete(path))


def listed(out: Path) -> list[Path]:
    """Every checkpoint by name, newest first, valid or not."""
    found = [p for p in out.glob(f"{NAME}*") if p.name.removeprefix(NAME).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix(NAME))


def newest(out: Path | None) -> Path:
    """The newest valid checkpoint.

    Raises:
        ValueError: if there is none.
    """
    for path in checkpoints(out) if out is not None else ():
        return path
    raise ValueError(f"nothing to resume: {out} holds no complete checkpoint; start again in another folder")


def save_checkpoint(
    out: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimizer: Any,
    *,
    keep: int,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write `out/checkpoint-STEP/`, then delete all but the `keep` newest valid ones and what killed processes left.

    `more` is JSON that `restore` gives back. Cost: a copy of the largest part (the optimizer: twice the weights) in
    memory, one write and two reads of everything, and one read of each older checkpoint that is kept.

    Raises:
        CannotSave: in one line, if the disk is full, read-only or faulty; older checkpoints are intact.
    """
    try:
        with new_folder(out / f"{NAME}{step}") as folder:
            write_verified(folder / "model.safetensors", _packed(model.state_dict()))
            write_verified(folder / "ema.safetensors", _packed(average.state_dict()))
            write_verified(folder / "optimizer.safetensors", _packed(_flat(optimizer)))
            write_json(folder / "state.json", {**(more or {}), "step": step})
        _prune(out, step, keep)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None else str(error)
        last = next((p.name for p in checkpoints(out)), None)
        raise CannotSave(
            f"cannot save {NAME}{step} in {out}: {reason}; "
            + (f"{last} is intact: make room and --resume" if last else "choose another --out")
        ) from error
    return out / f"{NAME}{step}"


def restore(path: Path, model: nn.Module, average: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Load a valid checkpoint into the three; returns `more` and `step`.

    Raises:
        ValueError: if the checkpoint is of another network.
    """
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
        average.load_state_dict(load_file(path / "ema.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"{path} is a checkpoint of another network: {str(error).splitlines()[-1].strip()}") from error
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_json(path / "state.json")


def _flat(optimizer: Any) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def _packed(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})


def _prune(out: Path, step: int, keep: int) -> None:
    """Keep what was just saved and the newest valid ones; damaged ones and leftovers are of no use to anybody."""
    kept = 0
    for path in listed(out):
        if kept < keep and (path.name == f"{NAME}{step}" or is_complete(path)):
            kept += 1
        else:
            remove_folder(path)
    for path in out.glob(f".{NAME}*"):
        shutil.rmtree(path)
