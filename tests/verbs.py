"""The command line for tests: a verb in a process of its own, and what it says when it refuses."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from temperance.cli import main

Refused = Callable[..., str]
TINY = ["--steps", "12", "--set", "checkpoint_every=6", "--set", "log_every=4", "--batch-size", "16"]


def run(*arguments: object, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [Path(sys.executable).parent / "temperance", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done


def answer(arguments: list[str]) -> tuple[object, str, str]:
    """Exit code and output of one command, in the process that this is called in."""
    out, err, sys.argv = io.StringIO(), io.StringIO(), ["temperance", *arguments]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()
