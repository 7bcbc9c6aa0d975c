"""Processes that share an audit: under torchrun, each searches for a part of the images."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from temperance.workers import Place


@contextmanager
def processes() -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; yields whether this one writes the report."""
    if Place.here().world < 2 or distributed.is_initialized():
        yield not distributed.is_initialized() or distributed.get_rank() == 0
        return
    distributed.init_process_group("gloo")
    try:
        yield distributed.get_rank() == 0
        distributed.barrier()  # nobody leaves while the report is written
    finally:
        distributed.destroy_process_group()
