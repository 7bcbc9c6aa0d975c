"""What a spec names before anything is decoded: the form in which every kind of source is handed on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Source(NamedTuple):
    """What a spec names, not decoded yet: an array, or a function that reads the bytes of file i."""

    stock: np.ndarray | Callable[[int], bytes]
    total: int
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    size: int | None = None  # the size used when none is asked for
