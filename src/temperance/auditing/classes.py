"""Copying by class: which kind of training image comes back."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from temperance import metrics as tm
from temperance.data import Images
from temperance.report import Class


def by_class(
    train: Images,
    generated: tm.Proximity,
    heldout: tm.Proximity | None,
    flagged: Bool[Tensor, " n"] | None,
    matched: Int[Tensor, " n"],
) -> tuple[Class, ...]:
    """A row per class of the training set; an image counts for the class of its nearest training image.

    A flag counts for the class of the training image that was `matched`: flags come from the match, which also finds
    moved images, and the nearest image is another one then. Generated images need no labels.
    Empty where the training images have none, or all the same one.
    """
    if train.labels is None:
        return ()
    label = torch.as_tensor(train.labels)
    names = label.unique().tolist()
    if len(names) < 2:
        return ()
    called = train.classes or ()
    hits = None if flagged is None else label[matched][flagged]
    return tuple(_row(n, _name(n, called), label, generated, heldout, hits) for n in names)


def _name(number: int, called: Sequence[str]) -> str:
    """A class by its name; data sets mark images without a label by a negative one."""
    return "unlabeled" if number < 0 else called[number] if called else str(number)


def _row(
    number: int, name: str, label: Tensor, generated: tm.Proximity, heldout: tm.Proximity | None, hits: Tensor | None
) -> Class:
    """One class; `hits` are the labels of what was flagged."""
    mine = label[generated.index] == number
    copied = None
    if bool(mine.any()):
        null = None if heldout is None else _part(heldout, label[heldout.index] == number)
        copied = tm.memorized_fraction(_part(generated, mine), null if null is not None and len(null.index) else None)
    count = None if hits is None else int((hits == number).sum())
    return Class(name, int((label == number).sum()), int(mine.sum()), copied, count)


def _part(near: tm.Proximity, chosen: Tensor) -> tm.Proximity:
    return tm.Proximity(*(column[chosen] for column in near))
