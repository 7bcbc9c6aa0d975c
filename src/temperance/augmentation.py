"""Images mirrored, or turned, stretched and shifted a little; and the numbers that tell a network of the latter.

A change is five numbers, standard normal where an image is changed and 0 where it is not; `SPREAD` is the size of
each. Small, because a change has to leave an image of the same kind behind.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

# Standard deviations: rotation in radians, log2 of the size, log2 of width against height, shifts in half sides.
SPREAD = (math.radians(12), 0.12, 0.12, 0.06, 0.06)
CHANGES = len(SPREAD)


def mirrored(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Left and right exchanged."""
    return images.flip(-1)


def draw_changes(n: int, share: float, generator: Generator) -> Float[Tensor, "n 5"]:
    """Changes for n images, of which each is changed with probability `share`."""
    drawn = torch.randn(n, CHANGES, generator=generator, device=generator.device)
    return drawn * (torch.rand(n, 1, generator=generator, device=generator.device) < share)


def changed(images: Float[Tensor, "n c h w"], changes: Float[Tensor, "n 5"]) -> Float[Tensor, "n c h w"]:
    """The images under their changes; an image whose change is 0 is returned as it is, to the last bit.

    Resampled once, by cubic interpolation, edges continued, within each image's own range. Cost: O(n c h w).
    """
    turn, size, aspect, across, down = (changes * changes.new_tensor(SPREAD)).unbind(1)
    # The map goes from places in the result to places in the image, so it does the reverse of what is named.
    width, height = 2 ** (size + aspect), 2 ** (size - aspect)
    tall = images.shape[2] / images.shape[3]  # places are in half sides, which a turn must not mix
    places = torch.stack(
        [
            torch.stack([turn.cos() * width, -turn.sin() * height * tall, across], 1),
            torch.stack([turn.sin() * width / tall, turn.cos() * height, down], 1),
        ],
        1,
    ).to(images)
    grid = affine_grid(places, list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    least, most = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    moved = torch.minimum(torch.maximum(moved, least), most)  # cubic interpolation overshoots
    return torch.where((changes != 0).any(1)[:, None, None, None], moved, images)
