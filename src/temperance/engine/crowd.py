"""How crowded the posterior is at each noise level, over all points: what `analyze` shows."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm import tqdm

from temperance.engine.denoiser import EmpiricalDenoiser


def effective_sample_size_curve(
    denoiser: EmpiricalDenoiser,
    sigmas: Sequence[float] | Float[Tensor, " levels"],
    *,
    draws: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Float[Tensor, "levels draws"]:
    """exp(entropy) of the posterior at each noise level, for `draws` rows x = mu + sigma eps.

    The same points and noise at every level. Cost: an evaluation of `draws` rows a level.
    """
    levels = [float(s) for s in sigmas]
    return torch.stack([_sizes(denoiser, s, draws, seed) for s in tqdm(levels, "crowding", disable=not progress)])


def collapse_sigma(
    denoiser: EmpiricalDenoiser,
    *,
    size: float = 1.5,
    draws: int = 256,
    seed: int = 0,
    tolerance: float = 0.01,
    progress: bool = False,
) -> float:
    """The noise level at which the mean effective sample size is `size`: `diagnostics.collapse_sigma`, at scale.

    Found by bisection in log sigma to the relative `tolerance`.

    Raises:
        ValueError: if there are fewer than 3 points, or all are the same.
    """
    table = denoiser.table
    spread = float((2 * table.half.mean()).sqrt())
    if table.n < 3:
        raise ValueError(f"collapse_sigma needs at least 3 points, got {table.n}")
    if spread == 0:
        raise ValueError("all points are the same: there is no noise level at which they separate")
    low, high = 1e-4 * spread, 10.0 * spread
    with tqdm(desc="collapse", disable=not progress) as bar:
        while high / low > 1 + tolerance:
            middle = (low * high) ** 0.5
            crowded = float(_sizes(denoiser, middle, draws, seed).mean()) > size
            low, high = (low, middle) if crowded else (middle, high)
            bar.update()
    return (low * high) ** 0.5


def _sizes(denoiser: EmpiricalDenoiser, sigma: float, draws: int, seed: int) -> Float[Tensor, " draws"]:
    generator = Generator().manual_seed(seed)
    table = denoiser.table
    chosen = table.points[torch.randint(table.n, (draws,), generator=generator)].float()
    x = chosen + sigma * torch.randn(chosen.shape, generator=generator).to(chosen)
    _, stats = denoiser.evaluate(x.reshape(-1, *denoiser.shape), torch.full((draws,), sigma).to(x))
    return stats.effective_sample_size
