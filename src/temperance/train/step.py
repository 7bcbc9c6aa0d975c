"""One optimizer step on any number of devices, and what to do when its numbers are none."""

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from temperance.atomic import write_json
from temperance.objective import Objective, Target, loss, predict
from temperance.train.batch import batch_index, batch_target, each, noise_seed, take
from temperance.train.settings import Settings


class NonFiniteLoss(ValueError):
    """Training was stopped because the loss is no longer a number; the last checkpoint is intact."""


class Outcome(NamedTuple):
    """A step's mean loss over the global batch, its gradient's norm before clipping, whether weights were changed."""

    loss: Tensor
    norm: Tensor
    taken: bool


@dataclass
class Trainer:
    """What a step works on. `model` is `bare` as wrapped for several devices; `average` follows `bare`."""

    settings: Settings
    accelerator: Accelerator
    objective: Objective
    mu: Tensor
    model: nn.Module
    bare: nn.Module
    average: nn.Module
    optimizer: Any
    out: Path | None
    skipped: int = 0  # steps in a row
    waiting: tuple[int, Target] | None = None
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if self.settings.weight == "edm":
            self.sigma_data = float(self.mu.square().mean().sqrt())

    def advance(self, step: int) -> Outcome:
        """Take step `step` (from 0), or skip it if loss or gradient is not a number.

        Raises:
            NonFiniteLoss: on all processes alike, after more than `max_skipped` skipped steps in a row.
        """
        target = self._target(step)
        value, norm, rows = self._gradient(target, step)
        if step + 1 < self.settings.steps:  # while an accelerator is still computing this one
            self.waiting = (step + 1, self._target(step + 1))
        finite = math.isfinite(float(value))
        scaled = self.accelerator.scaler is not None
        if scaled or (finite and math.isfinite(float(norm))):  # the scaler of fp16 skips, and halves itself, on its own
            self.optimizer.step()
        taken = finite and (scaled or math.isfinite(float(norm))) and not self.accelerator.optimizer_step_was_skipped
        if taken:
            follow(self.average, self.bare, min(self.settings.ema, (1 + step) / (10 + step)))
        self.skipped = 0 if taken or (scaled and finite) else self.skipped + 1
        if self.skipped:
            self._complain(step, value, norm, rows)
        return Outcome(value, norm, taken)

    def _target(self, step: int) -> Target:
        """This process's rows of the step, on its device."""
        if self.waiting is not None and self.waiting[0] == step:
            return self.waiting[1]
        settings, here = self.settings, self.accelerator
        part = (here.process_index, here.num_processes)
        size, seed, groups = settings.batch_size, settings.seed, settings.noise_groups
        target = batch_target(self.objective, self.mu, size, step, seed, groups=groups, part=part)
        target = target._replace(weight=loss_weight(settings, target, self.sigma_data))
        return each(lambda columns: columns[0].to(here.device), target)

    def _gradient(self, target: Target, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Forward and backward: mean loss over the global batch, gradient norm, and the loss of this process's rows."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        torch.manual_seed(noise_seed(self.settings.seed, step, self.accelerator.process_index))  # for dropout
        self.optimizer.zero_grad()
        parts = torch.arange(len(target.x)).tensor_split(self.settings.accumulate)
        share = self.accelerator.num_processes / self.settings.batch_size  # processes are averaged, rows are not
        total, rows = torch.zeros((), device=target.x.device), []
        for i, part in enumerate(parts):
            piece = target if len(parts) == 1 else take(target, slice(int(part[0]), int(part[-1]) + 1))
            silent = i + 1 < len(parts)
            with self.accelerator.no_sync(self.model) if silent else nullcontext():
                row = loss(predict(self.model, piece), piece)
                value = row.mean() * (len(row) * share)
                self.accelerator.backward(value)
            total += value.detach()
            rows.append(row.detach())
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, "mean")
        return total, torch.as_tensor(norm), torch.cat(rows)  # pyright: ignore[reportReturnType]

    def _complain(self, step: int, value: Tensor, norm: Tensor, rows: Tensor) -> None:
        """Tell of a skipped step; beyond `max_skipped` of them, write down what was in it and stop."""
        told = f"the loss is {float(value)}, its gradient {float(norm)} at step {step + 1}"
        main = self.accelerator.is_main_process
        if self.skipped <= self.settings.max_skipped:
            if main:
                tqdm.write(f"{told}: skipped ({self.skipped} of {self.settings.max_skipped} in a row)", file=sys.stderr)
            return
        written = self._dump(step, value, norm, rows)
        raise NonFiniteLoss(
            f"{told}: lower --lr; the last checkpoint is intact" + (f"; see {written}" if written else "")
        )

    def _dump(self, step: int, value: Tensor, norm: Tensor, rows: Tensor) -> Path | None:
        """`nonfinite.json`: step, images and noise levels of the global batch, and whose loss is not a number."""
        settings, here = self.settings, self.accelerator
        mine = torch.arange(settings.batch_size).tensor_split(here.num_processes)[here.process_index]
        bad = torch.zeros(settings.batch_size, device=rows.device)
        bad[mine.to(rows.device)] = (~rows.isfinite()).float()
        if here.num_processes > 1:
            bad = here.reduce(bad, "sum")
        if self.out is None:
            return None
        path = self.out / "nonfinite.json"
        if here.is_main_process:
            index = batch_index(len(self.mu), settings.batch_size, step, settings.seed)
            size, seed, groups = settings.batch_size, settings.seed, settings.noise_groups
            whole = batch_target(self.objective, self.mu, size, step, seed, groups=groups)
            found = {
                "step": step + 1, "loss": str(float(value)), "grad_norm": str(float(norm)), "indices": index.tolist(),
                "sigma": whole.sigma.tolist(), "not_finite": index[bad.bool().cpu()].tolist(),  # pyright: ignore
            }  # fmt: skip
            write_json(path, found)
        return path


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up over `warmup` steps, then constant, or falling to 0 at the end linearly or as a half cosine."""
    rate = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))
    done = min(1.0, max(0, step - settings.warmup) / max(1, settings.steps - settings.warmup))
    if settings.lr_schedule == "linear":
        return rate * (1 - done)
    return rate * (1 + math.cos(math.pi * done)) / 2 if settings.lr_schedule == "cosine" else rate


def loss_weight(settings: Settings, target: Target, sigma_data: float) -> Tensor:
    """The weight of each row's squared error in the denoised image; see `Settings.weight`."""
    if settings.weight == "edm":
        return target.sigma**-2 + sigma_data**-2
    return (target.sigma**-2).clamp(max=settings.snr_gamma) if settings.weight == "min-snr" else target.weight


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model; buffers are copied, except for numbers that are none."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), model.buffers()):
        old.copy_(torch.where(new.isfinite(), new, old) if new.is_floating_point() else new)
