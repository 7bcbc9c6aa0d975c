"""diffusers' UNet as a network of this package."""

from pathlib import Path

from diffusers import UNet2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.network import silent


class Unet(nn.Module):
    """diffusers' `UNet2DModel` called like every network here: images and one number per row in, images out.

    With `told=False` it is exactly noise-unconditional: the second layer of its time embedding has zero, frozen
    weights, so only a learned constant is left of the time, and the model stays a stock `UNet2DModel`.
    """

    def __init__(self, unet: UNet2DModel, *, told: bool):
        super().__init__()
        self.unet = unet
        self.change: nn.Linear | None = None
        if not told:
            assert unet.time_embedding is not None
            nn.init.zeros_(unet.time_embedding.linear_2.weight)
            unet.time_embedding.linear_2.weight.requires_grad_(False)

    def hear(self, numbers: int) -> None:
        """Take, for a label, how an image was changed, `numbers` of them; zeros, or no label, add nothing.

        What hears them is no part of the `UNet2DModel`, which is saved as if it had never been told.
        """
        assert self.unet.time_embedding is not None
        self.change = silent(numbers, self.unet.time_embedding.linear_2.out_features)
        self.unet.class_embedding = nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """Predict an image-sized output, in the precision of x whatever that of the weights."""
        if self.change is not None:
            label = self.change(x.new_zeros(len(x), self.change.in_features) if label is None else label)
        return self.unet(x.to(self.unet.conv_in.weight.dtype), noise, class_labels=label).sample.to(x.dtype)


def read_unet(folder: Path) -> UNet2DModel:
    """The UNet of a diffusers folder, from safetensors alone: weights saved as a pickle are refused."""
    names = sorted(path.name.split(".") for path in folder.glob("diffusion_pytorch_model*.safetensors"))
    if not names:
        raise ValueError(f"{folder} holds no diffusion_pytorch_model.safetensors; save_pretrained writes one")
    variant = min((name[1] for name in names), key=lambda part: part != "safetensors")  # fp16, if there are no others
    told = {} if variant == "safetensors" else {"variant": variant}
    unet = UNet2DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, **told)
    assert isinstance(unet, UNet2DModel)
    return unet
