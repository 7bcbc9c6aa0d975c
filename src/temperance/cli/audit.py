"""`temperance audit`."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from temperance.cli.input import load, say, writable
from temperance.cli.options import AsJson, Channels, Device, Offline, OnBad, Quiet, Seed, Size
from temperance.cli.verb import Gate, verb

SIDE_BY_SIDE = ("train", "generated", "out", "compare", "seed", "device", "quiet", "offline", "json_")
WORK = ".audit"  # in the output folder, while the audit runs: what an interrupted one goes on from


@verb
def audit(
    context: typer.Context,
    train: Annotated[str, typer.Argument(help="Training images; with --compare, a report.json.")],
    generated: Annotated[str, typer.Argument(help="Generated images; with --compare, another report.json.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to.")] = None,
    heldout: Annotated[str | None, typer.Option(help="Real images the model never saw: the null.")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Feature space, such as pixels or dct; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A run or model folder: adds the membership test.")] = None,
    fdr: Annotated[float, typer.Option(help="False alarms accepted among flagged images.")] = 0.05,
    fail_above: Annotated[
        list[str] | None, typer.Option(help="LIMIT of the memorized fraction, or MEASURE=LIMIT: exit 1 above it.")
    ] = None,
    fail_below: Annotated[list[str] | None, typer.Option(help="MEASURE=LIMIT: exit 1 below it.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put two reports side by side.")] = False,
    size: Size = None,
    channels: Channels = None,
    on_bad: OnBad = "error",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any] | None:
    """Test generated images for copies of the training images, with held-out images as the null.

    An interrupted audit goes on where it was if the same command is given again. Under torchrun, processes share it.
    """
    if compare:
        _idle(context)
        return _compare(train, generated, out, quiet, json_)
    if out is None:
        raise ValueError("--out is missing; name a folder for the report, such as --out audit")
    from temperance.auditing import as_json, denoiser_of, write
    from temperance.auditing import audit as run
    from temperance.auditing.gate import limits
    from temperance.auditing.shared import processes
    from temperance.features import by_name
    from temperance.heap import return_freed

    given = limits(fail_above or [], fail_below or [], heldout=heldout is not None)
    if model is not None and heldout is None:
        raise ValueError("--model needs --heldout: the membership test asks for images that the model never saw")
    encoders = [by_name(name) for name in dict.fromkeys(encoder or ["pixels"])]
    writable(out)
    return_freed()
    with processes() as first:
        images, drawn = (load(spec, size, channels, on_bad, out, minimum=1, quiet=quiet) for spec in (train, generated))
        unseen = None if heldout is None else load(heldout, size, channels, on_bad, out, minimum=1, quiet=quiet)
        report = run(
            images,
            drawn,
            unseen,
            encoders=encoders,
            fdr=fdr,
            seed=seed,
            work=out / WORK,
            progress=not quiet,
            model=None if model is None else denoiser_of(model, images),
        )
        if first:
            write(report, out)
            shutil.rmtree(out / WORK, ignore_errors=True)
    found = as_json(report)
    if not first:  # one report, one JSON object
        return None
    say(quiet, json_, "\n".join([*_summary(found), f"report: {out / 'report.html'}"]))
    _check(found, given, out, json_)
    return found


def _summary(found: dict[str, Any]) -> list[str]:
    n = found["provenance"]["images"]["generated"]
    lines = []
    for name, m in found["encoders"].items():
        null = m["heldout_memorized_fraction"]
        text = f"{name}: memorized {m['memorized_fraction']:.3f}"
        if m["memorized_at_most"] is not None:
            text += f" (0 of {n}: at most {m['memorized_at_most']:.3g} at 95 %)"
        text += (
            " (no held-out set: no null)" if null is None else f" (held-out {null:.3f}), flagged {m['flagged']} of {n}"
        )
        if m["identical"]:
            ways = ", as it is, mirrored or moved" if name == "pixels" else ", as it is or mirrored"
            text += f", {m['identical']} equal a training image{ways}"
        lines.append(text)
    again = next((m["heldout_copies"] for m in found["encoders"].values()), None)
    if again:
        lines.append(f"{again} of {n} equal held-out images: those are not new")
    if found["membership"]:
        lines.append(f"membership test: AUC {found['membership']['auc']:.3f} (0.5: members cannot be told)")
    return lines


def _check(found: dict[str, Any], given: list[Any], out: Path, json_: bool) -> None:
    from temperance.auditing.gate import broken

    problems = broken(found, given)
    if problems:
        if json_:
            print(json.dumps(found, allow_nan=False))
        raise Gate(f"{'; '.join(problems)}; see {out / 'report.html'}")


def _idle(context: typer.Context) -> None:
    """Refuse what a comparison of two reports would not look at, a gate above all."""
    names = [name for name in context.params if name not in SIDE_BY_SIDE]
    told = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if told:
        options = ", ".join("--" + name.replace("_", "-") for name in told)
        raise ValueError(f"--compare reads two reports and cannot use {options}; give it to the audits themselves")


def _compare(a: str, b: str, out: Path | None, quiet: bool, json_: bool) -> dict[str, Any]:
    from temperance.auditing.comparison import comparison_page, read_report, side_by_side
    from temperance.report import write_json, write_page

    found = side_by_side(read_report(a), read_report(b))
    lines = [*found["warnings"], f"A: {a}", f"B: {b}"]
    for encoder, rows in found["encoders"].items():
        lines += [f"{encoder} {key}: {v['a']:.4g} | {v['b']:.4g}" for key, v in rows.items()]
    if out is not None:
        writable(out)
        write_page(comparison_page(found, (a, b)), out / "compare.html")
        write_json(out / "compare.json", found)
        lines.append(f"page: {out / 'compare.html'}")
    say(quiet, json_, "\n".join(lines))
    return found
