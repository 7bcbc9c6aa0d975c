"""Looking for few things in large arrays of bounds: faster than argmax and nonzero, which CPUs do one by one."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RUN = 256  # values of which only the largest is compared with others
WORD = 8  # booleans that are looked at together


def best(values: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"]]:
    """The largest value of each row and a place where it stands. Cost: one vectorized pass."""
    columns = values.shape[1]
    if columns < 4 * RUN:
        place = values.argmax(1)
        return values.gather(1, place[:, None])[:, 0], place
    body = columns // RUN * RUN
    runs = values[:, :body].unflatten(1, (-1, RUN))
    run = runs.amax(2).argmax(1)
    inside = runs[torch.arange(len(values), device=values.device), run]
    top, place = inside.max(1)
    place = place + RUN * run
    if body < columns:
        tail, at = values[:, body:].max(1)
        place = torch.where(tail > top, at + body, place)
        top = torch.maximum(top, tail)
    return top, place


def where(mask: Bool[Tensor, "rows columns"]) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Rows and columns of the few true values, in order. Cost: one pass over words of eight."""
    if mask.numel() % WORD or not mask.is_contiguous():
        row, column = mask.nonzero(as_tuple=True)
        return row, column
    flat = mask.view(-1)
    words = flat.view(torch.int64).nonzero()
    places = (words * WORD + torch.arange(WORD, device=mask.device)).flatten()
    places = places[flat[places]]
    return places // mask.shape[1], places % mask.shape[1]
