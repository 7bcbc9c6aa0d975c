"""`temperance study`."""

import math
import sys
from typing import Annotated, Any

import typer

from temperance.cli.input import load, same, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import verb

NUMBERS = 256  # an image, 16x16 gray or 9x9 in color: a perceptron on 100 such images trains in a minute or three


@verb
def study(
    data: Annotated[str, typer.Argument(help="Training images: folder, zip, .npz, .npy or a built-in name.")],
    heldout: Annotated[str, typer.Option(help="Unseen images; the same as DATA: it is split.")],
    out: Out,
    over: Annotated[str, typer.Option(help="steps, n or strength.")] = "steps",
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, the main methods, a perceptron, small images: minutes.")
    ] = False,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; may be repeated.")] = None,
    n_train: Annotated[int, typer.Option(help="Training images.")] = 100,
    n_heldout: Annotated[int, typer.Option(help="Held-out images.")] = 700,
    samples: Annotated[int, typer.Option(help="Samples at every look.")] = 500,
    steps: Annotated[int, typer.Option(help="Training steps of every run.")] = 6000,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    network: Annotated[str, typer.Option(help="auto, mlp or unet.")] = "auto",
    seeds: Annotated[int | None, typer.Option(help="Splits and initializations (default: 3; --quick: 1).")] = None,
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Sweep steps, images or strength for every method: who copies when, and at what quality. Resumes by itself."""
    from temperance.workers import check_single

    check_single("study")
    writable(out)
    heldout = data if same(data, heldout) else heldout
    if quick and network == "auto":
        network, size = "mlp", small(data, channels, on_bad) if size is None else size
        if not quiet:
            shape = "images" if size is None else f"images of {size}x{size}"
            print(f"temperance study: --quick trains a perceptron on {shape}; see --network, --size", file=sys.stderr)
    if on_bad != "error":  # say what is left out, once; every worker reads for itself
        for spec in dict.fromkeys((heldout, data)):
            load(spec, size, channels, on_bad, out, minimum=1, quiet=quiet)
    from temperance.study import QUICK, Plan
    from temperance.study import study as run

    methods = tuple(method or (QUICK.get(over, ()) if quick else ()))
    count = (1 if quick else 3) if seeds is None else seeds
    plan = Plan(
        data=data, heldout=heldout, over=over, methods=methods, n_train=n_train, n_heldout=n_heldout,
        n_samples=samples, steps=steps, batch_size=batch_size, size=size,
        channels=channels, on_bad=on_bad, network=network, seeds=tuple(range(seed, seed + count)),
    )  # fmt: skip
    found = run(plan, out, progress=not quiet, device=device)
    lines = [found["provenance"]["split"]]
    for v in found["against_early_stop"]:
        stop = v["early_stop"]
        lines.append(
            f"{v['method']:<26} n {v['n_train']:<6} copied {v['memorized_fraction']:.2f}  FD {v['fd_heldout']:.1f}  "
            f"recall {v['recall']:.2f}   early stop at {stop['steps']}: {stop['memorized_fraction']:.2f}  "
            f"{stop['fd_heldout']:.1f}  {stop['recall']:.2f}"
        )
    say(quiet, json_, "\n".join([*lines, f"report: {out / 'report.html'}\nrows:   {out / 'study.json'}"]))
    return found


def small(data: str, channels: int | None, on_bad: str) -> int | None:
    """The side of images of at most `NUMBERS`; None, their own size, where they are of one size and no larger."""

    def shape(size: int | None) -> tuple[int, ...]:
        return load(data, size, channels, on_bad, None, minimum=1, quiet=True).pixels.shape[1:]

    try:
        height, width, bands = shape(None)
    except ValueError:  # of several sizes; what is wrong besides is told now
        height, width, bands = NUMBERS, NUMBERS, shape(8)[2]
    side = math.isqrt(NUMBERS // bands)
    return side if max(height, width) > side else None
