"""Networks before any training, and the denoisers around them."""

from pathlib import Path

import torch
from diffusers import UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from temperance.hub.folder import load, mlp_config
from temperance.hub.unet import Unet
from temperance.network import Blind, Parameterized, Preconditioned, ResidualMlp
from temperance.schedule import Schedule


def new_network(
    kind: str, shape: tuple[int, int, int], *, told: bool, seed: int, classes: int = 0, unit: float = 1.0
) -> nn.Module:
    """A freshly initialized `mlp` or `unet` for images of `shape` (channels, height, width).

    The mlp is 192 units wide, or twice the image's numbers, since it cannot pass on more numbers than its width.
    `kind` may also be a folder that `load` opens: its network is built again, with fresh weights. `classes`: how many
    labels the network is told; `unit`: what an mlp's noise level is counted in (see `network.ResidualMlp`).

    Raises:
        ValueError: for another kind, or a size that the UNet cannot halve twice.
    """
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            numbers = channels * height * width
            # At low noise the network puts out noise, which has no fewer dimensions than the image.
            return ResidualMlp(numbers, width=max(192, 2 * numbers), unit=unit, classes=classes)
        if kind != "unet" and Path(kind).is_dir():
            return _like(Path(kind), shape, told=told, classes=classes, unit=unit)
        if kind != "unet":
            raise ValueError(f"network must be mlp, unet or a model folder, got {kind!r}")
        if height % 4 or width % 4 or height < 8:
            raise ValueError(f"the unet needs sides of 8 or more divisible by 4, got {height}x{width}; try --size 16")
        unet = UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=classes or None,
        )
        return Unet(unet, told=told)


def kind_of(network: nn.Module) -> str:
    """`mlp` or `unet`."""
    return "mlp" if isinstance(network, ResidualMlp) else "unet"


def _like(folder: Path, shape: tuple[int, int, int], *, told: bool, classes: int, unit: float) -> nn.Module:
    model = load(folder)
    network = model.denoiser.network
    if model.shape != shape:
        raise ValueError(
            f"--network {folder} is for images {model.shape}, the data are {shape}; set --size, --channels"
        )
    if isinstance(network, Unet):
        config = {k: v for k, v in network.unet.config.items() if not k.startswith("_")}
        unet = UNet2DModel.from_config({**config, "num_class_embeds": classes or None})
        assert isinstance(unet, UNet2DModel)
        return Unet(unet, told=told)
    assert isinstance(network, ResidualMlp)
    return ResidualMlp(**mlp_config(network) | {"unit": unit, "classes": classes})


def new_denoiser(
    network: nn.Module,
    points: Float[Tensor, "n c h w"],
    *,
    told: bool,
    schedule: Schedule | None = None,
    predicts: str = "preconditioned",
) -> nn.Module:
    """Make a denoiser of a network, with the constants of the data it will be trained on.

    `predicts`: what the network puts out: `preconditioned` (Karras et al., or `Blind` if it is not told its noise), or
    a name of `denoiser.PREDICTIONS`, which needs the schedule.
    """
    mean_square = float(points.square().mean())
    if predicts != "preconditioned":
        assert schedule is not None
        return Parameterized(network, schedule, predicts, mean_square**0.5, told=told)
    if told:
        return Preconditioned(network, mean_square**0.5)
    return Blind(network, mean_square**0.5, mean_square)
