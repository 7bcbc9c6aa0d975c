"""Flow matching with temperature smoothing in an Accelerate loop, on as many devices as `accelerate launch` starts.

python examples/accelerate_loop.py
accelerate launch examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import temperance as tp
from temperance.data import load


def main(epochs: int = 20, n: int = 100) -> float:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(0)
    points = load(f"digits[:{n}]").tensor()
    flat = points.flatten(1)
    schedule = tp.Flow()
    # What is not given is measured on the training images.
    objective = tp.TemperatureSmoothed(schedule, points, tp.neighbor_table(flat, 10), tp.collapse_sigma(flat))

    network = tp.Parameterized(tp.ResidualMlp(64, unit=1000.0), schedule, "velocity")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = DataLoader(tp.IndexedDataset(TensorDataset(points)), batch_size=50, shuffle=True)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    generator = torch.Generator().manual_seed(accelerator.process_index)  # noise of its own on every device
    for _ in range(epochs):
        for mu, index in loader:
            # Targets are made on the CPU, where the table is; they are cheap next to the network.
            target = objective(mu.cpu(), index.cpu(), generator)
            target = tp.Target(*(None if part is None else part.to(accelerator.device) for part in target))
            value = tp.loss(network(target.x, target.condition), target).mean()
            optimizer.zero_grad()
            accelerator.backward(value)
            optimizer.step()
    accelerator.print(f"{epochs} epochs on {accelerator.num_processes} process(es), loss {float(value.detach()):.3f}")

    denoiser = accelerator.unwrap_model(network).cpu().eval()
    samples = tp.integrate(tp.heun, denoiser, (1, 8, 8), tp.levels(schedule, 20), tp.Noise(0, range(16)))
    accelerator.print(f"{len(samples.x)} samples, converged: {bool(samples.converged.all())}")
    return float(value.detach())


if __name__ == "__main__":
    main()
