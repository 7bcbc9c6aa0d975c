"""Variants of tangent smoothing, each at the width that its own displacements call for.

Run by `python -m benchmarks.displacements`, before or after training:

* auto: the method of the package, as `--h auto` sets it;
* auto-class: neighbors of the same class only;
* auto-encoder: neighbors in the features of EfficientNet-Lite0;
* auto-point: a width for every training image, by the rule of `suggest_h` at that image alone;
* auto-clipped: displaced images are clipped to [-1, 1] before a network sees them;
* auto-one, auto-three: steps along one or three of the neighbors, drawn anew each time;
* shell, shell-one, shell-three: the same, and along all, with coefficients of fixed length: no step is short;
* local, local-one: the image falls into 4 x 4 (2 x 2) overlapping windows, each with neighbors of its own by what
  they show there, and all ten (one) of them move that part alone;
* auto-growing: a width that grows from 0 to the automatic one over the first half of training.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from temperance.diagnostics import suggest_h, suggest_k
from temperance.distance import Neighbors, nearest, neighbors
from temperance.engine import displaced, neighbor_table
from temperance.recipe import feature_space

Displace = Callable[[Tensor, Generator], Tensor]  # rows of the training set -> displaced images
DRAWS = 64  # displaced images for the width of one point
WIDTHS = torch.arange(0, 2.01, 0.25)


def variants(points: Tensor, labels: Tensor | None, steps: int) -> dict[str, Callable[[], Displace]]:
    """Every variant by name; `steps` of training, 0 for none: without it no width can grow."""
    n = len(points)

    def table(space: str = "pixels", labels: Tensor | None = None) -> Neighbors:
        least = n if labels is None else int(labels.unique(return_counts=True)[1].min())
        return neighbor_table(points.flatten(1), suggest_k(least), labels=labels, space=feature_space(space, points))

    found: dict[str, Callable[[], Displace]] = {
        "auto": lambda: _one_width(points, table()),
        "auto-encoder": lambda: _one_width(points, table("efficientnet")),
        "auto-point": lambda: _by_point(points, table()),
        "auto-clipped": lambda: _clipped(_one_width(points, table())),
        "auto-one": lambda: _steps(points, table(), 1, shell=False),
        "auto-three": lambda: _steps(points, table(), 3, shell=False),
        "shell-one": lambda: _steps(points, table(), 1, shell=True),
        "shell-three": lambda: _steps(points, table(), 3, shell=True),
        "local": lambda: _windowed(points, table().index.shape[1], 4, 0),
        "local-one": lambda: _windowed(points, table().index.shape[1], 2, 1),
        "shell": lambda: _steps(points, table(), table().index.shape[1], shell=True),
    }
    if steps:
        found["auto-growing"] = lambda: _one_width(points, table(), growing=steps // 2)
    if labels is not None:
        found["auto-class"] = lambda: _one_width(points, table(labels=labels))
    return found


def _one_width(points: Tensor, table: Neighbors, growing: int = 0) -> Displace:
    width, batches = suggest_h(points.flatten(1), table).h, 0

    def displace(index: Tensor, generator: Generator) -> Tensor:
        nonlocal batches
        batches += 1
        h = width * min(1.0, batches / growing) if growing else width
        return _displaced(points, table, index, h, generator)

    return displace


def _clipped(displace: Displace) -> Displace:
    return lambda index, generator: displace(index, generator).clamp(-1, 1)


def _steps(points: Tensor, table: Neighbors, count: int, *, shell: bool) -> Displace:
    """Steps along `count` neighbors, drawn anew each time; of one length for each draw of neighbors if `shell`."""
    flat = points.flatten(1)

    def moved(index: Tensor, h: float, generator: Generator) -> Tensor:
        chosen = torch.rand(len(index), table.index.shape[1], generator=generator).argsort(1)[:, :count]
        z = torch.randn(len(index), count, generator=generator)
        z = z / (z.norm(dim=1, keepdim=True) if shell else count**0.5)
        return displaced(points[index], flat, table.index[index].gather(1, chosen), h * z)

    h = _width(points, table.distance[:, 0], moved)
    return lambda index, generator: moved(index, h, generator)


def _windowed(points: Tensor, k: int, side: int, count: int) -> Displace:
    """Steps along the neighbors of every window: along `count` of them, drawn anew each time, or along all (0)."""
    shares = _windows(points.shape[-2], points.shape[-1], side)
    near = [neighbors((points * share).flatten(1), k).index for share in shares]

    def moved(index: Tensor, h: float, generator: Generator) -> Tensor:
        image = points[index].clone()
        for share, table in zip(shares, near):
            chosen = table[index]
            if count:
                chosen = chosen.gather(1, torch.rand(chosen.shape, generator=generator).argsort(1)[:, :count])
            z = torch.randn(chosen.shape, generator=generator) * (h / chosen.shape[1] ** 0.5)
            image += share * torch.einsum("bk,bkchw->bchw", z, points[chosen] - points[index][:, None])
        return image

    h = _width(points, neighbors(points.flatten(1), 1).distance[:, 0], moved)
    return lambda index, generator: moved(index, h, generator)


def _windows(height: int, width: int, side: int) -> Tensor:
    """side^2 smooth windows [window, height, width] whose squares add up to one everywhere."""
    center = torch.arange(side)[:, None]
    rows, columns = (
        torch.cos((torch.linspace(0, side - 1, n) - center).abs().clamp(max=1) * torch.pi / 2) for n in (height, width)
    )
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(side * side, height, width)


def _width(points: Tensor, unseen: Tensor, moved: Callable[[Tensor, float, Generator], Tensor]) -> float:
    """Where a displaced image is nearer to the training set than an unseen one half of the time."""
    flat, unseen = points.flatten(1), unseen.sort().values
    row = torch.arange(len(points)).repeat(-(-1000 // len(points)))

    def nearer(h: float) -> float:
        images = moved(row, h, Generator().manual_seed(0)).flatten(1)
        below = torch.searchsorted(unseen, nearest(images, flat, 1).distance[:, 0].contiguous())
        return 1 - float(below.double().mean()) / len(unseen)

    low, high = 0.0, 4.0
    while high - low > 0.01:
        h = (low + high) / 2
        low, high = (h, high) if nearer(h) > 0.5 else (low, h)
    return low


def _by_point(points: Tensor, table: Neighbors) -> Displace:
    """Where half of an image's displacements are nearer to the training set than the image is to all others."""
    flat, widths = points.flatten(1), torch.empty(len(points))
    for i in range(len(points)):
        index, nearer = torch.full((DRAWS,), i), []
        for h in WIDTHS.tolist():
            moved = _displaced(points, table, index, h, Generator().manual_seed(i))
            distance = nearest(moved.flatten(1), flat, 1).distance[:, 0]
            nearer.append(float((distance < table.distance[i, 0]).double().mean()))
        below = next((j for j, share in enumerate(nearer) if share <= 0.5), len(nearer) - 1)
        widths[i] = WIDTHS[below]

    def displace(index: Tensor, generator: Generator) -> Tensor:
        return _displaced(points, table, index, widths[index, None], generator)

    return displace


def _displaced(points: Tensor, table: Neighbors, index: Tensor, h: float | Tensor, generator: Generator) -> Tensor:
    k = table.index.shape[1]
    z = torch.randn(len(index), k, generator=generator) * h / k**0.5
    return displaced(points[index], points.flatten(1), table.index[index], z)
