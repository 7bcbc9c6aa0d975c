"""Small networks, and the preconditioning that turns any network into a denoiser.

`Preconditioned` is told the noise level; `Blind` reads it off the image. Both compute
D = c_skip x + c_out F(c_in x, c_noise), so that F has unit inputs and a target of unit size at every noise level.
`Parameterized` wraps a network that takes the image and time of its process and predicts noise, v, velocity or image.
All take an optional label for each row, a class or how the image was changed, and hand it on.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.denoiser import expand, prediction
from temperance.schedule import Flow, Schedule, Vp

TIME_UNITS = 1000.0  # what diffusers counts a flow's time in


class ResidualMlp(nn.Module):
    """Residual perceptron on flattened images with a sinusoidal embedding of `noise` (any number per row).

    `unit`: what `noise` is counted in; the embedding resolves numbers of the order of one unit. `classes`: how many
    labels it knows; 0: it takes none.
    """

    def __init__(
        self, dim: int, width: int = 192, depth: int = 3, embedding: int = 64, unit: float = 1.0, classes: int = 0
    ):
        super().__init__()
        self.unit, self.classes = unit, classes
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
        self.label = nn.Embedding(classes, width) if classes else None
        self.change: nn.Linear | None = None

    def hear(self, numbers: int) -> None:
        """Take, for a label, how an image was changed, `numbers` of them; zeros, or no label, add nothing."""
        self.change = silent(numbers, self.inward.out_features)

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        noise: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """Map images and one number per row to images of the same shape."""
        angle = noise[:, None] / self.unit * self.frequencies
        context = self.embed(torch.cat([angle.cos(), angle.sin()], 1))
        if self.label is not None:
            context = context + self.label(_needed(label))
        if self.change is not None and label is not None:
            context = context + self.change(label)
        if self.label is None and self.change is None and label is not None:
            raise ValueError("this network takes no label: make it with classes=..., or call hear(5) for changes")
        hidden = self.inward(x.flatten(1)) + context
        for block in self.blocks:
            hidden = hidden + block(hidden + context)
        return self.outward(hidden).reshape(x.shape)


def silent(numbers: int, width: int) -> nn.Linear:
    """A linear map that adds nothing for zeros, nor before it is trained."""
    layer = nn.Linear(numbers, width, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class Preconditioned(nn.Module):
    """A denoiser told its sigma: Karras et al. 2022 (arXiv 2206.00364), eq. 7 and table 1."""

    def __init__(self, network: nn.Module, sigma_data: float):
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        sigma: Float[Tensor, " batch"] | None,
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """E[mu | x] for images x with noise std sigma."""
        if sigma is None:
            raise ValueError("this network is noise-conditional: it needs sigma")
        s, data = expand(sigma.to(x), x), self.sigma_data
        total = (s**2 + data**2).sqrt()
        out = self.network(x / total, sigma.to(x).log() / 4, *_given(label))
        return (data / total) ** 2 * x + s * data / total * out


class Parameterized(nn.Module):
    """A denoiser around a network that meets its process as it is: y = alpha mu + sigma eps and the time t.

    The network predicts the denoised image, eps, v or velocity (`denoiser.PREDICTIONS`), as stock networks do. For `Vp`
    it is called with the step, for `Flow` with 1000 t, as diffusers' schedulers do; for `Edm` and `Ve`, whose images
    have no bounded size, with x / sqrt(sigma^2 + sigma_data^2) and log(sigma) / 4. With `told=False` the network
    is noise-unconditional: its time is always 0, and sigma only turns what it predicts into the denoised image.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, predicts: str, sigma_data: float = 1.0, *, told: bool = True
    ):
        super().__init__()
        self.network, self.schedule, self.predicts = network, schedule, predicts
        self.sigma_data, self.told = sigma_data, told
        self._convert = prediction(predicts).to_denoised

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        sigma: Float[Tensor, " batch"] | None,
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """E[mu | x] for images x with noise std sigma."""
        if sigma is None:
            raise ValueError("this denoiser needs sigma: it turns what the network predicts into an image")
        level = sigma.to(x)
        scale, time = self._seen(level)
        out = self.network(expand(scale, x) * x, time if self.told else torch.zeros_like(time), *_given(label))
        return self._convert(x, out, level)

    def _seen(self, level: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """The factor of the network's image, and its time."""
        if not isinstance(self.schedule, Vp | Flow):
            return (level**2 + self.sigma_data**2).rsqrt(), level.log() / 4
        t = self.schedule.time(level)
        alpha, _ = self.schedule.kernel(t)
        return alpha, t if isinstance(self.schedule, Vp) else TIME_UNITS * t


class Blind(nn.Module):
    """A noise-unconditional denoiser: sigma is estimated from the image's root mean square.

    rms(x)^2 is close to m2 + sigma^2 in many dimensions, m2 the data's mean square. The estimate only scales: c_out
    has a floor so that the network can still correct it at low noise. Everything depends on x alone.
    """

    def __init__(self, network: nn.Module, sigma_data: float, mean_square: float, floor: float = 0.1):
        super().__init__()
        self.network, self.sigma_data, self.mean_square, self.floor = network, sigma_data, mean_square, floor

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        sigma: Float[Tensor, " batch"] | None = None,
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """E[mu | x]; `sigma` is accepted, so that any sampler can call it, and ignored."""
        square = x.flatten(1).square().mean(1)
        rms = square.clamp(min=1e-12).sqrt()
        variance = (square - self.mean_square).clamp(min=0)
        total = variance + self.sigma_data**2
        c_out = (self.sigma_data * (variance / total).sqrt()).clamp(min=self.floor * self.sigma_data)
        out = self.network(x / expand(rms, x), rms.log() / 4, *_given(label))
        return expand(self.sigma_data**2 / total, x) * x + expand(c_out, x) * out


def _given(label: Tensor | None) -> tuple[Tensor, ...]:
    return () if label is None else (label,)


def _needed(label: Tensor | None) -> Tensor:
    if label is None:
        raise ValueError("this network is class-conditional: it needs a label for each image")
    return label
