"""The paper's experiment on images of yours, on GPUs: train, draw with 1,000 evaluations, audit. Run again to go on.

    python examples/paper_protocol.py cifar10/train --heldout cifar10/test --out protocol --processes 2
    python examples/paper_protocol.py celeba/train --heldout celeba/test --out protocol --size 64 --flips --tau 10

From arXiv 2601.19285: variance-exploding noise from .01 to 50, temperature tau / sigma over K = 100 neighbors in
feature space, the stochastic predictor-corrector sampler, 50,000 images, Frechet distances to training and held-out
images. Different here: the network is the UNet of DDPM for CIFAR-10; neighbors are those of EfficientNet-Lite0, not of
a ResNet-18; one temperature a row (docs/decisions/0002), and the temperature model is told its noise level; steps,
batch and learning rate are ours. The Frechet distance is an FID only with `--inception FILE`, the weights that define
FID. No GPU has run this yet; `tests/test_examples.py` runs it small.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from diffusers import EDMEulerScheduler, UNet2DModel

SHOWN = (
    "memorized_fraction",
    "heldout_memorized_fraction",
    "copy_auc",
    "fd_train",
    "fd_heldout",
    "recall",
    "precision",
)


def network(folder: Path, size: int, channels: int, width: int) -> None:
    """Write the UNet whose architecture every run takes, as diffusers would; its weights are not used."""
    unet = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(width, 2 * width, 2 * width, 2 * width),
        layers_per_block=2,
        dropout=0.1,
        norm_num_groups=min(32, width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    EDMEulerScheduler().save_pretrained(folder / "scheduler")


def temperance(*words: object, processes: int = 1) -> None:
    """Run one verb, on several processes if asked to; stop the script where it fails."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "temperance", *map(str, words)]
    print("$", " ".join(command[1:]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def measured(objective: str, o: argparse.Namespace) -> dict:
    """Train, draw and audit one model; what is there already is not made again."""
    run = o.out / objective
    shaped = ("--size", o.size, "--channels", o.channels)
    if not (run / "model").is_dir():
        settings = ["--steps", o.steps, "--batch-size", o.batch_size, "--lr", 2e-4, "--ema", 0.9999, "--process", "ve"]
        settings += ["--network", o.out / "network", "--set", f"precision={o.precision}", *(["--flips"] * o.flips)]
        if objective in ("temperature", "tangent"):
            settings += ["--k", o.k, "--space", o.space]
        if objective == "temperature":
            settings += ["--temperature", o.tau, "--sigma-collapse", o.tau]
        more = ["--resume"] * (run / "config.yaml").exists()
        temperance(
            "train", o.train, "--out", run, "--objective", objective, *settings, *shaped, *more, processes=o.processes
        )
    draw = ["-n", o.samples, "--sampler", "pc", "--steps", o.evaluations // 2]
    more = ["--resume"] * (run / "samples" / "shards").is_dir()
    temperance("sample", run, "--out", run / "samples", *draw, *more, processes=o.processes)
    encoders = ["--encoder", "pixels"] + (["--encoder", f"inception:{o.inception}"] if o.inception else [])
    drawn = run / "samples" / "samples.npz"
    temperance("audit", o.train, drawn, "--heldout", o.heldout, "--out", run / "audit", *encoders, *shaped)
    return json.loads((run / "audit" / "report.json").read_text())["encoders"]


def main(words: list[str] | None = None) -> dict[str, dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objective", action="append", help="instead of all four; may be repeated")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--k", type=int, default=100, help="neighbors")
    parser.add_argument("--tau", type=float, default=7.0, help="of T = tau / sigma")
    parser.add_argument("--space", default="efficientnet", help="where neighbors are found")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=128, help="over all processes")
    parser.add_argument("--precision", default="bf16", help="fp32, bf16 or fp16")
    parser.add_argument("--width", type=int, default=128, help="channels of the UNet's first level")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1, help="one for each GPU")
    parser.add_argument("--inception", help="weights file of FID's network")
    o = parser.parse_args(words)
    if not (o.out / "network").is_dir():
        network(o.out / "network", o.size, o.channels, o.width)
    found = {
        name: measured(name, o) for name in o.objective or ("conditional", "unconditional", "temperature", "tangent")
    }
    for encoder in next(iter(found.values())):
        print(f"\n{encoder}\n| objective | {' | '.join(SHOWN)} |\n|---{'|---' * len(SHOWN)}|")
        for name, encoders in found.items():
            cells = ("" if encoders[encoder][key] is None else f"{encoders[encoder][key]:.3f}" for key in SHOWN)
            print(f"| {name} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    main()
