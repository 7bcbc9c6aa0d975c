"""The loop over steps: checkpoints, the record, looks at samples, and resuming where it stopped.

Nothing random is kept between steps: batches, noise and dropout of step s are functions of (seed, s), so a resumed
run continues exactly where it stopped, and several processes together do what one process does.
"""

import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from temperance.objective import Objective
from temperance.train.checkpoint import listed, newest, restore, save_checkpoint
from temperance.train.landmarks import FIRST_LOOK, is_landmark
from temperance.train.record import Record, stopped_at
from temperance.train.settings import Settings
from temperance.train.step import Outcome, Trainer, learning_rate

Monitor = Callable[[int, nn.Module], dict[str, Any]]


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
    begin: Callable[[], None] | None = None,
    visit: Callable[[int, nn.Module], None] | None = None,
    earlier: Callable[[int, nn.Module], None] | None = None,
    monitor: Monitor | None = None,
) -> nn.Module:
    """Train `denoiser` on images `mu` and return its moving average.

    With `out`, metrics go to `out/metrics.jsonl` and checkpoints to `out/checkpoint-N/`; `resume` continues from the
    newest valid one. `begin()` is called once on the main process, when everything is checked and restored;
    `visit(step, average)` is called after every `checkpoint_every` steps and at the end,
    `earlier(step, average)` at every landmark: one of them can guide the end (`temperance.autoguidance`).
    `monitor(step, average)` is called on the main process after every `monitor_every` steps, and at landmarks where
    `on_copying` asks for it; the figures that it returns are recorded, and training ends early if they hold a true
    `stop`. A run that has ended so is not trained on by `resume`, unless `on_copying` is `advise`.

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments; rank 0 writes.

    Raises:
        NonFiniteLoss: if loss or gradient were not numbers for more than `max_skipped` steps in a row; which rows and
            noise levels is in `out/nonfinite.json`.
        CannotSave: if a checkpoint cannot be written; older ones are intact.
        ValueError: if `resume` finds no valid checkpoint, or one of more steps than asked for, or a new run finds some;
            for more or fewer processes than
            asked for; for a batch with fewer rows than parts.
    """
    accelerator = _accelerator(settings, device, out)
    main = accelerator.is_main_process
    if out is not None and not resume and listed(out):
        raise ValueError(f"{out} already holds {listed(out)[0].name}; resume that run or choose another folder")
    trainer = _trainer(accelerator, denoiser, objective, mu, settings, out)
    start = _resume(trainer, newest(out)) if resume else 0
    accelerator.wait_for_everyone()  # nobody changes the folder before all have read it
    if begin is not None and main:
        begin()
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        tqdm(
            total=settings.steps, initial=start, desc="train", unit="step", file=sys.stderr,
            disable=not (progress and main), leave=False, mininterval=0.5,
        ) as bar,
    ):  # fmt: skip
        pace = _Pace(settings, start, Record(out if main else None, start, accelerator), bar)
        for step in range(start, start if _ended(out, start, settings) else settings.steps):
            done = step + 1
            pace.add(done, trainer.advance(step))
            last = _look(trainer, monitor, done, pace.record) or done == settings.steps
            if done % settings.checkpoint_every == 0 or last:
                _save(trainer, done, last)
                if visit is not None:
                    visit(done, trainer.average)
            if earlier is not None and is_landmark(done):
                earlier(done, trainer.average)
            if last:
                break
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.wait_for_everyone()
    return trainer.average


