"""LoRA fine-tuning of a text-to-image UNet on a few images, smoothed among images of the same caption only.

    python examples/lora_text_to_image.py

UNet and text states are tiny and random here; with real ones, encode images and captions once with the pipeline's own
autoencoder and text encoder. A blend of two images is a fair answer to a caption only if both have it, so neighbors
are asked for within captions.
"""

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional

import temperance as tp
from temperance.data import load


class Lora(nn.Module):
    """A frozen linear layer plus a trained product of two thin ones, zero at first (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def add_lora(unet: nn.Module, rank: int = 4) -> list[nn.Parameter]:
    """Freeze a UNet, put LoRA on its attention projections, and return what is left to train."""
    unet.requires_grad_(False)
    for module in list(unet.modules()):
        for name in ("to_q", "to_k", "to_v"):
            if isinstance(getattr(module, name, None), nn.Linear):
                setattr(module, name, Lora(getattr(module, name), rank))
    return [p for p in unet.parameters() if p.requires_grad]


def main(steps: int = 20, n: int = 90) -> float:
    torch.manual_seed(0)
    images = load(f"digits[:{n}]")
    latents = images.tensor()  # stands for the autoencoder's latents
    captions = torch.from_numpy(images.labels)  # which caption each image has
    states = torch.randn(10, 6, 32)  # text states of the ten captions: [captions, tokens, width]
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    parameters = add_lora(unet)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    schedule = tp.Vp("scaled_linear", first=0.00085, last=0.012)  # as Stable Diffusion
    near = tp.neighbor_table(latents.flatten(1), 5, labels=captions)
    assert bool((captions[near.index] == captions[:, None]).all())
    objective = tp.TangentSmoothed(schedule, latents, near, h=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(n, (16,), generator=generator)
        noisy, timesteps, noise = tp.native(objective(latents[index], index, generator), schedule, "eps")
        predicted = unet(noisy, timesteps, states[captions[index]]).sample
        value = functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    trained, every = sum(p.numel() for p in parameters), sum(p.numel() for p in unet.parameters())
    print(f"{steps} steps on {trained} of {every} weights, loss {float(value.detach()):.3f}")
    return float(value.detach())


if __name__ == "__main__":
    main()
