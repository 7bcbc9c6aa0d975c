"""How to train: the settings of a run, checked when they are made."""

import math
from dataclasses import dataclass, fields

from temperance.train.record import check_tracker

KINDS: dict[object, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
}
CHOICES = {
    "lr_schedule": ("constant", "linear", "cosine"),
    "weight": ("process", "edm", "min-snr"),
    "precision": ("fp32", "bf16", "fp16"),
    "on_copying": ("advise", "stop", "halve", "prevent"),
}
POSITIVE = (
    "steps", "batch_size", "lr", "clip", "checkpoint_every", "keep", "log_every", "accumulate", "noise_groups",
    "snr_gamma", "monitor_samples",
)  # fmt: skip
BELOW = dict.fromkeys(("warmup", "weight_decay", "max_skipped", "processes", "monitor_every"), math.inf)
BELOW |= {"ema": 1, "seed": 2**32}


@dataclass(frozen=True)
class Settings:
    """How to train. Steps are optimizer steps, and so are the units of `warmup`, `lr_schedule` and `ema`.

    Attributes:
        batch_size: rows of an optimizer step, over all processes and accumulated parts.
        lr_schedule: after a linear warm-up, constant, or falling to 0, which a step after the last one would have.
        ema: decay a step of the moving average, once warm: step s takes min(ema, (1 + s) / (10 + s)).
        clip: largest norm of the gradient.
        weight: of each row's squared error in the denoised image. `process`: the schedule's own; `edm`:
            1 / sigma^2 + 1 / sigma_data^2 (arXiv 2206.00364, eq. 8); `min-snr`: min(1 / sigma^2, snr_gamma)
            (arXiv 2303.09556, eq. 3).
        accumulate: parts that a process cuts its rows into, to save memory; the sum is the same gradient.
        precision: arithmetic of the network; weights, loss and averages stay in float32.
        noise_groups: independent noise generators a batch; see `temperance.train.batch.batch_target`.
        processes: how many processes there must be; 0 for as many as the launcher says.
        max_skipped: steps in a row that are skipped because the loss is not a number, before the run stops.
        monitor_every: steps between looks at samples (`temperance train`); 0 for none.
        on_copying: what to do when they are copies: say so, stop, or stop and go back to half of the steps; `prevent`
            stops before, when they lie as near to the training images as these to one another. The last two also look
            at every landmark (`temperance.train.landmarks`).
    """

    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 100
    lr_schedule: str = "constant"
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    weight: str = "process"
    snr_gamma: float = 5.0
    seed: int = 0
    accumulate: int = 1
    precision: str = "fp32"
    noise_groups: int = 1
    processes: int = 0
    checkpoint_every: int = 1000
    keep: int = 2
    max_skipped: int = 3
    log_every: int = 50
    tracker: str = "none"
    monitor_every: int = 0
    monitor_samples: int = 64
    on_copying: str = "advise"

    @property
    def at_landmarks(self) -> bool:
        """Whether the run is looked at at every landmark."""
        return self.on_copying in ("halve", "prevent")

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (name, kinds) = getattr(self, field.name), KINDS[field.type]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{field.name} must be {name}, got {value!r}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}")
        for name, end in BELOW.items():
            if not 0 <= getattr(self, name) < end:
                raise ValueError(f"{name} must be >= 0 and < {end}, got {getattr(self, name)}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        check_tracker(self.tracker)
