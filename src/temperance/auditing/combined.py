"""One verdict for each image from its p-values in several encoders."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.sets import label
from temperance.data import Images


def verdict(
    judged: Mapping[str, tuple[tm.Null, Float[Tensor, " n"]]], generated: Images, fdr: float
) -> dict[str, Any] | None:
    """One verdict from every encoder's null and its distances of the generated images, by `combine`.

    Each null is fitted anew, for what Bonferroni leaves to one of E encoders: `fdr / E`. A null that was fitted for
    `fdr` counts where counting can just reject a single image; E times that p-value rejects none, and an image that
    every encoder flags would be cleared. None for fewer than two encoders.

    `nulls` are these nulls: a tail among them is an assumption. `fewest_flags` is how many of the images must be as
    close as can be, in the encoder that asks for the fewest, before any is flagged.
    """
    share = fdr / max(1, len(judged))
    nulls = {name: tm.fit_null(null.distance, len(distance), share) for name, (null, distance) in judged.items()}
    found = combine({name: nulls[name].p(distance) for name, (_, distance) in judged.items()}, generated, fdr)
    if found is None:
        return None
    fewest = min(null.fewest(len(generated), share) for null in nulls.values())
    return found | {"fewest_flags": fewest, "nulls": {name: null.describe() for name, null in nulls.items()}}


def combine(p_values: Mapping[str, Tensor], generated: Images, fdr: float) -> dict[str, Any] | None:
    """Bonferroni: the least p-value times the number of encoders, then Benjamini-Hochberg over the images.

    The least of E p-values times E is a p-value whatever their dependence. Benjamini-Hochberg then controls the rate
    if images are independent or positively dependent, as for each encoder alone. None for fewer than two encoders.
    """
    if len(p_values) < 2:
        return None
    stacked = torch.stack(list(p_values.values()))
    p = (stacked.min(0).values * len(p_values)).clamp(max=1)
    flagged = tm.benjamini_hochberg(p, fdr)
    names = list(p_values)
    images = [
        {"generated": label(generated, i), "p_value": float(p[i]), "encoder": names[int(stacked[:, i].argmin())]}
        for i in sorted(flagged.nonzero()[:, 0].tolist(), key=lambda i: float(p[i]))
    ]
    return {"method": "bonferroni", "encoders": names, "fdr": fdr, "flagged": len(images), "images": images}
