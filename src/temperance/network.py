"""Small networks, and the preconditioning that turns any network into a denoiser.

`Preconditioned` is told the noise level; `Blind` reads it off the image. Both compute
D = c_skip x + c_out F(c_in x, c_noise), so that F has unit inputs and a target of unit size at every noise level.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.denoiser import expand


class ResidualMlp(nn.Module):
    """Residual perceptron on flattened images with a sinusoidal embedding of `noise` (any number per row)."""

    def __init__(self, dim: int, width: int = 192, depth: int = 3, embedding: int = 64):
        super().__init__()
        frequencies = torch.logspace(0, 1, embedding // 2, base=30.0) * 0.5
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.embed = nn.Sequential(nn.Linear(embedding, width), nn.SiLU())
        self.inward = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        last = nn.Linear(width, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.outward = nn.Sequential(nn.LayerNorm(width), last)

    def forward(self, x: Float[Tensor, "batch *shape"], noise: Float[Tensor, " batch"]) -> Tensor:
        """Map images and one number per row to images of the same shape."""
        angle = noise[:, None] * self.frequencies
        context = self.embed(torch.cat([angle.cos(), angle.sin()], 1))
        hidden = self.inward(x.flatten(1)) + context
        for block in self.blocks:
            hidden = hidden + block(hidden + context)
        return self.outward(hidden).reshape(x.shape)


class Preconditioned(nn.Module):
    """A denoiser told its sigma: Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1."""

    def __init__(self, network: nn.Module, sigma_data: float):
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None) -> Tensor:
        """E[mu | x] for images x with noise std sigma."""
        if sigma is None:
            raise ValueError("this network is noise-conditional: it needs sigma")
        s, data = expand(sigma.to(x), x), self.sigma_data
        total = (s**2 + data**2).sqrt()
        out = self.network(x / total, sigma.to(x).log() / 4)
        return (data / total) ** 2 * x + s * data / total * out


class Blind(nn.Module):
    """A noise-unconditional denoiser: sigma is estimated from the image's root mean square.

    rms(x)^2 is close to m2 + sigma^2 in many dimensions, m2 the data's mean square. The estimate only scales: c_out
    has a floor so that the network can still correct it at low noise. Everything depends on x alone.
    """

    def __init__(self, network: nn.Module, sigma_data: float, mean_square: float, floor: float = 0.1):
        super().__init__()
        self.network, self.sigma_data, self.mean_square, self.floor = network, sigma_data, mean_square, floor

    def forward(self, x: Float[Tensor, "batch *shape"], sigma: Float[Tensor, " batch"] | None = None) -> Tensor:
        """E[mu | x]; `sigma` is accepted, so that any sampler can call it, and ignored."""
        square = x.flatten(1).square().mean(1)
        rms = square.clamp(min=1e-12).sqrt()
        variance = (square - self.mean_square).clamp(min=0)
        total = variance + self.sigma_data**2
        c_out = (self.sigma_data * (variance / total).sqrt()).clamp(min=self.floor * self.sigma_data)
        out = self.network(x / expand(rms, x), rms.log() / 4)
        return expand(self.sigma_data**2 / total, x) * x + expand(c_out, x) * out
