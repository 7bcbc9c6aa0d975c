"""The command line: one function a verb. Heavy libraries are imported by the verb that needs them.

Exit codes: 0 done, 1 a gate failed, 2 bad usage or bad input, told in one line.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="temperance",
    help="Diffusion models that do not hand back their training data: train, sample, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars and no summary.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never make a connection (no verb needs one).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Size = Annotated[int | None, typer.Option(help="Side of the square to crop and resize images to.")]
Channels = Annotated[int | None, typer.Option(help="1 (gray) or 3 (color); default: as the data.")]
OnBad = Annotated[str, typer.Option(help="A file that cannot be read: error, skip or quarantine.")]


class Gate(Exception):
    """A check that the user asked for has failed: exit code 1."""


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as a verb whose bad input ends in one line and exit code 2."""

    @app.command(name=function.__name__)
    @wraps(function)
    def run(**arguments: Any) -> None:
        if arguments.get("offline"):
            os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        with _one_line_errors(function.__name__):
            _set_device(arguments.get("device", "auto"))
            result = function(**arguments)
            if arguments.get("json_"):
                print(json.dumps(result, allow_nan=False))

    return run


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Gate as error:
        _fail(name, error, 1)
    except (ValueError, OSError) as error:
        _fail(name, error, 2)
    except KeyboardInterrupt:
        _fail(name, RuntimeError("interrupted; what was written is complete, --resume continues training"), 130)


def _fail(name: str, error: Exception, code: int) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"temperance {name}: {text}", file=sys.stderr)
    raise SystemExit(code)


def _set_device(device: str) -> None:
    if device in ("auto", "cpu"):
        return
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise ValueError(f"--device {device} is not available here; use auto or cpu, or see `temperance doctor`")


