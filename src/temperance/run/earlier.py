"""Earlier models of a run, one at every landmark: to guide its end (the quarter), or to be its end (the half).

Landmarks, because a run that is stopped by its first copies ends where nobody planned.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from temperance.autoguidance import SHARE

FOLDER = "earlier"


def keep(run: Path, step: int, save: Callable[[Path], None]) -> None:
    """Save the model of `step` as `run/earlier/STEP`.

    Removes those that are no eighth of anything to come, and what killed processes left.
    """
    save(run / FOLDER / str(step))
    for left in (run / FOLDER).glob(".[0-9]*"):
        shutil.rmtree(left, ignore_errors=True)
    for older in kept(run):
        if older < step // 8:
            shutil.rmtree(run / FOLDER / str(older))


def kept(run: Path) -> list[int]:
    """The steps whose models are there."""
    return sorted(int(p.name) for p in (run / FOLDER).glob("*") if p.name.isdigit())


def nearest(run: Path, step: int, share: float = SHARE) -> Path:
    """The model that is nearest, as a ratio, to that share of `step`; by default to a quarter.

    Raises:
        ValueError: if there is none.
    """
    steps = [s for s in kept(run) if s < step]
    if not steps:
        raise ValueError(f"{run} has no {FOLDER}/ model of fewer steps; name a --weaker model")
    return run / FOLDER / str(min(steps, key=lambda s: abs(math.log(s / (share * step)))))
