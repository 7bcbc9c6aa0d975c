"""Ideas for what a network should aim at instead of the training images, before and after a network is trained on it.

    python -m benchmarks.displacements --data mnist5k --size 16
    python -m benchmarks.displacements --data mnist5k --size 16 --train 3200 --idea deform-h1

Without `--train`, the displaced images themselves are judged as if a perfect network had drawn them: seconds an idea
instead of minutes, and an upper bound on what a network can do. With it, the default network is trained on one idea.

* tangent: mu' = mu + h/sqrt(K) sum_k z_k (mu_k - mu), the method of the package;
* shrunk: the same around a mean that is moved a share of the way to the neighbors' mean;
* mixing: mu' = mu + u (mu_k - mu), u uniform (SMOTE); blends: Dirichlet weights over mu and three neighbors;
* deform: each neighbor is first brought into register with mu by a smooth flow v_k; a step takes the flow and what is
  left over, r_k = mu_k(x + v_k) - mu: mu'(x) = [mu + sum_k a_k r_k](x - sum_k a_k v_k), a_k = h z_k / sqrt(K);
* flow: the same without the r_k;
* auto and its variants: see `benchmarks.variants`.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.common import draw_split, split_arguments
from benchmarks.variants import Displace, variants
from torch import Generator, Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

from temperance.data import Images
from temperance.distance import neighbors
from temperance.engine import displaced
from temperance.hub import Model
from temperance.objective import NoiseConditional
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import heun
from temperance.scorecard import score
from temperance.train import Settings
from temperance.trial import draw

KEYS = ("memorized_fraction", "ratio_median", "copy_auc", "fd_heldout", "fd_floor", "precision", "recall")
DRAWS = 700  # displaced images that are judged
SAMPLES = 300  # of a trained network
ROWS = 50  # images registered at a time


@dataclass(frozen=True)
class Displaced:
    """Score matching on displaced images."""

    objective: NoiseConditional
    displace: Displace

    def __call__(self, mu: Tensor, index: Tensor, generator: Generator) -> Any:
        return self.objective(self.displace(index, generator), index, generator)


def linear(points: Tensor, k: int, h: float, shrink: float = 0.0) -> Displace:
    near = neighbors(points.flatten(1), k).index

    def displace(index: Tensor, generator: Generator) -> Tensor:
        a = torch.randn(len(index), k, generator=generator) * (h * (1 - shrink**2) ** 0.5 / k**0.5) + shrink / k
        return displaced(points[index], points.flatten(1), near[index], a)

    return displace


def mixed(points: Tensor, k: int) -> Displace:
    near = neighbors(points.flatten(1), k).index

    def displace(index: Tensor, generator: Generator) -> Tensor:
        u = torch.rand(len(index), 1, 1, 1, generator=generator)
        chosen = torch.randint(k, (len(index),), generator=generator)
        return points[index] * (1 - u) + u * points[near[index, chosen]]

    return displace


def deformed(points: Tensor, k: int, h: float, smooth: float, residual: bool = True) -> Displace:
    near = neighbors(points.flatten(1), k).index
    flow, rest = registered(points, near, smooth)
    height, width = points.shape[-2:]

    def displace(index: Tensor, generator: Generator) -> Tensor:
        a = torch.randn(len(index), k, generator=generator) * (h / k**0.5)
        image = points[index]
        if residual:
            image = image + torch.einsum("bk,bkchw->bchw", a, rest[index])
        return warp(image, -dense(torch.einsum("bk,bkchw->bchw", a, flow[index]), height, width))

    return displace


# Registration ---------------------------------------------------------------------------------------------------------


def registered(points: Tensor, near: Tensor, smooth: float) -> tuple[Tensor, Tensor]:
    """For every point and neighbor a coarse flow, and the neighbor in the point's frame minus the point."""
    k, (height, width) = near.shape[1], points.shape[-2:]
    flows, rests = [], []
    for rows in torch.arange(len(points)).split(ROWS):
        fixed = points[rows].repeat_interleave(k, 0)
        moving = points[near[rows].flatten()]
        flow = register(fixed, moving, smooth)
        rest = warp(moving, dense(flow, height, width)) - fixed
        flows.append(flow.reshape(len(rows), k, *flow.shape[1:]))
        rests.append(rest.reshape(len(rows), k, *rest.shape[1:]))
    return torch.cat(flows), torch.cat(rests)


