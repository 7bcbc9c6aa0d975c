"""Smoothing in the latent space of an autoencoder: latents are the points, the rest does not change.

    python examples/latent_diffusion.py

The autoencoder here is tiny and has random weights, so the decoded samples show nothing; use
`AutoencoderKL.from_pretrained(...)` for one that is trained. Neighbors are found among the latents.
"""

import torch
from diffusers import AutoencoderKL, UNet2DModel

import temperance as tp
from temperance.data import load
from temperance.hub import Unet


def main(steps: int = 20, n: int = 64) -> float:
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(load(f"digits[:{n}]").tensor(), size=16)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean  # [n, 4, 8, 8], encoded once
    scale = 1 / float(latents.std())  # what `scaling_factor` is for a trained autoencoder
    points = latents * scale

    schedule = tp.edm_for(points.flatten(1))
    table = tp.neighbor_table(points.flatten(1), 10)
    width = tp.suggest_h(points.flatten(1), table).h  # measured on the latents
    objective = tp.TangentSmoothed(schedule, points, table, h=width)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    network = tp.Preconditioned(Unet(unet, told=True), schedule.sigma_data)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(n, (32,), generator=generator)
        target = objective(points[index], index, generator)
        value = tp.loss(network(target.x, target.condition), target).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    print(f"{steps} steps, h {width:.2f}, loss {float(value.detach()):.3f}")

    drawn = tp.integrate(tp.heun, network.eval(), points.shape[1:], tp.levels(schedule, 10), tp.Noise(0, range(4)))
    with torch.no_grad():
        decoded = vae.decode(drawn.x / scale).sample
    print(f"decoded samples: {tuple(decoded.shape)}, finite: {bool(decoded.isfinite().all())}")
    return float(value.detach())


if __name__ == "__main__":
    main()
