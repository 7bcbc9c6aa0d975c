"""`temperance sample`."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from temperance.cli.input import load, number_or_word, outside, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import verb

GuardBy = Annotated[str | None, typer.Option("--guard", help="Training images: draw again what copies one of them.")]
Heldout = Annotated[str | None, typer.Option(help="Unseen real images: calibrate the guard on them.")]
GuardRate = Annotated[
    float | None, typer.Option(help="Share of new real images that the guard may refuse; default: 0.01.")
]
GuardEncoder = Annotated[str | None, typer.Option(help="Space of the guard: an encoder of `audit`; default: pixels.")]
GuardIndex = Annotated[
    Path | None, typer.Option(help="Saved guard to use; with --guard and --heldout, where to save it.")
]
Guide = Annotated[bool, typer.Option("--guide", help="Draw refused images again from their noise, guided away.")]

Autoguidance = Annotated[
    float | None,
    typer.Option(help="Move samples away from a weaker model, the run at a quarter: 1 not at all, 2 once more."),
]
StartFrom = Annotated[
    str | None, typer.Option("--start", help="Training images: begin at displaced ones and noise, not in noise alone.")
]
Width = Annotated[
    str | None,
    typer.Option(
        "--h",
        help="Width of --start (default: matched) or of the tangent form (auto): a number, auto, halved, matched.",
    ),
]
Weaker = Annotated[str | None, typer.Option(help="Model to move away from, instead of the run at a quarter.")]


@verb
def sample(
    source: Annotated[str, typer.Argument(help="A run, a diffusers folder or, with --closed-form, images.")],
    out: Out,
    n: Annotated[int, typer.Option("-n", "--n", help="How many images.")] = 64,
    sampler: Annotated[
        str, typer.Option(help="auto, heun, pc, adaptive, dpm, ancestral, nesterov or annealed.")
    ] = "auto",
    steps: Annotated[
        int, typer.Option(help="Noise levels walked down, or most evaluations; 0: the sampler's own number.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time; changes the result by rounding only.")] = 256,
    guard: GuardBy = None,
    heldout: Heldout = None,
    guard_rate: GuardRate = None,
    guard_encoder: GuardEncoder = None,
    guard_index: GuardIndex = None,
    guide: Guide = False,
    autoguidance: Autoguidance = None,
    weaker: Weaker = None,
    start: StartFrom = None,
    h: Width = None,
    closed_form: Annotated[str | None, typer.Option(help="empirical, temperature or tangent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Draw only what is missing in --out.")] = False,
    label: Annotated[str | None, typer.Option(help="Class to draw, by name or number; default: all in turn.")] = None,
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Draw images from a trained model, or from a closed form without any training."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"-n and --batch-size must be at least 1, got {n} and {batch_size}")
    writable(out)
    outside(out, guard, heldout, start)
    width = _width(h, displaces=start is not None or closed_form == "tangent")
    if closed_form is not None:
        outside(out, source)
        needs = "needs a trained model; leave out --closed-form"
        _refuse(needs, label=label, autoguidance=autoguidance, weaker=weaker, start=start)
    elif guard is None and start is None:
        _refuse("says how images are read; a trained model draws at its own size", size=size, channels=channels)
    from temperance.autoguidance import WEIGHT
    from temperance.run.sampling import sample_run
    from temperance.run.sources import autoguided, closed_form_model, open_guard, open_model, open_start
    from temperance.workers import Place

    def images(spec: str, minimum: int) -> Any:
        return load(spec, size, channels, on_bad, out, minimum=minimum, quiet=quiet)

    if closed_form is None:
        model = open_model(source, label)
        size, channels = _as_trained(Path(source) / "config.yaml", size, channels)
    else:
        model = closed_form_model(images(source, 3), closed_form, width or "auto")
    if autoguidance is not None or weaker is not None:
        model = autoguided(model, source, weaker, WEIGHT if autoguidance is None else autoguidance)
    keeper = open_guard(
        None if guard is None else images(guard, 2), None if heldout is None else images(heldout, 1),
        encoder=guard_encoder, rate=guard_rate, index=guard_index, progress=Place.here().rank == 0 and not quiet,
    )  # fmt: skip
    begin = None if start is None else open_start(images(start, 2), width or "matched", model)
    found = sample_run(
        model, out, n, sampler=sampler, steps=steps, batch_size=batch_size, guard=keeper, guide=guide, start=begin,
        seed=seed, device=device, resume=resume, progress=not quiet,
    )  # fmt: skip
    if not found:
        raise typer.Exit  # not the first of several processes: the first one speaks
    for warning in found["warnings"]:
        print(f"temperance sample: {warning}", file=sys.stderr)
    say(
        quiet,
        json_,
        f"{found['n']} images by {found['sampler']}, {found['nfe']} evaluations each, "
        f"{found['images_per_second']:.1f} images/s\n"
        + ("" if keeper is None else f"guard: {found['refused']} draws refused, {n - found['n']} images withheld\n")
        + f"samples: {out / 'samples.npz'}",
    )
    return found


def _as_trained(config: Path, size: int | None, channels: int | None) -> tuple[int | None, int | None]:
    """The size and channels that images are read with: those asked for, or those that a run read its own with."""
    from temperance.run.settings import about_data

    held = about_data(config if config.is_file() else None)
    return size or held.get("size"), channels or held.get("channels")


def _width(h: str | None, *, displaces: bool) -> float | str | None:
    """The width that was asked for, if images are displaced at all."""
    if h is None:
        return None
    if not displaces:
        raise ValueError("--h is for --start TRAIN and --closed-form tangent")
    width = number_or_word("h", h, words=("auto", "halved", "matched"))
    if not isinstance(width, str) and not 0 < width < math.inf:
        raise ValueError(f"--h must be above 0, got {h}")
    return width


def _refuse(why: str, **options: Any) -> None:
    """Raise for the first of `options` that was given."""
    for name, given in options.items():
        if given is not None:
            raise ValueError(f"--{name.replace('_', '-')} {why}")
