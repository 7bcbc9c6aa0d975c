"""What samples are made from, and held against: a run, a model folder, a closed form; a guard."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from temperance import hub
from temperance.autoguidance import Autoguided
from temperance.data import Images
from temperance.engine import EmpiricalDenoiser
from temperance.features import Classifier, Encoder, Pixels, by_name, encode
from temperance.guard import PICTURES, Guard
from temperance.guard.views import crop
from temperance.hub import Model
from temperance.recipe import closed_form
from temperance.run.earlier import nearest
from temperance.run.labels import labels_of
from temperance.schedule import edm_for
from temperance.start import SmoothedStart, smoothed_start

SHIFT, LEFT = 2, 4  # pixels by which copies may have moved, and what must be left of an image of either side
RATE = 0.01  # share of new real images that a calibrated guard may refuse


def open_model(source: str, label: str | None = None) -> Model:
    """A run or model folder by its path; with `label`, only that class of a class-conditional model is sampled.

    Raises:
        ValueError: if there is no such folder, it holds no model, or the model has no such class.
    """
    if not Path(source).is_dir():
        raise ValueError(
            f"{source} is not a folder; give a run of `temperance train`, a diffusers folder, or --closed-form"
        )
    if (Path(source) / "config.yaml").is_file() and not (Path(source) / "model").is_dir():
        raise ValueError(
            f"{source} is a run that has not ended: go on with `temperance train DATA --out {source} --resume`"
        )
    model = hub.load(Path(source))
    return model if label is None else replace(model, about={**model.about, "label": model.label(label)})


def autoguided(model: Model, source: str, weaker: str | None, weight: float) -> Model:
    """`model` guided by a weaker one: the folder `weaker`, or the run `source` after about a quarter of its steps.

    Raises:
        ValueError: if there is no weaker model, or it makes other images than `model`.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"--autoguidance must be a number of at least 0, got {weight}")
    folder = nearest(Path(source), model.about.get("step", 0)) if weaker is None else Path(weaker)
    other = open_model(str(folder))
    for what, ours, theirs in (
        ("image shape", model.shape, other.shape),
        ("classes", model.classes, other.classes),
        ("noise-conditional", model.told, other.told),
    ):
        if ours != theirs:
            raise ValueError(f"--weaker {folder} does not fit the model: {what} {theirs}, not {ours}")
    about = {**model.about, "autoguidance": {"weaker": str(folder), "weight": weight}}
    return replace(model, denoiser=Autoguided(model.denoiser, other.denoiser, weight), about=about)


def closed_form_model(images: Images, name: str, h: float | str = "auto") -> Model:
    """A training-free model: the closed-form denoiser of the images themselves, on the CPU; `h`: that of tangent."""
    points = images.tensor()
    shape = (points.shape[1], points.shape[2], points.shape[3])
    denoiser = ClosedForm(closed_form(points, name, h=h))
    about = {"closed_form": name, "source": images.source, "train_sha256": images.fingerprint}
    about |= {"h": h} if h != "auto" else {}
    return Model(denoiser, edm_for(points.flatten(1)), shape, about)


def open_guard(
    train: Images | None,
    heldout: Images | None,
    *,
    encoder: str | None,
    rate: float | None,
    index: Path | None,
    progress: bool,
) -> Guard | None:
    """The guard that the command line asks for: built from images, calibrated if there are unseen ones, or read.

    None for `encoder` and `rate`: pixels, or the encoder that a saved guard names, and `RATE`.

    Raises:
        ValueError: in one line, if the options do not fit together or the guard cannot be made.
    """
    if train is None:
        made = {"heldout": heldout, "guard-rate": rate, "guard-encoder": encoder if index is None else None}
        for name, given in made.items():
            if given is not None:
                raise ValueError(f"--{name} is for a guard made from images: give --guard TRAIN")
        return None if index is None else Guard.load(index, None if encoder is None else by_name(encoder))
    space = by_name("pixels" if encoder is None else encoder)
    if index is not None and isinstance(space, PICTURES):
        raise ValueError(
            f"--guard-index keeps features, and {space.name} would be the images or small versions of them: give"
            " another --guard-encoder, such as efficientnet"
        )
    shift = _shift(space, train)
    if heldout is None:
        for name, given in (("guard-index", index), ("guard-rate", rate)):
            if given is not None:
                raise ValueError(f"--{name} {given} is for a calibrated guard: give --heldout")
        return Guard(train, space, shift=shift)
    guard = Guard.calibrate(train, heldout, space, RATE if rate is None else rate, shift=shift, progress=progress)
    if index is not None:
        guard.save(index)
    return guard


def open_start(train: Images, h: float | str, model: Model) -> SmoothedStart:
    """The smoothed start from training images, of width `h`.

    Samples of a class-conditional model begin at images of their class, known by its name; where one class alone is
    drawn, images without labels are its own.

    Raises:
        ValueError: in one line, if all images are the same or a class of the model has none.
    """
    points = train.tensor()
    if not model.classes:
        return smoothed_start(points, h)
    labels = _as_in(model, train)
    known = labels >= 0
    return smoothed_start(points[known], h, labels[known])


def _as_in(model: Model, train: Images) -> Int[Tensor, " n"]:
    """The images' classes as a class-conditional model numbers them; -1: none of its classes."""
    only = model.about.get("label")
    if only is not None and train.labels is None:
        return torch.full((len(train),), only)
    labels, names = labels_of(train, "--start")
    drawn = model.classes if only is None else (model.classes[only],)
    missing = [name for name in drawn if name not in names]
    if missing:
        raise ValueError(f"--start {train.source} has no images of class {missing[0]}, which the model draws")
    return torch.tensor([model.classes.index(name) if name in model.classes else -1 for name in names])[labels]


def _shift(space: Encoder, train: Images) -> int:
    """By how many pixels the guard lets copies have moved: by none where the encoder does not see parts of images."""
    height, width = train.pixels.shape[1:3]
    shift = max(0, min(SHIFT, (min(height, width) - LEFT) // 2))
    if not shift or isinstance(space, Pixels):
        return shift
    if isinstance(space, Classifier):
        return 0
    image, inner = train[:1].tensor(), crop(shift, shift, height - 2 * shift, width - 2 * shift)
    try:
        whole, middle = encode(space, image), encode(space, inner(image))
    except (ValueError, RuntimeError):  # a network of one input size
        return 0
    return shift if whole.shape == middle.shape else 0


class ClosedForm(torch.nn.Module):
    """A closed form in the place of a network, but for its device: `to` does not move its points."""

    def __init__(self, denoiser: EmpiricalDenoiser):
        super().__init__()
        self.denoiser = denoiser
        self.trajectory = denoiser.trajectory  # so that `heun` takes its own way down

    def forward(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        """E[mu | x]."""
        return self.denoiser(x, sigma)
