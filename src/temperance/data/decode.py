"""Decoding many files, in threads and in order: one shape for all, and an account of what is broken."""

import os
import re
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import numpy as np

from temperance.data.images import InputError, InputWarning, Skipped
from temperance.data.pixels import Decoded, decode_file
from temperance.data.source import Source

PROGRESS_FROM = 1000  # files: below this, decoding ends before a bar is worth its line
DARK = 64  # of 255: where the brightest pixel of 14 bits in 16 comes out; of 12 bits: 16


def decode_all(
    source: Source,
    place: str,
    chosen: np.ndarray,
    size: int | None,
    channels: int | None,
    on_bad: str,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, tuple[Skipped, ...]]:
    """Decode files in order. All must have one shape, or the first two that differ are named."""

    def decode(i: int) -> Decoded | Exception:
        try:
            return decode_file(cast(Callable, source.stock)(i), size, channels)
        except Exception as error:  # Pillow's plugins raise whatever a broken file makes them raise
            return error

    def where(i: int) -> str:
        return f"{place}/{source.names[i]}" if source.names else f"{place} row {i}"

    out, kept, skipped, stacks = np.empty((0, 1, 1, 1), np.uint8), [], [], []
    with closing(_in_threads(decode, chosen.tolist(), progress)) as decoded:
        for i, found in zip(chosen.tolist(), decoded):
            if isinstance(found, Exception):
                if on_bad == "error":
                    raise InputError(
                        f"{where(i)} cannot be decoded ({_reason(found)}); expected an intact image; "
                        "repair or remove it, or use --on-bad skip"
                    ) from found
                skipped.append(Skipped(source.names[i] if source.names else f"row {i}", _reason(found)))
                continue
            image = found.pixels
            stacks += [(where(i), found.pictures)] * (found.pictures > 1)
            if not kept:
                out = np.empty((len(chosen), *image.shape), np.uint8)
            _check_same(where(kept[0] if kept else i), out.shape[1:], where(i), image.shape)
            out[len(kept)] = image
            kept.append(i)
    _warn_of_stacks(stacks)
    _warn_if_dark(place, out[: len(kept)])
    return out[: len(kept)], np.array(kept, dtype=np.int64), tuple(skipped)


def _in_threads(work: Callable[[int], Any], items: list[int], progress: bool) -> Generator[Any, None, None]:
    from tqdm import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            hidden = not progress or len(items) <= PROGRESS_FROM
            yield from tqdm(pool.map(work, items), total=len(items), desc="decoding", unit="image", disable=hidden)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, do not decode the rest first


def _check_same(first: str, shape: tuple[int, ...], other: str, found: tuple[int, ...]) -> None:
    if shape[:2] != found[:2]:
        raise InputError(
            f"images differ in size: {first} is {shape[1]}x{shape[0]}, {other} is {found[1]}x{found[0]}; "
            "expected one size; use --size, for example --size 32"
        )
    if shape != found:
        kind = {1: "grey", 3: "RGB"}
        raise InputError(
            f"images differ in channels: {first} is {kind[shape[2]]}, {other} is {kind[found[2]]}; "
            "expected one kind; use --channels 1 or --channels 3"
        )


def _warn_of_stacks(stacks: list[tuple[str, int]]) -> None:
    if stacks:
        first, pictures = stacks[0]
        more = f" and {len(stacks) - 1} more files hold" if len(stacks) > 1 else " holds"
        warnings.warn(
            f"{first}{more} several pictures ({first.rpartition('/')[2]}: {pictures}), and only the first of each file "
            "is read: save every picture as a file of its own",
            InputWarning,
            stacklevel=3,
        )


def _warn_if_dark(place: str, pixels: np.ndarray) -> None:
    """Scans of 12 or 14 bits in 16-bit files come out nearly black; one dark image among others does not matter."""
    brightest = int(pixels.max(initial=0))
    if 0 < brightest <= DARK:
        warnings.warn(
            f"the brightest pixel of {place} is {brightest} of 255: scans of 12 or 14 bits in 16-bit files must be "
            "stretched to the full range first, or nearly all that they show is lost",
            InputWarning,
            stacklevel=3,
        )


def _reason(error: Exception) -> str:
    # Pillow prints the address of the buffer it could not identify: no use to a reader
    text = re.sub(r" <_io\.BytesIO object at \w+>", "", " ".join(str(error).split()))
    return text or type(error).__name__
