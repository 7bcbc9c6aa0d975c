"""One trial: images are split, a model is drawn from, and the samples are scored. Demo and study are made of these."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from temperance.data import Images, load, split, unlike
from temperance.denoiser import Denoiser, elsewhere
from temperance.features import Encoder, Pixels, efficientnet, train_classifier
from temperance.metrics import Proximity
from temperance.sample import Noise, NotConverged, Sampler, Samples, Start, integrate
from temperance.schedule import Schedule, levels
from temperance.scorecard import Yardstick, score

ENOUGH = 500  # labeled images that are worth training an encoder on
CLASSIFIED = 4000  # at most so many are used


class Sets(NamedTuple):
    """Training and held-out images, and an encoder that saw neither where the data allow it."""

    train: Images
    heldout: Images
    encoder: Encoder


def draw_sets(data: str, n_train: int, n_heldout: int, seed: int, **reading: Any) -> Sets:
    """Split one data set by a seed; the encoder is a classifier of the images that are left over, if labeled.

    Held-out images that equal a training image, in a set that repeats some, are left out.

    `reading`: size, channels and on_bad of `temperance.data.load`.

    Raises:
        ValueError: if the data hold too few images.
    """
    images = load(data, progress=False, **reading)
    spare = len(images) - n_train - n_heldout
    train, heldout, rest = split(images, (n_train, n_heldout, max(0, spare)), seed)
    return Sets(train, unlike(heldout, train), encoder_from(rest))


def check_sets(data: str, n_train: int, n_heldout: int, **reading: Any) -> Images:
    """The images that `draw_sets` would split, without training an encoder.

    Raises:
        ValueError: in one line, if they cannot be read or are too few.
    """
    images = load(data, progress=False, **reading)
    if n_train + n_heldout > len(images):
        raise ValueError(
            f"{data} gives {len(images)} image{'s' * (len(images) != 1)}; asked for are {n_train} to train on and"
            f" {n_heldout} held out; use a larger set or fewer of them"
        )
    return images


def encoder_from(rest: Images) -> Encoder:
    """A classifier of images that no trial uses; without enough labels EfficientNet, or pixels where it is missing."""
    if rest.labels is not None and len(rest) >= ENOUGH and len(np.unique(rest.labels)) > 1:
        rest = rest[:CLASSIFIED]
        return train_classifier(rest.tensor(), torch.from_numpy(rest.labels), seed=0)
    try:
        return efficientnet()
    except ValueError:  # not installed
        return Pixels()


def draw(
    denoiser: Denoiser,
    schedule: Schedule,
    sampler: Sampler,
    shape: Sequence[int],
    seed: int,
    index: range,
    *,
    grid: int = 20,
    device: str = "cpu",
    start: Start | None = None,
) -> Samples:
    """The samples of `index`; what has not converged is recorded in the row, so no warning is needed.

    `device`: where the denoiser is; the samples are on the CPU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        sigmas, noise = levels(schedule, grid), Noise(seed, index)
        return integrate(sampler, elsewhere(denoiser, device), shape, sigmas, noise, start=start)


def judge(drawn: Samples, schedule: Schedule, against: Yardstick) -> tuple[dict[str, Any], Proximity]:
    """What a row says about samples, and their distances to the training images."""
    measured, near = score(drawn.x.clamp(-1, 1), against)
    row = {
        "nfe": drawn.nfe,
        "n_train": len(against.train_features),
        **measured,
        "final_sigma": float(drawn.final_sigma.mean()),
        "sigma_min": float(levels(schedule, 2)[-1]),
        "converged": float(drawn.converged.float().mean()),
    }
    return row, near
