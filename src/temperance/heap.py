"""What happens to freed memory, for processes of our own that must stay small."""

import ctypes
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h


def return_freed(above: int = 4 << 20) -> None:
    """From now on, blocks of more than `above` bytes go back to the system when they are freed.

    By default glibc keeps freed blocks of up to 32 MB for later use: hundreds of megabytes between the steps of a large
    audit. For the whole process, so it is for commands, not for libraries. Other C libraries: no effect.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, above)
