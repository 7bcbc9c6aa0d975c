"""What smoothing needs at every training step, fast: a tempered mean of neighbors, and a displacement towards them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROW_BY_ROW = 16384  # numbers of a neighborhood from which a loop over rows beats one gather (measured on two cores)


def tempered_mean(
    x: Float[Tensor, "batch d"],
    points: Float[Tensor, "n d"],
    index: Int[Tensor, "batch k"],
    sigma: Float[Tensor, " batch"],
    temperature: float | Tensor = 1.0,
) -> Float[Tensor, "batch d"]:
    """`empirical.denoise(noise_conditional(x, points, sigma, index=index, temperature=...), points)`, in float32.

    Distances come from differences and the mean is taken around x, so the error is that of float32 on x - mu (1e-6 of
    it). Large neighborhoods on a processor are taken one row at a time, so that k points are read once and stay in
    cache for both products; small ones, and all on a GPU, as one [batch, k, d] gather, where launching would dominate.
    Cost: 5 k d flops a row.

    Raises:
        ValueError: if sigma or the temperature is not > 0.
    """
    variance = sigma.double() ** 2 * torch.as_tensor(temperature, dtype=torch.float64, device=x.device)
    if not bool(((variance > 0) & variance.isfinite()).all()):
        raise ValueError(f"sigma and temperature must be finite and > 0, got sigma={sigma.tolist()[:4]}")
    rows = _gathered if x.is_cuda or index.shape[1] * points.shape[1] < ROW_BY_ROW else _row_by_row
    return rows(x.float(), points, index, variance).to(x.dtype)


def _gathered(x: Tensor, points: Tensor, index: Tensor, variance: Tensor) -> Tensor:
    offset = points[index].float() - x[:, None]
    r2 = offset.square().sum(2)
    weights = ((r2.amin(1, keepdim=True) - r2) / (2 * variance[:, None])).softmax(1).float()
    return x + torch.einsum("bk,bkd->bd", weights, offset)


def _row_by_row(x: Tensor, points: Tensor, index: Tensor, variance: Tensor) -> Tensor:
    out = x.clone()
    for row, near, v in zip(out, index, variance.tolist()):
        offset = points.index_select(0, near).float().sub_(row)
        r2 = torch.linalg.vecdot(offset, offset)
        row.addmv_(offset.T, (r2.amin() - r2).div_(2 * v).softmax(0))
    return out


def displaced(
    mu: Float[Tensor, "batch *shape"],
    points: Float[Tensor, "n d"],
    index: Int[Tensor, "batch k"],
    z: Float[Tensor, "batch k"],
) -> Float[Tensor, "batch *shape"]:
    """Mu + sum_k z_k (points[index_k] - mu), without a [batch, k, d] gather. Cost: 2 k d flops a row."""
    pulled = torch.nn.functional.embedding_bag(index, points, per_sample_weights=z.to(points), mode="sum")
    kept = (1 - z.sum(1)).reshape(-1, *[1] * (mu.ndim - 1))
    return mu * kept + pulled.reshape(mu.shape).to(mu)
