"""The training loop: any objective, any number of devices, and a crash at hour 30 loses nothing.

`settings` says how, `loop` runs it, `step` is one optimizer step, `batch` says which rows and noise a step has,
`checkpoint` and `record` are what is on disk, `landmarks` the steps that are remembered.
"""

from temperance.train.batch import batch_index, batch_target
from temperance.train.checkpoint import CannotSave, checkpoints, listed, step_of
from temperance.train.loop import train
from temperance.train.record import read_metrics, stopped_at
from temperance.train.settings import Settings
from temperance.train.step import NonFiniteLoss, learning_rate

__all__ = [
    "CannotSave",
    "NonFiniteLoss",
    "Settings",
    "batch_index",
    "batch_target",
    "checkpoints",
    "learning_rate",
    "listed",
    "read_metrics",
    "step_of",
    "stopped_at",
    "train",
]
