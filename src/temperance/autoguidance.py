"""Autoguidance: samples move away from what the same network would have drawn with less training.

D = D_s + (w - 1)(D_s - D_r): what training changed from step r to step s > r is taken w times. A network that is
stopped before it copies is blurred, and after a quarter of its steps it was blurred more; so the difference points away
from blur and not, as more training would, towards single training images. Source: Karras et al. 2024 (arXiv 2406.02507,
eq. 3), who sharpen samples with a smaller, less trained network; against copying it was measured here
(docs/results.md).
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

WEIGHT = 2.0  # chosen on one split (seed 10) of digits and emoji, as the next; see LOG.md
SHARE = 1 / 4  # of the steps, after which the same run is the weaker model


class Autoguided(nn.Module):
    """A denoiser that is guided by a `weaker` one of the same kind. Cost: two evaluations for each one.

    `weight` 1 is the denoiser alone, 0 the weaker one.
    """

    def __init__(self, denoiser: nn.Module, weaker: nn.Module, weight: float = WEIGHT):
        super().__init__()
        self.denoiser, self.weaker, self.weight = denoiser, weaker, weight

    def forward(self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None, *label: Any) -> Tensor:
        """D_s + (w - 1)(D_s - D_r), for denoisers that are told the noise level and for those that are not."""
        ours = self.denoiser(x, sigma, *label)
        return ours + (self.weight - 1) * (ours - self.weaker(x, sigma, *label))
