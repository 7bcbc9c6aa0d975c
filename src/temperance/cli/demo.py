"""`temperance demo`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from temperance.cli.input import say, writable
from temperance.cli.options import AsJson, Device, Offline, Out, Quiet, Seed, Size
from temperance.cli.verb import verb


@verb
def demo(
    out: Out = Path("demo-out"),
    data: Annotated[str, typer.Option(help="A built-in set: digits, mnist5k, fashion or emoji.")] = "digits",
    size: Size = None,
    steps: Annotated[int, typer.Option(help="Training steps of every method.")] = 6000,
    samples: Annotated[int, typer.Option(help="Samples of every method.")] = 500,
    seeds: Annotated[int, typer.Option(help="How many splits and initializations.")] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Train each method on a built-in set, sample, audit: who copies, and at what quality."""
    if min(steps, samples - 9, seeds) < 1:
        raise ValueError(f"--steps and --seeds must be at least 1 and --samples 10, got {steps}, {seeds}, {samples}")
    writable(out)
    from temperance.demo import Plan, summary
    from temperance.demo import demo as run

    plan = Plan(data=data, size=size, steps=steps, n_samples=samples, seeds=tuple(range(seed, seed + seeds)))
    rows = run(plan, out, progress=not quiet)
    say(quiet, json_, f"{summary(rows)}\n\nreport: {out / 'report.html'}\nrows:   {out / 'results.json'}")
    return {"schema": 1, "rows": rows}
