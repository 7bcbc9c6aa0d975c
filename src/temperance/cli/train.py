"""`temperance train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from temperance.cli.input import load, number_or_auto, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import verb


@verb
def train(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Images: folder, zip, .npz, .npy or a built-in name.")],
    out: Out,
    objective: Annotated[str, typer.Option(help="conditional, unconditional, temperature or tangent.")] = "tangent",
    process: Annotated[str, typer.Option(help="edm or ve.")] = "edm",
    k: Annotated[int, typer.Option(help="Neighbors of each image.")] = 10,
    temperature: Annotated[str, typer.Option(help="Strength tau of T = max(tau / sigma, 1), or auto.")] = "auto",
    sigma_collapse: Annotated[str, typer.Option(help="Sigma below which temperature smooths, or auto.")] = "auto",
    h: Annotated[str, typer.Option(help="Tangent width, or auto.")] = "auto",
    space: Annotated[str, typer.Option(help="Where neighbors are found: pixels or efficientnet.")] = "pixels",
    network: Annotated[str, typer.Option(help="auto, mlp or unet.")] = "auto",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 4000,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of weights.")] = 0.999,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    config: Annotated[Path | None, typer.Option(help="A config.yaml to start from.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, for any setting.")] = None,
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Train a diffusion model that generalizes instead of copying."""
    given = {
        "objective": objective, "process": process, "k": k, "temperature": number_or_auto("temperature", temperature),
        "sigma_collapse": number_or_auto("sigma_collapse", sigma_collapse), "h": number_or_auto("h", h), "space": space,
        "network": network, "steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema, "seed": seed,
    }  # fmt: skip
    from temperance.run.training import train_run

    writable(out, fresh=None if resume else "config.yaml")
    images = load(data, size, channels, on_bad, out, minimum=2, quiet=quiet)
    typed = {name for name in given if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    found = train_run(images, out, given, config, typed, set_ or [], resume=resume, progress=not quiet, device=device)
    chosen = "".join(f"\n  {name} auto: {value:.3g}" for name, value in found["chosen"].items())
    say(
        quiet,
        json_,
        f"trained on {len(images)} images in {found['seconds']:.0f} s{chosen}\nmodel: {out / 'model'}",
    )
    return found
