"""Tangent smoothing in a plain PyTorch loop: the objective makes the target, the rest is yours.

python examples/plain_loop.py
"""

import torch

import temperance as tp
from temperance.data import load


def main(steps: int = 300, n: int = 100) -> float:
    torch.manual_seed(0)
    points = load(f"digits[:{n}]").tensor()  # [n, 1, 8, 8] in [-1, 1]
    schedule = tp.edm_for(points.flatten(1))
    neighbors = tp.neighbor_table(points.flatten(1), 10)  # computed once
    objective = tp.TangentSmoothed(schedule, points, neighbors, h=0.7)

    network = tp.Preconditioned(tp.ResidualMlp(64), schedule.sigma_data)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        index = torch.randint(n, (128,), generator=generator)
        target = objective(points[index], index, generator)
        value = tp.loss(network(target.x, target.condition), target).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {float(value.detach()):.3f}")

    samples = tp.integrate(tp.heun, network.eval(), (1, 8, 8), tp.levels(schedule, 20), tp.Noise(0, range(16)))
    print(f"{len(samples.x)} samples, converged: {bool(samples.converged.all())}")
    return float(value.detach())


if __name__ == "__main__":
    main()
