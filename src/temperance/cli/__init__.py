"""The command line: one verb a file, made from function signatures.

Heavy libraries are imported by the verb that needs them.
"""

import sys
import warnings
from typing import Any

from temperance.cli import analyze, audit, demo, doctor, sample, study, train
from temperance.cli.verb import app

__all__ = ["analyze", "audit", "demo", "doctor", "main", "sample", "study", "train"]


def main() -> None:
    """Run the command line; bad usage is one line, too."""
    warnings.formatwarning = _one_line
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # Told by what they can do: typer may use click or a copy of its own.
        tell = getattr(error, "format_message", None)
        if tell is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(tell())
            raise SystemExit(2) from None
        context = getattr(error, "ctx", None)
        hint = f"; see `temperance {context.info_name} --help`" if context is not None and context.parent else ""
        print(f"temperance: {' '.join(tell().split())}{hint}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _one_line(message: Any, category: type[Warning], *where: Any, plain: Any = warnings.formatwarning) -> str:
    """What this package warns of, without the line of code that does."""
    ours = category.__module__.startswith(f"{__name__.partition('.')[0]}.")
    return f"temperance: {message}\n" if ours else plain(message, category, *where)
