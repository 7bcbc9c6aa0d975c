"""Independent jobs over the processor's cores: one thread each, so that results do not depend on how many there are."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.managers import SyncManager
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

ANNOUNCED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by torchrun


class Place(NamedTuple):
    """Which of several processes this one is, as `torchrun` says; the only one if it does not."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def here() -> "Place":
        """Read RANK, WORLD_SIZE and LOCAL_RANK."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= rank < world:
            raise ValueError(f"RANK must be below WORLD_SIZE, got {rank} and {world}; start with torchrun")
        return Place(rank, world, int(os.environ.get("LOCAL_RANK", 0)))


def check_single(job: str) -> None:
    """Raise a ValueError if torchrun started several processes: each would do all of the job, in one folder."""
    if Place.here().world > 1:
        raise ValueError(f"{job} uses all cores by itself: start it without torchrun")


def spread(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    total: int,
    unit: str,
    label: str,
    progress: bool,
) -> Iterator[Any]:
    """Yield `function(*job, tick)` for every job, as they end; `tick(n)` moves a bar of `total` units.

    A job that raises ends the whole, and so does Ctrl-C: the other workers are stopped, what jobs wrote on their way
    stays.
    """
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(initializer=_end_with_parent)
    with (
        manager,
        tqdm(total=total, desc=label, unit=unit, file=sys.stderr, disable=not progress, mininterval=0.5) as bar,
    ):
        ticks = manager.Queue()
        others = set(multiprocessing.active_children())
        workers = min(len(jobs), torch.get_num_threads() or 1)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_alone) as pool:
            futures = [pool.submit(function, *job, ticks.put) for job in jobs]
            try:
                yield from _finished(futures, ticks, bar)
            except BaseException:
                # Whoever is still at work is stopped now: nobody waits for it, and it has nowhere to report to.
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()
                pool.shutdown(cancel_futures=True)
                raise


def _alone() -> None:
    """One thread, in no group; Ctrl-C is the first process's to deal with, and a worker does not outlive that one."""
    for name in ANNOUNCED:
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()


def _end_with_parent() -> None:
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """Wait for the process that started this one; if it is killed, nobody waits for what is computed here."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _finished(futures: list[Any], ticks: Any, bar: Any) -> Iterator[Any]:
    waiting = set(futures)
    while waiting:
        with suppress(queue.Empty):
            bar.update(ticks.get(timeout=0.2))
        for future in [f for f in waiting if f.done()]:
            waiting.remove(future)
            yield future.result()
