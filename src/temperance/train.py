"""The training loop: Accelerate, EMA, checkpoints that are complete or absent, resume from the newest one.

Nothing random is kept between steps: batches and noise of step s are functions of (seed, s, rank), so a resumed run
continues exactly where it stopped.
"""

import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from tqdm import tqdm

from temperance.atomic import is_complete, new_folder, write_json
from temperance.objective import Objective, loss


@dataclass(frozen=True)
class Settings:
    """How to train. Steps are optimizer steps; `ema` is the decay per step once warm."""

    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 1000
    keep: int = 2
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "clip", "checkpoint_every", "keep", "log_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")


class NonFiniteLoss(ValueError):
    """Training was stopped because the loss is no longer a number; the last checkpoint is intact."""


def batch_index(n: int, size: int, step: int, seed: int) -> Int[Tensor, " size"]:
    """The rows of step `step` (from 0) when every epoch is a fresh permutation: a pure function, so resume is O(1)."""
    position = torch.arange(step * size, (step + 1) * size)
    epochs = (position // n).unique().tolist()
    order = torch.cat([torch.randperm(n, generator=Generator().manual_seed(seed * 1_000_003 + e)) for e in epochs])
    return order[position - epochs[0] * n]


def train(
    denoiser: nn.Module,
    objective: Objective,
    mu: Float[Tensor, "n *shape"],
    settings: Settings,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    device: str = "auto",
    visit: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train `denoiser` on images `mu` and return its moving average.

    With `out`, metrics go to `out/metrics.jsonl` and checkpoints to `out/checkpoint-N/`; `resume` continues from the
    newest complete one. `visit(step, average)` is called after every `checkpoint_every` steps and at the end.

    Raises:
        NonFiniteLoss: if the loss is not a number.
        ValueError: if `resume` finds no complete checkpoint.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    average = copy.deepcopy(denoiser).eval().requires_grad_(False).to(accelerator.device)
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0, fused=True)
    model, optimizer = accelerator.prepare(denoiser, optimizer)
    start = _restore(_newest(out), accelerator.unwrap_model(model), average, optimizer) if resume else 0
    main = accelerator.is_main_process
    with (
        tqdm(
            total=settings.steps, initial=start, desc="train", unit="step", file=sys.stderr,
            disable=not (progress and main), leave=False, mininterval=0.5,
        ) as bar,
        _Log(out if main else None, start, settings) as log,
    ):  # fmt: skip
        for step in range(start, settings.steps):
            value, norm = _step(model, objective, mu, settings, step, accelerator, optimizer)
            _follow(average, accelerator.unwrap_model(model), min(settings.ema, (1 + step) / (10 + step)))
            bar.update()
            done = step + 1
            log.add(done, value, norm, bar)
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                if out is not None and main:
                    _save(out, done, accelerator.unwrap_model(model), average, optimizer, settings.keep)
                if visit is not None:
                    visit(done, average)
    return average


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then constant."""
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))


def _step(model, objective, mu, settings, step, accelerator, optimizer) -> tuple[Tensor, Tensor]:
    """One optimizer step; returns the detached mean loss and the gradient norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    index = batch_index(len(mu), settings.batch_size, step, settings.seed)
    index = index.tensor_split(accelerator.num_processes)[accelerator.process_index]
    noise = Generator().manual_seed((settings.seed * 1_000_003 + step) * 4099 + accelerator.process_index)
    target = objective(mu[index], index, noise)
    target = type(target)(*(None if part is None else part.to(accelerator.device) for part in target))
    value = loss(model(target.x, target.condition), target).mean()
    optimizer.zero_grad()
    accelerator.backward(value)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return value.detach(), norm


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def checkpoints(out: Path) -> Iterator[Path]:
    """The complete checkpoints of a run, newest first; damaged ones are passed over."""
    found = [p for p in out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda p: -int(p.name.removeprefix("checkpoint-"))):
        if is_complete(path):
            yield path


def _newest(out: Path | None) -> Path:
    for path in checkpoints(out) if out is not None else ():
        return path
    raise ValueError(f"nothing to resume: {out} holds no complete checkpoint; start without --resume")


def _save(out: Path, step: int, model: nn.Module, average: nn.Module, optimizer, keep: int) -> None:
    with new_folder(out / f"checkpoint-{step}") as folder:
        save_file(model.state_dict(), folder / "model.safetensors")
        save_file(average.state_dict(), folder / "ema.safetensors")
        state = optimizer.state_dict()["state"]
        flat = {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
        save_file(flat, folder / "optimizer.safetensors")
        write_json(folder / "state.json", {"step": step})
    for old in list(checkpoints(out))[keep:]:
        shutil.rmtree(old)


def _restore(path: Path, model: nn.Module, average: nn.Module, optimizer) -> int:
    model.load_state_dict(load_file(path / "model.safetensors"))
    average.load_state_dict(load_file(path / "ema.safetensors"))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads((path / "state.json").read_text())["step"]


class _Log:
    """metrics.jsonl: one line every `log_every` steps; lines after the checkpoint that is resumed are dropped."""

    def __init__(self, out: Path | None, start: int, settings: Settings):
        self.settings, self.since, self.began = settings, start, time.perf_counter()
        self.losses: list[Tensor] = []
        self.file = None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            path = out / "metrics.jsonl"
            old = path.read_text().splitlines() if start and path.exists() else []
            path.write_text("".join(line + "\n" for line in old if json.loads(line)["step"] <= start))
            self.file = path.open("a")

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, done: int, loss: Tensor, norm: Tensor, bar: tqdm) -> None:
        """Take a step's loss; check before a checkpoint, and show and write each interval's mean."""
        self.losses.append(loss)
        last, settings = done == self.settings.steps, self.settings
        if done % settings.log_every and done % settings.checkpoint_every and not last:
            return
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean + float(norm)):  # a gradient that is no number has spoilt the weights already
            raise NonFiniteLoss(
                f"the loss is {mean}, its gradient {float(norm)} at step {done}: lower --lr; "
                "the last checkpoint is intact"
            )
        if done % settings.log_every and not last:
            return
        self.losses.clear()
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if self.file is not None:
            rate = (done - self.since) * self.settings.batch_size / (time.perf_counter() - self.began)
            row = {
                "step": done,
                "loss": mean,
                "lr": learning_rate(self.settings, done - 1),
                "grad_norm": float(norm),
                "images_per_second": rate,
            }
            print(json.dumps(row), file=self.file, flush=True)
