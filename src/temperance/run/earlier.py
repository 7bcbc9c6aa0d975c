"""What can guide the end of a run: its model after every power of two steps, for the one nearest to a quarter.

Powers of two, because a run that is stopped by its first copies ends where nobody planned.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from temperance.autoguidance import SHARE

FOLDER = "earlier"


def keep(run: Path, step: int, save: Callable[[Path], None]) -> None:
    """Save the model of `step` as `run/earlier/STEP`, and remove those that are no quarter of anything to come."""
    save(run / FOLDER / str(step))
    for older in kept(run):
        if older < step // 4:  # that of a half is for runs that end just before the next one
            shutil.rmtree(run / FOLDER / str(older))


def kept(run: Path) -> list[int]:
    """The steps whose models are there."""
    return sorted(int(p.name) for p in (run / FOLDER).glob("*") if p.name.isdigit())


def nearest(run: Path, step: int) -> Path:
    """The model that is nearest, as a ratio, to a quarter of `step`.

    Raises:
        ValueError: if there is none.
    """
    steps = [s for s in kept(run) if s < step]
    if not steps:
        raise ValueError(f"--autoguidance: {run} has no {FOLDER}/ model to be guided by; name a --weaker model")
    return run / FOLDER / str(min(steps, key=lambda s: abs(math.log(s / (SHARE * step)))))
