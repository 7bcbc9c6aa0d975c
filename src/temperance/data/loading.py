"""`load`: from the text that names a source to the images."""

import os
import zipfile
from contextlib import ExitStack
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from temperance.data.arrays import open_npy, open_npz
from temperance.data.builtin import BUILTINS, open_builtin
from temperance.data.decode import decode_all
from temperance.data.folders import open_folder, open_zip
from temperance.data.hugging_face import open_hugging_face
from temperance.data.images import Images, InputError, pick
from temperance.data.pixels import convert
from temperance.data.source import Source
from temperance.data.spec import exists, parse


def load(
    spec: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    on_bad: str = "error",
    minimum: int = 1,
    progress: bool = True,
) -> Images:
    """Read the images that `spec` names.

    `spec` is a folder (recursive, natural order, class folders become labels), a zip (EDM's
    `dataset.json` too), a `.npz` (`arr_0`, labels in `arr_1` or `labels`) or `.npy`, a Hugging Face data
    set saved on disk, or one of `BUILTINS`. A slice may follow, `digits[:100]`, `PATH[100:800:2]`; it
    counts files in their order, and files outside it are never opened. The name of a built-in
    means the built-in: write `./digits` for a folder of that name.

    Args:
        spec: what to read; a `Path` is always a file or folder.
        size: side of the square to crop and resize to; None keeps the stored size.
        channels: 1 or 3; None keeps what is stored.
        on_bad: what to do with a file that cannot be decoded: `error` names it and stops; `skip` and
            `quarantine` leave it out and list it in `.skipped` (quarantine: the caller keeps the list,
            see `record_skipped`).
        minimum: fewest images that will do.
        progress: show a bar on stderr when more than 1,000 files are decoded.

    Raises:
        InputError: for anything that cannot be used, with one line that says what to do.

    Cost: uint8 pixels of what is returned; files are decoded in threads, about 1 ms each.
    """
    _check_options(size, channels, on_bad)
    name, window = parse(spec)
    with ExitStack() as stack:
        source = _open(name, stack)
        size = size or source.size
        chosen = np.arange(source.total)[window]
        if isinstance(source.stock, np.ndarray):
            pixels, kept, skipped = convert(source.stock[window], size, channels), chosen, ()
        else:
            pixels, kept, skipped = decode_all(source, str(name), chosen, size, channels, on_bad, progress)
    if len(pixels) < max(minimum, 1):
        lost = f" ({len(skipped)} could not be decoded)" if skipped else ""
        raise InputError(
            f"{spec} gives {len(pixels)} image{'s' * (len(pixels) != 1)}{lost}; expected at least {max(minimum, 1)}; "
            "add images or widen the slice"
        )
    labels = None if source.labels is None else source.labels[kept]
    names = pick(source.names, source.total, kept)
    if names is None and skipped:  # a number would be that of another row
        names = tuple(f"row {i}" for i in kept.tolist())
    return Images(pixels, names, labels, source.classes, str(spec), skipped)


def _check_options(size: int | None, channels: int | None, on_bad: str) -> None:
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError(f"size is {size!r}; expected 1 or more pixels, for example 32")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if on_bad not in ("error", "skip", "quarantine"):
        raise InputError(f"on-bad is {on_bad!r}; expected error, skip or quarantine")


def _open(name: str | Path, stack: ExitStack) -> Source:
    if isinstance(name, str):
        head, _, part = name.partition("/")
        if head in BUILTINS:
            return open_builtin(head, part)
    if not str(name).strip() or not exists(str(name)):
        raise InputError(_missing(name))
    path = Path(name).expanduser()
    try:
        return _open_path(path, stack)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; check that it is complete and readable") from error


def _open_path(path: Path, stack: ExitStack) -> Source:
    if path.is_dir():
        if (path / "sample.json").is_file() and (path / "images").is_dir():
            path = path / "images"  # what `temperance sample` wrote: its contact sheet is none of the images
        saved = any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
        return open_hugging_face(path) if saved else open_folder(path)
    kinds = {".npy": open_npy, ".npz": open_npz, ".zip": partial(open_zip, stack=stack)}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path} is one file; expected a folder of images, a .zip, .npz or .npy; pass its folder")
    return kinds[path.suffix.lower()](path)


def _missing(name: str | Path) -> str:
    known = ", ".join(BUILTINS)
    text = str(name)
    near = get_close_matches(text.partition("/")[0].lower(), BUILTINS, n=1)
    if isinstance(name, Path) or (not near and (os.sep in text or "." in text)):
        return f"{text!r} does not exist; expected a folder, .zip, .npz, .npy or one of {known}; check the path"
    hint = f"did you mean {near[0]}?" if near else "check the spelling or the path"
    return f"{text!r} is no file, folder or built-in data set (built-ins: {known}); {hint}"
