"""The model behind the generated images, as the plain denoiser that the membership test asks."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from temperance.atomic import read_json
from temperance.data import Images, InputWarning
from temperance.denoiser import Denoiser


def denoiser_of(folder: str | Path, train: Images) -> Denoiser:
    """The denoiser of a run or a model folder, checked against the training images.

    Warns where a run says that it was trained on other images: its members are then not those that are asked about.

    Raises:
        ValueError: if the folder holds no model, the images are of another size, or the model is class-conditional.
    """
    from temperance import hub  # loads diffusers, which an audit of images does without

    model = hub.load(Path(folder))
    height, width, channels = train.pixels.shape[1:]
    if tuple(model.shape) != (channels, height, width):
        raise ValueError(
            f"--model {folder} makes images of (channels, height, width) {tuple(model.shape)} and train holds"
            f" {(channels, height, width)}; load the sets with the size and channels of the model"
        )
    known = Path(folder) / "env.json"
    if known.is_file() and read_json(known).get("train_sha256") not in (None, train.fingerprint):
        text = f"--model {folder} was trained on other images than {train.source}: the membership test is not about it"
        warnings.warn(text, InputWarning, stacklevel=2)
    if model.classes:
        raise ValueError(f"--model {folder} is class-conditional; the membership test covers models without classes")

    def denoise(x: Tensor, sigma: Tensor | None) -> Tensor:
        with torch.inference_mode():
            return model.denoiser(x, sigma if model.told else None)

    return denoise
