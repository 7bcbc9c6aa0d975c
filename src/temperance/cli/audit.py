"""`temperance audit`."""

import json
from typing import Annotated, Any

import typer

from temperance.cli.input import load, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Out, Quiet, Seed, Size
from temperance.cli.verb import Gate, verb


@verb
def audit(
    train: Annotated[str, typer.Argument(help="Training images.")],
    generated: Annotated[str, typer.Argument(help="Generated images.")],
    out: Out,
    heldout: Annotated[str | None, typer.Option(help="Real images the model never saw: the null.")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Feature space, such as pixels or dct; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A run or model folder: adds the membership test.")] = None,
    fdr: Annotated[float, typer.Option(help="False alarms accepted among flagged images.")] = 0.05,
    fail_above: Annotated[float | None, typer.Option(help="Exit 1 if the memorized fraction is higher.")] = None,
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Test generated images for copies of the training images, with held-out images as the null."""
    from temperance.auditing import as_json, denoiser_of, write
    from temperance.auditing import audit as run
    from temperance.features import by_name

    encoders = [by_name(name) for name in encoder or ["pixels"]]
    writable(out)
    sets = [load(s, size, channels, on_bad, out, minimum=1, quiet=quiet) for s in (train, generated, heldout) if s]
    report = run(
        sets[0],
        sets[1],
        sets[2] if heldout else None,
        encoders=encoders,
        fdr=fdr,
        seed=seed,
        progress=not quiet,
        model=denoiser_of(model, sets[0]) if model else None,
    )
    write(report, out)
    found = as_json(report)
    lines = [
        f"{name}: memorized {m['memorized_fraction']:.3f}"
        + (f" (held-out {m['heldout_memorized_fraction']:.3f})" if heldout else " (no held-out set: no null)")
        for name, m in found["encoders"].items()
    ]
    if found["membership"]:
        lines.append(f"membership test: AUC {found['membership']['auc']:.3f} (0.5: members cannot be told)")
    say(quiet, json_, "\n".join([*lines, f"report: {out / 'report.html'}"]))
    worst = max(m["memorized_fraction"] for m in found["encoders"].values())
    if fail_above is not None and worst > fail_above:
        if json_:
            print(json.dumps(found, allow_nan=False))
        raise Gate(f"memorized fraction {worst:.4f} is above --fail-above {fail_above}; see {out / 'report.html'}")
    return found
