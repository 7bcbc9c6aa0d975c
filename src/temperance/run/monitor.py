"""A look at a training run while it goes: are its samples copies yet?"""

import io
import sys
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from temperance.atomic import write_bytes
from temperance.data import to_uint8
from temperance.distance import duplicates
from temperance.hub import Model
from temperance.metrics import EVEN, Proximity, copy_auc, memorized_fraction, proximity, ratio_median, subsample
from temperance.run.pictures import write_sheet
from temperance.sample import Noise, NotConverged, integrate, usual, walk
from temperance.train import Settings, read_metrics

TOLERATED = 0.05  # memorized fraction that may be passed where no held-out images say what is usual
ADVICE = {
    "advise": "stop here (--set on_copying=prevent, halve or stop), or smooth more strongly",
    "stop": "stopped",
    "halve": "stopped, and back to half of the steps",
    "prevent": "stopped",
}
SPACED = 2000  # training images whose own distances say what is usual
STEPS, LIMIT = 20, 100  # of heun, and of adaptive for noise-unconditional models: a look, not a release


@dataclass(frozen=True)
class Monitor:
    """Samples from the averaged model, held against training and held-out images, in pixels.

    The noise is the same every time, so that the sheets show one set of images as it develops. Cost of a look:
    `monitor_samples` x 39 evaluations of the network (100 if it is noise-unconditional), and their distances to all
    training images; of the first one also those of 2,000 training and of all held-out images. `group`: which training
    images count as one; by default equal ones.
    """

    train: Float[Tensor, "n c h w"]
    heldout: Float[Tensor, "m c h w"] | None
    settings: Settings
    out: Path
    group: Int[Tensor, " n"] | None = None

    def __call__(self, step: int, model: Model) -> dict[str, Any]:
        """Write `samples/step-N.png` and `monitor.png`; return the figures, and whether to stop.

        Copying has begun when the lower end of the 95 % interval of the memorized fraction is above the upper end of
        that of held-out images, or above 0.05 where there are none, or where no more than 0.05 of them look like copies
        and the interval of so few reaches beyond. `spacing_auc` is the chance that a sample lies nearer to the training
        images than one of these to the others, each the unseen image of the rest: one half is right, and
        `prevent` stops there.
        """
        x = _samples(model, self.settings.monitor_samples, self.settings.seed)
        write_sheet(self.out / "samples" / f"step-{step:07d}.png", to_uint8(x))
        near = self._near(x)
        found = {**_figures(near, self._null), "spacing_auc": copy_auc(near.distance, self._spacing).value}
        found["stop"] = self._ends(found)
        rows = [row for row in read_metrics(self.out / "metrics.jsonl") if "memorized_fraction" in row]
        _plot(self.out / "monitor.png", [*rows, {"step": step, **found}])
        if found["copying"] or found["stop"]:
            self._advise(step, found)
        return found

    def _ends(self, found: dict[str, Any]) -> bool:
        level = self.settings.on_copying == "prevent" and found["spacing_auc"] >= EVEN
        return level or (found["copying"] and self.settings.on_copying != "advise")

    @cached_property
    def _groups(self) -> Int[Tensor, " n"]:
        return duplicates(self.train.flatten(1)) if self.group is None else self.group

    @cached_property
    def _null(self) -> Proximity | None:
        return None if self.heldout is None else self._near(self.heldout)

    @cached_property
    def _spacing(self) -> Float[Tensor, " n"]:
        """Distances of training images, of many a sample, to the nearest other one."""
        rows = self.train.flatten(1)
        return proximity(subsample(rows, SPACED), rows, self._groups).second

    def _near(self, images: Float[Tensor, "k c h w"]) -> Proximity:
        return proximity(images.flatten(1), self.train.flatten(1), self._groups)

    def _advise(self, step: int, found: dict[str, Any]) -> None:
        if not found["copying"]:
            tqdm.write(
                f"step {step}: samples lie as near to the images as these to one another: stopped", file=sys.stderr
            )
            return
        usual = found.get("heldout_memorized_fraction")
        told = f"step {step}: {found['memorized_fraction']:.0%} of samples are copies"
        told += "" if usual is None else f" (held-out images: {usual:.0%})"
        tqdm.write(f"{told}: {ADVICE[self.settings.on_copying]}", file=sys.stderr)


def _samples(model: Model, n: int, seed: int) -> Float[Tensor, "n c h w"]:
    index, denoiser = range(n), model.denoiser
    device, labels = next(denoiser.parameters()).device, model.labels(index)

    def call(x: Tensor, sigma: Tensor | None) -> Tensor:
        given = (None if sigma is None else sigma.to(device), *(label.to(device) for label in labels))
        return denoiser(x.to(device), *given).float().cpu()

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", NotConverged)  # a model in the making
        sampler, sigmas, limit = walk(usual(told=model.told), model.schedule, STEPS if model.told else LIMIT)
        return integrate(sampler, call, model.shape, sigmas, Noise(seed, index), **limit).x.clamp(-1, 1)


def _figures(near: Proximity, real: Proximity | None) -> dict[str, Any]:
    share, ratio = memorized_fraction(near, real), ratio_median(near, real)
    found = {"memorized_fraction": share.value, "memorized_ci": [share.low, share.high], "ratio_median": ratio.value}
    if real is not None:
        found |= {
            "heldout_memorized_fraction": share.null, "heldout_ratio_median": ratio.null,
            "copy_auc": copy_auc(near.distance, real.distance).value,
        }  # fmt: skip
    return {**found, "copying": float(share.low or 0) > usual_share(real)}


def usual_share(heldout: Proximity | None) -> float:
    """The memorized fraction that is no copying: the upper end of the interval of held-out images, if there are any.

    A few of them leave room for anything: where no more than TOLERATED of them look like copies, it is at most that.
    """
    if heldout is None:
        return TOLERATED
    unseen = memorized_fraction(heldout)
    high, value = float(unseen.high or 0), float(unseen.value or 0)
    return min(high, TOLERATED) if value <= TOLERATED else high


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Memorized fraction, copy AUC and spacing AUC against steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained", dpi=110)
    ax, steps = figure.add_subplot(), [row["step"] for row in rows]
    low, high = zip(*(row["memorized_ci"] for row in rows))
    ax.fill_between(steps, low, high, alpha=0.2, lw=0)
    ax.plot(steps, [row["memorized_fraction"] for row in rows], marker="o", ms=4, label="memorized fraction")
    if "copy_auc" in rows[-1]:
        ax.axhline(rows[-1]["heldout_memorized_fraction"], ls=":", color="gray", label="the same of held-out images")
    ax.axhline(EVEN, lw=0.8, color="gray")
    for key, label, marker in (("copy_auc", "copy AUC", "s"), ("spacing_auc", "spacing AUC", "^")):
        held = [(row["step"], row[key]) for row in rows if key in row]
        if held:
            ax.plot(*zip(*held), marker=marker, ms=4, ls="--", label=f"{label} (0.5: as unseen images)")
    ax.set(xlabel="steps", ylim=(-0.03, 1.03))
    ax.legend(loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
