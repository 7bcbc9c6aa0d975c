"""What a training step costs: python -m benchmarks.train.

Smoothed objectives against the plain one, and this project's loop against the loop of diffusers' unconditional training
example, on one UNet2DModel, in turn. Without --quick also channels_last, bfloat16 and torch.compile.
"""

import copy
import statistics
import time
from typing import cast

import torch
from accelerate import Accelerator
from benchmarks.common import arguments, images, medians, roof, say, show
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from temperance.diagnostics import collapse_sigma
from temperance.distance import neighbors
from temperance.hub import new_denoiser, new_network
from temperance.objective import ExactTangent, NoiseConditional, TangentSmoothed, TemperatureSmoothed
from temperance.schedule import edm_for
from temperance.train import Settings, batch_target
from temperance.train.loop import _accelerator, _trainer

BATCH, K, N, SHAPE = 64, 10, 5000, (3, 32, 32)


def network(kind="unet", shape=SHAPE):
    return new_network(kind, shape, told=True, seed=0)


def ours(objective, points, *, kind="unet", batch=BATCH, precision="fp32", channels_last=False, compiled=False):
    """A function that takes one step of this project's loop, average and non-finite check included."""
    settings = Settings(steps=1_000_000, batch_size=batch, precision=precision)
    net = network(kind, tuple(points.shape[1:]))
    if channels_last:
        net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    denoiser = new_denoiser(net, points, told=True)
    accelerator = _accelerator(settings, "cpu", None)
    trainer = _trainer(accelerator, denoiser, objective, points, settings, None)
    if compiled:
        trainer.model = cast(nn.Module, torch.compile(trainer.model))
    step = iter(range(1_000_000))
    return lambda: trainer.advance(next(step))


def theirs(points, *, average):
    """The loop of diffusers' examples/unconditional_image_generation, in our words: same network, same batch."""
    accelerator = Accelerator(cpu=True)
    model, scheduler = cast(nn.Module, network().unet), DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    loader = DataLoader(TensorDataset(points), batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=1_000_000)
    model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True) if average else None

    def batches():
        while True:
            yield from loader

    batch = batches()

    def step():
        (clean,) = next(batch)
        noise = torch.randn(clean.shape)
        t = torch.randint(0, 1000, (len(clean),)).long()
        noisy = scheduler.add_noise(clean, noise, t)  # pyright: ignore[reportArgumentType]
        with accelerator.accumulate(model):
            loss = functional.mse_loss(model(noisy, t).sample.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        if ema is not None:
            ema.step(model.parameters())
        return loss.detach().item()

    return step


def compared(functions, rounds: int, budget: float) -> tuple[dict[str, float], dict[str, float], int]:
    """Median over rounds of processor time over the first function's in the same round; median wall seconds; rounds.

    Processor time, since a step takes seconds and whatever else the machine does meanwhile is not its cost. The order
    is turned by one every round.
    """
    names, begin = list(functions), time.perf_counter()
    for f in functions.values():
        f()
    shares, walls = {name: [] for name in names}, {name: [] for name in names}
    for turn in range(rounds):
        taken = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            functions[name]()
            taken[name] = time.process_time() - cpu
            walls[name].append(time.perf_counter() - wall)
        for name in names:
            shares[name].append(taken[name] / taken[names[0]])
        if time.perf_counter() - begin > budget:
            break
    median = statistics.median
    return {k: median(v) for k, v in shares.items()}, {k: median(v) for k, v in walls.items()}, len(shares[names[0]])


def target_cost(objectives, points) -> dict[str, float]:
    """Seconds that the targets of a step take, apart from the step."""
    step = iter(range(10_000_000))
    draw = {
        name: (lambda objective=objective: batch_target(objective, points, BATCH, next(step), 0))
        for name, objective in objectives.items()
    }
    return medians(draw, rounds=60, budget=5)


def main() -> None:
    options = arguments()
    points = images(N, 3072).reshape(N, *SHAPE)
    flat = points.flatten(1)
    schedule, table = edm_for(flat), neighbors(flat, K)
    low = collapse_sigma(flat[:1000])
    say(f"neighbor table of {N} images ready; sigma_collapse {low:.3f}")
    objectives = {
        "plain": NoiseConditional(schedule),
        "temperature": TemperatureSmoothed(schedule, points, table, low),
        "tangent": TangentSmoothed(schedule, points, table, 0.7),
    }
    began = time.perf_counter()
    steps = {name: ours(objective, points) for name, objective in objectives.items()}
    peers = {"diffusers": theirs(points, average=True)}
    if not options.quick:
        peers["diffusers_without_ema"] = theirs(points, average=False)
    turn, wall, rounds = compared({**steps, **peers}, 8 if options.quick else 40, 35 if options.quick else 400)
    exact = ExactTangent(TangentSmoothed(schedule, points, table, 0.7))
    cost, plain = target_cost({**objectives, "exact": exact}, points), wall["plain"]
    result = {
        "step_ratio_temperature": turn["temperature"],
        "step_ratio_tangent": turn["tangent"],
        "throughput_vs_diffusers": turn["diffusers"],
        "rounds": rounds,
        "step_seconds": plain,
        "images_per_second": BATCH / plain,
        # The same ratios from the targets alone, which the noise of whole steps does not hide.
        "target_ratio_temperature": 1 + (cost["temperature"] - cost["plain"]) / plain,
        "target_ratio_tangent": 1 + (cost["tangent"] - cost["plain"]) / plain,
        "target_ratio_exact": 1 + (cost["exact"] - cost["plain"]) / plain,
        "target_seconds": cost["plain"],
    }
    if not options.quick:
        result["throughput_vs_diffusers_without_ema"] = turn["diffusers_without_ema"]
        variants = {
            "plain": steps["plain"],
            "channels_last": ours(objectives["plain"], points, channels_last=True),
            "bf16": ours(objectives["plain"], points, precision="bf16"),
            "bf16_channels_last": ours(objectives["plain"], points, precision="bf16", channels_last=True),
        }
        try:
            compiled = ours(objectives["plain"], points, compiled=True)
            compiled()
            variants["compile"] = compiled
        except Exception as error:  # no compiler on this machine
            say(f"torch.compile: {str(error).splitlines()[0]}")
        result["speedups"] = [{k: 1 / v for k, v in compared(variants, 12, 240)[0].items()}]
    result["seconds"] = time.perf_counter() - began
    show({**copy.deepcopy(result), "roof": roof()}, options.json)


if __name__ == "__main__":
    main()