def register(fixed: Tensor, moving: Tensor, smooth: float, nodes: int = 3, steps: int = 60) -> Tensor:
    """A flow v on `nodes` x `nodes` with moving(x + v) close to fixed(x), from blurred images to sharp ones."""
    flow = torch.zeros(len(fixed), 2, nodes, nodes, requires_grad=True)
    optimizer = torch.optim.Adam([flow], lr=0.15)
    for step in range(steps):
        width = max(0.0, 1.2 * (1 - 1.5 * step / steps))
        a, b = (fixed, moving) if width < 0.2 else (blurred(fixed, width), blurred(moving, width))
        error = (warp(b, dense(flow, *fixed.shape[-2:])) - a).square().mean((1, 2, 3))
        bend = flow.diff(dim=2).square().mean((1, 2, 3)) + flow.diff(dim=3).square().mean((1, 2, 3))
        (error + smooth * (bend + 0.05 * flow.square().mean((1, 2, 3)))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return flow.detach()


def dense(flow: Tensor, height: int, width: int) -> Tensor:
    return interpolate(flow, (height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """image(x + flow), flow in pixels."""
    height, width = image.shape[-2:]
    rows = torch.linspace(-1 + 1 / height, 1 - 1 / height, height)
    columns = torch.linspace(-1 + 1 / width, 1 - 1 / width, width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    where = torch.stack([x, y], -1) + flow * torch.tensor([2 / width, 2 / height])
    return grid_sample(image, where, mode="bilinear", padding_mode="border", align_corners=False)


def blurred(image: Tensor, width: float) -> Tensor:
    offset = torch.arange(-2.0, 3.0)
    kernel = (-(offset**2) / (2 * width**2)).softmax(0)
    channels = image.shape[1]
    image = conv2d(pad(image, (2, 2, 0, 0), mode="replicate"), kernel.expand(channels, 1, 1, 5), groups=channels)
    return conv2d(
        pad(image, (0, 0, 2, 2), mode="replicate"), kernel[:, None].expand(channels, 1, 5, 1), groups=channels
    )


# Runs -----------------------------------------------------------------------------------------------------------------


def ideas(points: Tensor, labels: Tensor | None, steps: int) -> dict[str, Callable[[], Displace]]:
    found = variants(points, labels, steps)
    for h in (0.3, 0.5, 0.7, 1.0):
        found[f"tangent-h{h:g}"] = lambda h=h: linear(points, 10, h)
    for share in (0.3, 0.5):
        found[f"shrunk-{share:g}"] = lambda share=share: linear(points, 10, 0.7, share)
    found["mixing"] = lambda: mixed(points, 5)
    for h in (0.7, 1.0):
        found[f"deform-h{h:g}"] = lambda h=h: deformed(points, 10, h, 0.02)
        found[f"flow-h{h:g}"] = lambda h=h: deformed(points, 10, h, 0.02, residual=False)
    return found


def screened(plan: argparse.Namespace, train: Images, against: Any) -> Iterator[dict[str, Any]]:
    points = train.tensor()
    index = torch.randint(len(points), (DRAWS,), generator=Generator().manual_seed(1))
    for name, make in ideas(points, labels(train), plan.train).items():
        if plan.idea in (None, name):
            images = make()(index, Generator().manual_seed(2)).clamp(-1, 1)
            row, _ = score(images, against)
            yield {"idea": name, "steps": 0, **{key: row[key] for key in KEYS}}


def labels(train: Images) -> Tensor | None:
    return None if train.labels is None else torch.from_numpy(train.labels)


def trained(plan: argparse.Namespace, train: Images, against: Any) -> list[dict[str, Any]]:
    points = train.tensor()
    ready = prepare(Recipe(objective="conditional", network=plan.network), points, seed=plan.seed)
    if plan.idea is not None:
        aimed = Displaced(NoiseConditional(ready.schedule), ideas(points, labels(train), plan.train)[plan.idea]())
        ready = replace(ready, objective=aimed)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    looks = {plan.train // 2**i for i in range(5)}

    def visit(step: int, model: Model) -> None:
        if step in looks:
            drawn = draw(model.denoiser, model.schedule, heun, points.shape[1:], plan.seed, range(SAMPLES))
            row, _ = score(drawn.x.clamp(-1, 1), against)
            rows.append({"idea": plan.idea or "conditional", "steps": step, **{key: row[key] for key in KEYS}})
            if not plan.json:
                show(rows[-1])

    settings = Settings(
        steps=plan.train,
        batch_size=32,
        lr_schedule=plan.lr_schedule,
        checkpoint_every=min(looks),
        seed=plan.seed,
    )
    fit(ready, points, settings, device="cpu", visit=visit, progress=not plan.json)
    return rows


def show(row: dict[str, Any]) -> None:
    figures = "  ".join(f"{key.removesuffix('_fraction')} {row[key]:.3g}" for key in KEYS)
    print(f"{row['idea']:14s} step {row['steps']:<6d} {figures}", flush=True)


def main() -> None:
    parser = split_arguments(__doc__, data="mnist5k", heldout=1000, seed=100)
    parser.add_argument("--network", default="auto")
    parser.add_argument("--idea")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS")
    parser.add_argument("--lr-schedule", default="constant")
    parser.add_argument("--json", action="store_true")
    plan = parser.parse_args()
    train, against = draw_split(plan)
    known = ideas(train.tensor(), labels(train), plan.train)
    if plan.idea is not None and plan.idea not in known:
        parser.error(f"--idea must be one of {', '.join(known)}, got {plan.idea!r}")
    if plan.train:
        rows = trained(plan, train, against)
    else:
        rows = []
        for row in screened(plan, train, against):
            rows.append(row)
            if not plan.json:
                show(row)
    if plan.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
