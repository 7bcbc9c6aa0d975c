"""Steps at which a run is worth remembering, each 1.41 times the one before: 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, ...

Half and a quarter of a landmark are landmarks, to rounding.
"""

import math

FIRST_LOOK = 64  # steps before which a network draws noise


def is_landmark(step: int) -> bool:
    """Whether `step` is a power of the square root of two, rounded."""
    return step == round(2 ** (round(2 * math.log2(step)) / 2))
