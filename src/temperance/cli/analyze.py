"""`temperance analyze`."""

from typing import Annotated, Any

import typer

from temperance.cli.input import counted, load, number_or_word, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import verb


@verb
def analyze(
    data: Annotated[str, typer.Argument(help="Training images.")],
    out: Out,
    heldout: Annotated[str | None, typer.Option(help="Real images the model never saw.")] = None,
    k: Annotated[str, typer.Option(help="Neighbors of each image, or auto.")] = "auto",
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Look at the empirical posterior of a data set: where it collapses, duplicates, suggested settings."""
    from temperance.analyze import analyze as run

    given = number_or_word("k", k, int)
    near = None if isinstance(given, str) else int(given)
    if near is not None and near < 1:
        raise ValueError(f"--k must be at least 1 or auto, got {near}")
    writable(out)
    images = load(data, size, channels, on_bad, out, minimum=3 if near is None else max(3, near + 1), quiet=quiet)
    unseen = None if heldout is None else load(heldout, size, channels, on_bad, out, minimum=1, quiet=quiet)
    told = {"--size": size, "--channels": channels, "--on-bad": None if on_bad == "error" else on_bad}
    reading = [text for name, value in told.items() if value is not None for text in (name, str(value))]
    found = run(images, out, heldout=unseen, k=near, seed=seed, progress=not quiet, reading=reading)
    s, close = found["suggested"], len(found["near_duplicates"])
    say(
        quiet,
        json_,
        f"{found['n']} images, {counted(found['duplicates'], 'duplicate')}, "
        f"{counted(close, 'pair')} of near-duplicates, "
        f"sigma_collapse {found['sigma_collapse']:.3g}\n"
        f"suggested: k {s['k']}, h {s['h']:.2g}, temperature {s['temperature']:.3g}\nreport: {out / 'report.html'}",
    )
    return found