def _writable(out: Path, *, fresh: str | None = None) -> Path:
    """Check the output folder before any work is done; `fresh` names a file that must not be there yet."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise ValueError(f"--out {out} cannot be written: no permission in {parent}; choose another folder")
    if fresh and (out / fresh).exists():
        raise ValueError(f"--out {out} already holds {fresh}; choose another folder, or --resume a training run")
    return out


def _say(quiet: bool, json_: bool, text: str) -> None:
    if not quiet and not json_:
        print(text)


def _load(
    spec: str,
    size: int | None,
    channels: int | None,
    on_bad: str,
    out: Path | None,
    *,
    minimum: int,
    quiet: bool,
):
    """Read images and tell about those left out."""
    from temperance.data import load, record_skipped

    images = load(spec, size=size, channels=channels, on_bad=on_bad, minimum=minimum, progress=not quiet)
    if images.skipped:
        print(f"{len(images.skipped)} files of {spec} could not be read and were left out", file=sys.stderr)
        if on_bad == "quarantine" and out is not None:
            out.mkdir(parents=True, exist_ok=True)
            record_skipped(images, out / "quarantine.jsonl")
    return images


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
    _writable(out)
    from temperance.demo import Plan, summary
    from temperance.demo import demo as run

    plan = Plan(data=data, size=size, steps=steps, n_samples=samples, seeds=tuple(range(seed, seed + seeds)))
    rows = run(plan, out, progress=not quiet)
    _say(quiet, json_, f"{summary(rows)}\n\nreport: {out / 'report.html'}\nrows:   {out / 'results.json'}")
    return {"schema": 1, "rows": rows}


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
        "objective": objective, "process": process, "k": k, "temperature": _auto("temperature", temperature),
        "sigma_collapse": _auto("sigma_collapse", sigma_collapse), "h": _auto("h", h), "space": space,
        "network": network, "steps": steps, "batch_size": batch_size, "lr": lr, "ema": ema, "seed": seed,
    }  # fmt: skip
    from temperance.run import train_run

    _writable(out, fresh=None if resume else "config.yaml")
    images = _load(data, size, channels, on_bad, out, minimum=2, quiet=quiet)
    typed = {name for name in given if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    found = train_run(images, out, given, config, typed, set_ or [], resume=resume, progress=not quiet, device=device)
    chosen = "".join(f"\n  {name} auto: {value:.3g}" for name, value in found["chosen"].items())
    _say(
        quiet,
        json_,
        f"trained on {len(images)} images in {found['seconds']:.0f} s{chosen}\nmodel: {out / 'model'}",
    )
    return found


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
    from temperance import run

    if closed_form is not None:
        model = run.closed_form_model(
            _load(source, size, channels, "error", None, minimum=12, quiet=quiet), closed_form
        )
    else:
        model = run.open_model(source)
    against = None if guard is None else _load(guard, size, channels, "error", None, minimum=2, quiet=quiet)
    _writable(out)
    found = run.sample_run(
        model, out, n, sampler=sampler, steps=steps, batch_size=batch_size, guard=against, seed=seed,
        device=device, progress=not quiet,
    )  # fmt: skip
    for warning in found["warnings"]:
        print(f"temperance sample: {warning}", file=sys.stderr)
    _say(
        quiet,
        json_,
        f"{n} images by {found['sampler']}, {found['nfe']} evaluations each\nsamples: {out / 'samples.npz'}",
    )
    return found


@verb
def audit(
    train: Annotated[str, typer.Argument(help="Training images.")],
    generated: Annotated[str, typer.Argument(help="Generated images.")],
    out: Out,
    heldout: Annotated[str | None, typer.Option(help="Real images the model never saw: the null.")] = None,
    encoder: Annotated[list[str] | None, typer.Option(help="pixels, efficientnet; may be repeated.")] = None,
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
    from temperance.audit import as_json, write
    from temperance.audit import audit as run
    from temperance.features import by_name

    encoders = [by_name(name) for name in encoder or ["pixels"]]
    _writable(out)
    sets = [_load(s, size, channels, on_bad, out, minimum=1, quiet=quiet) for s in (train, generated, heldout) if s]
    report = run(
        sets[0],
        sets[1],
        sets[2] if heldout else None,
        encoders=encoders,
        fdr=fdr,
        seed=seed,
        progress=not quiet,
    )
    write(report, out)
    found = as_json(report)
    lines = [
        f"{name}: memorized {m['memorized_fraction']:.3f}"
        + (f" (held-out {m['heldout_memorized_fraction']:.3f})" if heldout else " (no held-out set: no null)")
        for name, m in found["encoders"].items()
    ]
    _say(quiet, json_, "\n".join([*lines, f"report: {out / 'report.html'}"]))
    worst = max(m["memorized_fraction"] for m in found["encoders"].values())
    if fail_above is not None and worst > fail_above:
        if json_:
            print(json.dumps(found, allow_nan=False))
        raise Gate(f"memorized fraction {worst:.4f} is above --fail-above {fail_above}; see {out / 'report.html'}")
    return found


@verb
def analyze(
    data: Annotated[str, typer.Argument(help="Training images.")],
    out: Out,
    heldout: Annotated[str | None, typer.Option(help="Real images the model never saw.")] = None,
    k: Annotated[int, typer.Option(help="Neighbors of each image.")] = 10,
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

    _writable(out)
    images = _load(data, size, channels, on_bad, out, minimum=k + 2, quiet=quiet)
    unseen = _load(heldout, size, channels, on_bad, out, minimum=1, quiet=quiet) if heldout else None
    found = run(images, out, heldout=unseen, k=k, seed=seed, progress=not quiet)
    s = found["suggested"]
    _say(
        quiet,
        json_,
        f"{found['n']} images, {found['duplicates']} duplicates, sigma_collapse {found['sigma_collapse']:.3g}\n"
        f"suggested: k {s['k']}, h {s['h']:.2g}, temperature {s['temperature']:.3g}\nreport: {out / 'report.html'}",
    )
    return found


@verb
def doctor(
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Say what is installed, which devices and encoders are there, what is missing and how to get it."""
    from temperance.doctor import examine

    found = examine()
    _say(
        False,
        json_,
        "\n".join(f"{line['mark']} {line['what']:<28} {line['found']}" for line in found["lines"]),
    )
    return found


def _auto(name: str, text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--{name.replace('_', '-')} must be a number or auto, got {text!r}") from None


def main() -> None:
    """Run the command line; bad usage is one line, too."""
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # Told by what they can do: typer may use click or a copy of its own.
        tell = getattr(error, "format_message", None)
        if tell is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(tell())
            raise SystemExit(2) from None
        context = getattr(error, "ctx", None)
        hint = f"; see `temperance {context.info_name} --help`" if context is not None and context.parent else ""
        print(f"temperance: {' '.join(tell().split())}{hint}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)
