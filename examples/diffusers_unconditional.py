"""diffusers' recipe for an unconditional model, with two lines changed so that it does not copy its training images.

    python examples/diffusers_unconditional.py

Changed are the lines marked 1 and 2. Line 1 makes items say which row they are. Line 2 stands for the recipe's

    noise = torch.randn(clean_images.shape)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean_images),))
    noisy_images = scheduler.add_noise(clean_images, noise, timesteps)

and returns the same three things: noisy images, their steps, and what the network should predict instead of the noise.
Network, scheduler, loss, optimizer and sampling are diffusers' own.
"""

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch.nn import functional
from torch.utils.data import DataLoader

import temperance as tp
from temperance.data import load


def main(steps: int = 20, n: int = 100) -> float:
    torch.manual_seed(0)
    points = load(f"digits[:{n}]").tensor()
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    schedule = tp.Vp()  # the levels of that scheduler
    objective = tp.TangentSmoothed(schedule, points, tp.neighbor_table(points.flatten(1), 10), h=0.7)
    generator = torch.Generator().manual_seed(0)

    dataset = tp.IndexedDataset(points)  # 1: was `dataset = points`
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    done = 0
    while done < steps:
        for clean_images, index in loader:
            noisy_images, timesteps, noise = tp.native(objective(clean_images, index, generator), schedule, "eps")  # 2
            noise_pred = model(noisy_images, timesteps).sample
            loss = functional.mse_loss(noise_pred, noise)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
    print(f"{done} steps, loss {float(loss.detach()):.3f}")

    sampler = DDIMScheduler.from_config(scheduler.config)
    sampler.set_timesteps(10)
    image = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        for t in sampler.timesteps:
            image = sampler.step(model(image, t).sample, t, image).prev_sample
    print(f"samples: {tuple(image.shape)}, finite: {bool(image.isfinite().all())}")
    return float(loss.detach())


if __name__ == "__main__":
    main()
