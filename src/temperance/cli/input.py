"""What verbs check and read before any work is done, and how they speak."""

import os
import sys
from pathlib import Path


def writable(out: Path, *, fresh: tuple[str, ...] = ()) -> Path:
    """Check the output folder before any work is done; `fresh` names what must not be there yet."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"--out {out} cannot be made: {parent} is a file; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"--out {out} cannot be written: no permission in {parent}; choose another folder")
    held = next((name for name in fresh if (out / name).exists()), None)
    if held is not None:
        raise ValueError(f"--out {out} already holds {held}; choose another folder, or --resume a training run")
    return out


def outside(out: Path, *specs: str | None) -> None:
    """Check that pictures written to `out` would not become images of a folder that one of `specs` names."""
    from temperance.data import BUILTINS
    from temperance.data.spec import exists, parse

    for name in (str(parse(spec)[0]) for spec in specs if spec is not None):
        if name.partition("/")[0] in BUILTINS or not exists(name):
            continue
        if out.resolve().is_relative_to(Path(name).expanduser().resolve()):
            raise ValueError(
                f"--out {out} lies inside {name}: its pictures would become images of that set; choose another folder"
            )


def same(one: str, other: str) -> bool:
    """Whether two specifications name the same images: `folder` and `./folder/` do, not a built-in and a folder."""
    from temperance.data import BUILTINS
    from temperance.data.spec import parse

    (a, part), (b, other_part) = parse(one), parse(other)
    built_in = {str(a).partition("/")[0] in BUILTINS, str(b).partition("/")[0] in BUILTINS}
    return Path(a) == Path(b) and part == other_part and len(built_in) == 1


def say(quiet: bool, json_: bool, text: str) -> None:
    """Print for people, unless a program listens or nobody wants to hear."""
    if not quiet and not json_:
        print(text)


def counted(n: int, what: str) -> str:
    """A number and its noun, in the plural but for 1."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def load(
    spec: str,
    size: int | None,
    channels: int | None,
    on_bad: str,
    out: Path | None,
    *,
    minimum: int,
    quiet: bool,
):
    """Read images and tell about those left out; of several processes the first one speaks and writes."""
    from temperance.data import load, record_skipped
    from temperance.workers import Place

    first = Place.here().rank == 0
    images = load(spec, size=size, channels=channels, on_bad=on_bad, minimum=minimum, progress=first and not quiet)
    if images.skipped and first:
        print(f"{len(images.skipped)} files of {spec} could not be read and were left out", file=sys.stderr)
        if on_bad == "quarantine" and out is not None:
            record_skipped(images, out / "quarantine.jsonl")
    return images


def number_or_word(
    name: str, text: str, kind: type[int] | type[float] = float, words: tuple[str, ...] = ("auto",)
) -> float | str:
    """Read an option that is a number, a whole one for `kind` int, or one of `words`."""
    if text in words:
        return text
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"--{name.replace('_', '-')} must be {what} or {' or '.join(words)}, got {text!r}") from None
