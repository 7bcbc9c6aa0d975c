"""`temperance train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from temperance.cli.input import load, number_or_word, outside, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import verb

ENDED = {  # what a run says of its end: at a step, or not
    "halve": ("copies came after {:,} steps", "no copies came: more --steps may do better"),
    "prevent": (
        "samples came as near to the images as these to one another after {:,} steps",
        "samples are not as near to the images as these to one another: more --steps may do better",
    ),
}


@verb
def train(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Images: folder, zip, .npz, .npy or a built-in name.")],
    out: Out,
    objective: Annotated[str, typer.Option(help="conditional, unconditional, temperature or tangent.")] = "tangent",
    process: Annotated[str, typer.Option(help="edm, ve, vp or flow.")] = "edm",
    k: Annotated[str, typer.Option(help="Neighbors of each image, or auto.")] = "auto",
    temperature: Annotated[str, typer.Option(help="Strength tau of T = max(tau / sigma, 1), or auto.")] = "auto",
    sigma_collapse: Annotated[str, typer.Option(help="Sigma below which temperature smooths, or auto.")] = "auto",
    h: Annotated[str, typer.Option(help="Tangent width, auto, halved or matched.")] = "auto",
    space: Annotated[
        str, typer.Option(help="Where neighbors are found: pixels or another encoder of audit.")
    ] = "pixels",
    network: Annotated[str, typer.Option(help="auto, mlp, unet or a model folder to take it from.")] = "auto",
    init: Annotated[Path | None, typer.Option(help="Fine-tune the model of this run or diffusers folder.")] = None,
    class_conditional: Annotated[bool, typer.Option("--class-conditional", help="Tell the network the class.")] = False,
    flips: Annotated[bool, typer.Option("--flips", help="Train on mirror images too.")] = False,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 4000,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of weights.")] = 0.999,
    heldout: Annotated[str | None, typer.Option(help="Unseen real images: watch for copying while training.")] = None,
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
) -> dict[str, Any] | None:
    """Train a diffusion model that generalizes instead of copying."""
    options = {
        "objective": objective, "process": process, "k": number_or_word("k", k, int),
        "h": number_or_word("h", h, words=("auto", "halved", "matched")),
        "temperature": number_or_word("temperature", temperature),
        "sigma_collapse": number_or_word("sigma_collapse", sigma_collapse), "space": space,
        "network": network, "init": "" if init is None else str(init.absolute()),
        "class_conditional": class_conditional, "flips": flips,
        "steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema, "seed": seed,
    }  # fmt: skip
    from temperance.run.settings import Given, about_data
    from temperance.run.training import train_run
    from temperance.workers import Place

    main = Place.here().rank == 0
    if main:
        writable(out, fresh=() if resume else ("config.yaml", "model", "earlier"))
    own = out / "config.yaml"
    held = about_data(own if resume and own.exists() else None, config)
    size = held.get("size") if size is None else size
    channels = held.get("channels") if channels is None else channels
    unseen = held.get("heldout") if heldout is None else heldout
    if main:
        outside(out, data, unseen)
    images = load(data, size, channels, on_bad, out, minimum=2, quiet=quiet)
    against = None if unseen is None else load(unseen, size, channels, on_bad, out, minimum=2, quiet=quiet)
    typed = {name for name in options if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    found = train_run(
        images, out, Given(options, config, typed, set_ or ()), resume=resume, progress=not quiet, device=device,
        heldout=against, shaped={"size": size, "channels": channels},
    )  # fmt: skip
    if found is None:
        return None
    chosen = "".join(f"\n  {name} chosen: {value:.3g}" for name, value in found["chosen"].items())
    if found["on_copying"] in ENDED:
        chosen += "\n  " + ENDED[found["on_copying"]][found["stopped_after"] is None].format(found["stopped_after"])
    say(
        quiet,
        json_,
        f"trained on {len(images)} images in {found['seconds']:.0f} s{chosen}\n"
        f"model: {out / 'model'}, after {found['model_step']:,} steps",
    )
    return found
