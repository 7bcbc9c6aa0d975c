"""The smoothed training target against a vectorised gather: python -m benchmarks.target."""

import torch
from benchmarks.common import arguments, images, ratios, roof, say, show
from torch import Tensor

from temperance.distance import Neighbors
from temperance.engine import tempered_mean
from temperance.objective import TangentSmoothed, _noised
from temperance.schedule import Edm


class Low(Edm):
    """Noise levels below sigma_collapse only, where all rows are smoothed."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return 0.1 + 0.3 * torch.rand(n, generator=generator)


def gathered_temperature(x: Tensor, points: Tensor, group: Tensor, sigma: Tensor, strength: float) -> Tensor:
    """What is usually written: points[group] as a [batch, K, d] tensor, differences, softmax, einsum."""
    near = points[group]
    r2 = (x[:, None] - near).square().sum(2)
    t = (strength / sigma).clamp(min=1)
    return torch.einsum("bk,bkd->bd", (-r2 / (2 * sigma**2 * t)[:, None]).softmax(1), near)


def gathered_tangent(mu: Tensor, points: Tensor, near: Tensor, z: Tensor) -> Tensor:
    return mu + torch.einsum("bk,bkd->bd", z, points[near] - mu[:, None])


def compare(d: int, k: int, batch: int, n: int = 50_000) -> dict:
    """How many times as fast as the gather both targets are."""
    points, g = images(n, d), torch.Generator().manual_seed(0)
    near = Neighbors(torch.randint(n, (n, k), generator=g), torch.ones(n, k))
    index = torch.randint(n, (batch,), generator=g)
    mu, sigma = points[index], torch.full((batch,), 0.3)
    group = torch.cat([index[:, None], near.index[index]], 1)
    tangent, schedule = TangentSmoothed(Low(), points, near, 0.7), Low()
    z = torch.randn(batch, k, generator=g) * 0.7 / k**0.5
    r = ratios(
        {
            "noise": lambda: _noised(mu, schedule, g, told=True),
            "temperature": lambda: tempered_mean(mu, points, group, sigma, 1.0 / 0.3),
            "tangent": lambda: tangent(mu, index, g),
            "gather_temperature": lambda: gathered_temperature(mu, points, group, sigma, 1.0),
            "gather_tangent": lambda: gathered_tangent(mu, points, near.index[index], z),
        },
        rounds=15,
    )
    row: dict[str, float] = {"d": d, "k": k, "batch": batch}
    row["temperature_vs_gather"] = r["gather_temperature"] / r["temperature"]
    # The noise every objective draws is not part of the target.
    if r["tangent"] <= r["noise"]:
        raise SystemExit("timings are too noisy to tell the target from its noise draw: run again on a quieter machine")
    row["tangent_vs_gather"] = r["gather_tangent"] / (r["tangent"] - r["noise"])
    say(f"d {d} k {k} batch {batch}: {row}")
    return row


if __name__ == "__main__":
    options = arguments()
    cases = [compare(3072, 30, 128)]
    if not options.quick:
        cases += [compare(d, k, 128) for d in (784, 3072) for k in (10, 100)]
    head = {
        # The slower of the two: a headline must hold for both smoothed objectives.
        "speedup_vs_gather": min(cases[0]["tangent_vs_gather"], cases[0]["temperature_vs_gather"]),
        "temperature_vs_gather": cases[0]["temperature_vs_gather"],
        "tangent_vs_gather": cases[0]["tangent_vs_gather"],
    }
    show({**head, "roof": roof(), "cases": cases}, options.json)
