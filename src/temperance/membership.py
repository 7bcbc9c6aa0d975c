"""Membership test: can somebody who holds the model tell training images from unseen ones by how well it denoises them?

An image that a model was trained on is denoised better than one it was not. The test asks the model twice per image and
noise level, with and without added noise, scores every image, and reports how well the scores separate training from
held-out images. It needs a denoiser only, no generated images, so it sees what sampling does not show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from temperance.denoiser import Denoiser
from temperance.metrics import copy_auc, share_below
from temperance.report import Measurement

SIGMAS = (0.1, 0.2, 0.5, 1.0)  # in units of images that run from -1 to 1; fixed in advance, not chosen per model
RATE = 0.01  # false alarms at which true alarms are counted
SOURCE = "loss threshold: Carlini 2023, arXiv 2301.13188; residual: Rao 2025, arXiv 2509.25003"


@dataclass(frozen=True)
class Membership:
    """How far training images can be told from unseen ones.

    Attributes:
        auc: chance that a training image scores as a member before an unseen one does; 0.5 is right.
        tpr: share of the training images recognized when 1 % of the unseen ones are taken for members.
        levels: the AUC of every single score, named by kind and sigma.
    """

    auc: Measurement
    tpr: Measurement
    levels: tuple[Measurement, ...]

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All figures, the verdict first: what a report holds."""
        return self.auc, self.tpr, *self.levels


def membership(
    model: Denoiser,
    train: Float[Tensor, "n c h w"],
    heldout: Float[Tensor, "m _ _ _"],
    *,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Membership:
    """Score training and held-out images by the model's error at a few noise levels, two calls each.

    Two scores a level: `loss` is |D(x + sigma eps, sigma) - x|, `residual` is |D(x, sigma) - x| with no noise added.
    The verdict is the mean of log loss over the levels, fixed in advance; the single scores are shown beside it, and
    the largest of them would be an optimistic choice. All images share the noise eps of a level, so the attack is one
    fixed function of an image and the intervals hold for it.

    Args:
        model: any denoiser; a noise-unconditional one may ignore sigma.
        train: images the model was trained on, in [-1, 1]: members.
        heldout: unseen images of the same source: non-members. Without the same source, the test measures the
            difference of the two sources.
        sigmas: noise levels.
        seed: of the noise.
        batch_size: images a call; the result does not depend on it beyond rounding.
        progress: show progress on stderr.

    Raises:
        ValueError: if a set is empty, shapes differ, or a noise level is not positive.

    Cost: 2 len(sigmas) evaluations of the model per image.
    """
    if min(len(train), len(heldout)) == 0 or train.shape[1:] != heldout.shape[1:]:
        raise ValueError(
            f"train and heldout must hold images of one shape, got {tuple(train.shape)} and {tuple(heldout.shape)}"
        )
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"sigmas must be positive, got {tuple(sigmas)}; {SIGMAS} is usual")
    inside, outside = (_scores(model, x, sigmas, seed, batch_size, progress) for x in (train, heldout))
    names = [f"{kind} at {s:g}" for s in sigmas for kind in ("loss", "residual")]
    levels = tuple(_auc(name, a, b) for name, a, b in zip(names, inside.T.contiguous(), outside.T.contiguous()))
    a, b = (scores[:, ::2].mean(1) for scores in (inside, outside))
    value, low, high, null = share_below(a, b, RATE)
    tpr = Measurement("membership_tpr", value, low, high, len(a), False, SOURCE, null)
    return Membership(_auc("membership_auc", a, b), tpr, levels)


def _auc(name: str, inside: Tensor, outside: Tensor) -> Measurement:
    return replace(copy_auc(inside, outside), name=name, source=SOURCE)


def _scores(
    model: Denoiser, x: Tensor, sigmas: Sequence[float], seed: int, batch_size: int, progress: bool
) -> Float[Tensor, "n scores"]:
    """Log of the root mean square error: loss and residual of the first level, then of the next."""
    from tqdm import tqdm

    generator = Generator().manual_seed(seed)
    noise = [torch.randn(x.shape[1:], generator=generator).to(x) for _ in sigmas]
    columns = []
    with tqdm(total=2 * len(sigmas) * len(x), desc="membership", unit="call", disable=not progress) as bar:
        for sigma, eps in zip(sigmas, noise):
            for added in (sigma * eps, torch.zeros_like(eps)):
                parts = []
                for part in x.split(batch_size):
                    with torch.inference_mode():
                        level = torch.full((len(part),), float(sigma), dtype=x.dtype, device=x.device)
                        error = model(part + added, level) - part
                    parts.append(error.double().flatten(1).square().mean(1).clamp(min=1e-300).log().cpu() / 2)
                    bar.update(len(part))
                columns.append(torch.cat(parts))
    scores = torch.stack(columns, 1)
    if not bool(scores.isfinite().all()):
        raise ValueError("the model returned non-finite images; check its weights and that images lie in [-1, 1]")
    return scores
