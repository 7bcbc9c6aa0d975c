"""Where samples come from: a run, a model folder, or the closed form of the images themselves."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temperance import hub
from temperance.data import Images
from temperance.hub import Model
from temperance.recipe import closed_form
from temperance.schedule import edm_for


def open_model(source: str) -> Model:
    """A run or model folder by its path.

    Raises:
        ValueError: if there is no such folder or it holds no model.
    """
    if not Path(source).is_dir():
        raise ValueError(
            f"{source} is not a folder; give a run of `temperance train`, a diffusers folder, or --closed-form"
        )
    return hub.load(Path(source))


def closed_form_model(images: Images, name: str) -> Model:
    """A training-free model: the closed-form denoiser of the images themselves."""
    points = images.tensor()
    shape = (points.shape[1], points.shape[2], points.shape[3])
    denoiser = _Closed(closed_form(points, name))
    return Model(denoiser, edm_for(points.flatten(1)), shape, {"closed_form": name, "source": images.source})


class _Closed(torch.nn.Module):
    """A closed form in the place of a network."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        return self.denoiser(x, sigma)
