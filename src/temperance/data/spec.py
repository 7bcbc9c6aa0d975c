"""The text that names a source: a name, and the slice that may follow it."""

import re
from pathlib import Path

from temperance.data.builtin import BUILTINS
from temperance.data.images import InputError


def parse(spec: str | Path) -> tuple[str | Path, slice]:
    """Separate a name from its slice. A path that exists as written has no slice."""
    text = str(spec)
    match = re.fullmatch(r"(.*)\[([^\[\]]*)\]", text, re.DOTALL)
    if match is None or exists(text):
        return spec, slice(None)
    name, inside = match.groups()
    if not re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(:\s*(-?\d+)?\s*)?", inside):
        raise InputError(f"bad slice [{inside}] in {text}; expected [start:stop] or [start:stop:step], such as [:100]")
    parts = [int(part) if part.strip() else None for part in inside.split(":")]
    if len(parts) == 3 and parts[2] == 0:
        raise InputError(f"bad slice [{inside}] in {text}: the step is 0; use 1 or more")
    return (Path(name) if isinstance(spec, Path) else name), slice(*parts)


def exists(text: str) -> bool:
    """Whether a text names something on disk; False for what can be no path."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, or the home of nobody
        return False


def absolute(spec: str) -> str:
    """The same source, named from any working folder: what is on disk by its whole path, with its slice."""
    name = spec if exists(spec) else spec.rpartition("[")[0]
    if not name or name.partition("/")[0] in BUILTINS or not exists(name):
        return spec
    return f"{Path(name).expanduser().absolute()}{spec.removeprefix(name)}"
