"""What a run did, as it goes: `metrics.jsonl`, one JSON object a line; a tracker of Accelerate's if asked for."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from temperance.atomic import write_text

TRACKERS = ("none", "tensorboard", "wandb", "trackio")


def check_tracker(name: str) -> None:
    """Whether a tracker is known and installed.

    Raises:
        ValueError: if not, with what to install.
    """
    if name not in TRACKERS:
        raise ValueError(f"tracker must be one of {', '.join(TRACKERS)}, got {name!r}")
    if name != "none" and find_spec(name) is None:
        raise ValueError(f"tracker={name} needs a package that is not installed: pip install {name}, or tracker=none")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a line that a killed process left unfinished is passed over."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def stopped_at(out: Path) -> int | None:
    """The step at which the last look at samples ended a run; None if it did not."""
    looks = [row for row in read_metrics(out / "metrics.jsonl") if "stop" in row]
    return looks[-1]["step"] if looks and looks[-1]["stop"] else None


class Record:
    """Rows of figures by step; those after the checkpoint that is resumed are dropped, since they come again."""

    def __init__(self, out: Path | None, start: int, accelerator: Any = None):
        self.accelerator = accelerator
        self.path = None if out is None else out / "metrics.jsonl"
        if self.path is not None:
            rows = [row for row in read_metrics(self.path) if row["step"] <= start] if start else []
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
            for leftover in self.path.parent.glob(f".{self.path.name}.*"):  # of a killed process
                leftover.unlink()

    def write(self, step: int, **figures: Any) -> None:
        """Add a row.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        if self.path is not None:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps({"step": step, **figures}) + "\n")
            except OSError as error:
                error.filename = error.filename or str(self.path)
                raise
        if self.accelerator is not None and self.accelerator.trackers:
            numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=step)
