"""What makes a function a verb: registration, one-line errors, exit codes.

Exit codes: 0 done, 1 a gate failed, 2 bad usage or bad input, told in one line.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer

app = typer.Typer(
    name="temperance",
    help="Diffusion models that do not hand back their training data: train, sample, and check it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Gate(Exception):
    """A check that the user asked for has failed: exit code 1."""


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as a verb whose bad input ends in one line and exit code 2."""

    @app.command(name=function.__name__)
    @wraps(function)
    def run(**arguments: Any) -> None:
        if arguments.get("offline"):
            os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
            os.environ["WANDB_MODE"] = "offline"  # what --set tracker=wandb starts
        with one_line_errors(function.__name__):
            _set_device(arguments.get("device", "auto"))
            result = function(**arguments)
            if arguments.get("json_") and result is not None:  # of several processes one answers
                print(json.dumps(result, allow_nan=False))

    return run


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn what a verb raises for bad input into one line and an exit code."""
    try:
        yield
    except Gate as error:
        fail(name, error, 1)
    except (ValueError, OSError) as error:
        fail(name, error, 2)
    except BrokenExecutor:
        text = "a worker was killed, most likely for want of memory; what others finished is kept: just go on"
        fail(name, RuntimeError(text), 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        fail(name, RuntimeError("not enough memory; try a smaller --batch-size, --size or fewer images"), 2)
    except KeyboardInterrupt:
        text = "interrupted; what was written is complete: train and sample take --resume, audit and study just go on"
        fail(name, RuntimeError(text), 130)


def fail(name: str, error: Exception, code: int) -> None:
    """Say one line on stderr and leave."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"temperance {name}: {text}", file=sys.stderr)
    raise SystemExit(code)


def _set_device(device: str) -> None:
    if device in ("auto", "cpu"):
        return
    import torch

    known = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in known or not torch.cuda.is_available():
        raise ValueError(f"--device {device} is not available here; use auto or cpu, or see `temperance doctor`")
    if ":" in device:
        torch.cuda.set_device(device)  # what is not told a number takes this one
