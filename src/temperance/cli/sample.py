"""`temperance sample`."""

import sys
from typing import Annotated, Any

import typer

from temperance.cli.input import load, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, Out, Quiet, Seed, Size
from temperance.cli.verb import verb


@verb
def sample(
    source: Annotated[str, typer.Argument(help="A run, a diffusers folder or, with --closed-form, images.")],
    out: Out,
    n: Annotated[int, typer.Option("-n", "--n", help="How many images.")] = 64,
    sampler: Annotated[str, typer.Option(help="auto, heun, pc or adaptive.")] = "auto",
    steps: Annotated[int, typer.Option(help="Noise levels walked down (adaptive: most evaluations).")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time; does not change the result.")] = 256,
    guard: Annotated[str | None, typer.Option(help="Training images: re-draw samples that copy one of them.")] = None,
    closed_form: Annotated[str | None, typer.Option(help="empirical, temperature or tangent.")] = None,
    size: Size = None,
    channels: Channels = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Draw images from a trained model, or from a closed form without any training."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"-n and --batch-size must be at least 1, got {n} and {batch_size}")
    from temperance.run.sampling import sample_run
    from temperance.run.sources import closed_form_model, open_model

    if closed_form is not None:
        model = closed_form_model(load(source, size, channels, "error", None, minimum=12, quiet=quiet), closed_form)
    else:
        model = open_model(source)
    against = None if guard is None else load(guard, size, channels, "error", None, minimum=2, quiet=quiet)
    writable(out)
    found = sample_run(
        model, out, n, sampler=sampler, steps=steps, batch_size=batch_size, guard=against, seed=seed,
        device=device, progress=not quiet,
    )  # fmt: skip
    for warning in found["warnings"]:
        print(f"temperance sample: {warning}", file=sys.stderr)
    say(
        quiet,
        json_,
        f"{n} images by {found['sampler']}, {found['nfe']} evaluations each\nsamples: {out / 'samples.npz'}",
    )
    return found