def _accelerator(settings: Settings, device: str, out: Path | None) -> Accelerator:
    """Accelerate's view of the processes and devices, held against what was asked for."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = settings.precision.replace("fp32", "no")
    if asked not in ("no", precision):
        raise ValueError(f"the launcher asks for {asked}, precision={settings.precision} for another; make them agree")
    if settings.precision == "fp16" and (device == "cpu" or not _has_accelerator()):
        raise ValueError("precision=fp16 needs a GPU; use precision=bf16")
    # Accelerate keeps one state a process; a run before this one may have had another precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        cpu=device == "cpu" or not _has_accelerator(),  # without this, several processes on no GPU would be one each
        mixed_precision=precision,
        log_with=None if settings.tracker == "none" else settings.tracker,
        project_dir=out,
    )
    _check_processes(accelerator.num_processes, settings.processes)
    found = accelerator.num_processes
    if accelerator.distributed_type not in (DistributedType.NO, *_PLAIN):
        raise ValueError(
            f"this loop does not train under {accelerator.distributed_type.value}: it keeps whole weights on every "
            "device; use the objective in a loop of your own (docs: Training, Sharded weights)"
        )
    if settings.batch_size < found * settings.accumulate:
        raise ValueError(
            f"batch_size={settings.batch_size} is less than {found} processes x accumulate={settings.accumulate}; "
            "every part needs a row"
        )
    if settings.tracker != "none":
        accelerator.init_trackers("temperance", config=vars(settings))
    return accelerator


def _check_processes(found: int, asked: int) -> None:
    """Hold the number of processes against the settings and against what the launcher announced."""
    wanted = asked or int(os.environ.get("WORLD_SIZE", "1"))
    # On processors and without MPI `accelerate launch` starts one process, whatever it was asked for.
    alone = "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys()
    if found != wanted or (found == 1 and alone):
        several = wanted if wanted > 1 else "N"
        raise ValueError(
            f"asked for {'several' if found == wanted else wanted} processes, got {found}: start with "
            f"`torchrun --nproc-per-node {several} -m temperance train ...`"
        )


_PLAIN = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


def _trainer(
    accelerator: Accelerator,
    denoiser: nn.Module,
    objective: Objective,
    mu: Tensor,
    settings: Settings,
    out: Path | None,
) -> Trainer:
    average = copy.deepcopy(denoiser).eval().requires_grad_(False).to(accelerator.device)
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    model, optimizer = accelerator.prepare(denoiser, optimizer)
    bare = accelerator.unwrap_model(model)
    return Trainer(settings, accelerator, objective, mu, model, bare, average, optimizer, out)


def _resume(trainer: Trainer, path: Path) -> int:
    found = restore(path, trainer.bare, trainer.average, trainer.optimizer)
    if trainer.accelerator.scaler is not None and found.get("scaler"):
        trainer.accelerator.scaler.load_state_dict(found["scaler"])
    if found["step"] > trainer.settings.steps:
        raise ValueError(f"{path} is ahead of steps={trainer.settings.steps}; ask for more")
    steps = torch.tensor([found["step"]], device=trainer.accelerator.device)
    if trainer.accelerator.num_processes > 1 and len(trainer.accelerator.gather(steps).unique()) > 1:  # pyright: ignore
        raise ValueError(f"processes see different checkpoints in {path.parent}; it must be one shared folder")
    return found["step"]


def _save(trainer: Trainer, done: int, last: bool) -> None:
    """Write a checkpoint on the main process; not amid skipped steps, which resuming would only repeat."""
    if trainer.out is None or not trainer.accelerator.is_main_process or (trainer.skipped and not last):
        return
    scaler = trainer.accelerator.scaler
    more = {"scaler": None if scaler is None else scaler.state_dict()}
    keep = trainer.settings.keep
    save_checkpoint(trainer.out, done, trainer.bare, trainer.average, trainer.optimizer, keep=keep, more=more)


def _ended(out: Path | None, start: int, settings: Settings) -> bool:
    """Whether the run that is resumed at `start` had been ended there by its monitor."""
    return out is not None and settings.on_copying != "advise" and start > 0 and stopped_at(out) == start


def _look(trainer: Trainer, monitor: Monitor | None, done: int, record: Record) -> bool:
    """Let the monitor look at the average when it is due; whether all processes are to stop."""
    settings, accelerator = trainer.settings, trainer.accelerator
    due = bool(settings.monitor_every) and done % settings.monitor_every == 0
    if settings.at_landmarks:
        due = due or (done >= FIRST_LOOK and is_landmark(done))
    if monitor is None or not due:
        return False
    stop = torch.zeros(1, device=accelerator.device)
    if accelerator.is_main_process:
        figures = monitor(done, trainer.average)
        record.write(done, **figures)
        stop += bool(figures.get("stop"))
    return bool(accelerator.reduce(stop, "sum") if accelerator.num_processes > 1 else stop)


class _Pace:
    """The mean loss and the speed of every `log_every` steps, for the record and the bar.

    A resumed run's first figures are of the steps since it went on.
    """

    def __init__(self, settings: Settings, start: int, record: Record, bar: tqdm):
        self.settings, self.record, self.bar = settings, record, bar
        self.since, self.began = start, time.perf_counter()
        self.losses: list[Tensor] = []
        self.skipped = 0

    def add(self, done: int, outcome: Outcome) -> None:
        """Take a step; at the end of an interval, show and write its figures."""
        self.bar.update()
        if outcome.taken:
            self.losses.append(outcome.loss)
        else:
            self.skipped += 1
        if done % self.settings.log_every and done != self.settings.steps:
            return
        mean = float(torch.stack(self.losses).mean()) if self.losses else None
        now = time.perf_counter()
        speed = (done - self.since) * self.settings.batch_size / (now - self.began)
        self.losses.clear()
        self.since, self.began = done, now
        self.bar.set_postfix(loss="none" if mean is None else f"{mean:.4f}", refresh=False)
        self.record.write(
            done,
            loss=mean,
            lr=learning_rate(self.settings, done - 1),
            grad_norm=float(outcome.norm) if outcome.taken else None,
            images_per_second=speed,
            **({"skipped": self.skipped} if self.skipped else {}),
        )
