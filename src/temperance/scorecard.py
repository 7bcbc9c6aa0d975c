"""One row of a comparison: how much a set of samples copies, and how good it is, beside held-out data."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from temperance.features import Encoder, encode
from temperance.metrics import (
    Proximity,
    copy_auc,
    frechet_distance,
    memorized_fraction,
    proximity,
    quality,
    ratio_median,
    subsample,
)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Training and held-out images with everything about them that every row shares.

    Copying is measured in pixels, quality in the features of `encoder`.
    """

    train: Float[Tensor, "n c h w"]
    heldout: Float[Tensor, "m c h w"]
    train_features: Float[Tensor, "k f"]  # of the images themselves, where `train` holds their mirror images too
    heldout_features: Float[Tensor, "m f"]
    encoder: Encoder
    null: Proximity
    spacing: Float[Tensor, " k"]  # of each training image, itself and not mirrored, to the nearest other one
    fd_floor: float
    group: Int[Tensor, " n"] | None = None  # which training images count as one; None: equal ones


def yardstick(train: Float[Tensor, "n c h w"], heldout: Float[Tensor, "m c h w"], encoder: Encoder) -> Yardstick:
    """Measure the two real sets once: distances to train, features, and FD(train, held-out)."""
    a, b = encode(encoder, train), encode(encoder, heldout)
    rows = train.flatten(1)
    null, spacing = proximity(heldout.flatten(1), rows), proximity(rows, rows).second
    return Yardstick(train, heldout, a, b, encoder, null, spacing, frechet_distance(a, b, interval=False).value)


def score(generated: Float[Tensor, "k c h w"], against: Yardstick) -> tuple[dict[str, Any], Proximity]:
    """The measured keys of a results row (interface: `results.json`), and the distances behind them."""
    near = proximity(generated.flatten(1), against.train.flatten(1), against.group)
    features = encode(against.encoder, generated)
    memorized = memorized_fraction(near, against.null)
    ratio = ratio_median(near, against.null)
    # Precision and recall depend on both set sizes, so the larger set is thinned to the smaller.
    size = min(len(features), len(against.heldout_features))
    fit = quality(subsample(features, size), subsample(against.heldout_features, size))
    row = {
        "memorized_fraction": memorized.value,
        "memorized_ci": [memorized.low, memorized.high],
        "heldout_memorized_fraction": memorized.null,
        "ratio_median": ratio.value,
        "heldout_ratio_median": ratio.null,
        "copy_auc": copy_auc(near.distance, against.null.distance).value,
        "spacing_auc": copy_auc(near.distance, against.spacing).value,
        "fd_train": frechet_distance(features, against.train_features, interval=False).value,
        "fd_heldout": frechet_distance(features, against.heldout_features, interval=False).value,
        "fd_floor": against.fd_floor,
        "precision": fit.precision.value,
        "recall": fit.recall.value,
    }
    return row, near
