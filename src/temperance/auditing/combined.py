"""One verdict for each image from its p-values in several encoders."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.sets import label
from temperance.data import Images


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
