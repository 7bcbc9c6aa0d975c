"""The Inception features that published FID figures are computed in, from a file that the user has."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.features.local import as_rgb, present, sha256
from temperance.features.torchscript import load_script

FILE = "inception-2015-12-05.pt"  # TorchScript of TensorFlow's 2015 Inception, published with StyleGAN2-ADA
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@dataclass(frozen=True, eq=False)
class Inception:
    """The pool features of Inception-v3 as TensorFlow published it in 2015: 2048 numbers an image."""

    network: nn.Module
    device: str | torch.device
    name: str = "inception"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Round to 8 bits, repeat gray to RGB, and let the network resize to 299x299 itself, as for published figures.

        Raises:
            ValueError: if there are not 1 or 3 channels.
        """
        pixels = ((as_rgb(images, self.name) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return self.network(pixels.to(self.device), return_features=True)


def inception(path: str | Path, device: str | torch.device = "cpu", *, expected: str = SHA256) -> Inception:
    """Load the weights from a local copy of `inception-2015-12-05.pt`, if its sha256 is the published one.

    Args:
        path: the file, or a folder that holds it.
        device: where to compute.
        expected: the sha256 that the file must have.

    Raises:
        ValueError: if the file is not there, or is another one.
    """
    advice = (
        f"get {FILE} (TorchScript, 96 MB, published with StyleGAN2-ADA) on a connected machine and copy it here; its"
        f" sha256 must be {SHA256}"
    )
    file = present(path, "inception", advice)
    file = present(file / FILE, "inception", advice) if file.is_dir() else file
    digest = sha256(file)
    if digest != expected:
        raise ValueError(f"{file} has sha256 {digest}, not {expected}; its figures would not compare: get {FILE}")
    return Inception(load_script(file, device), device)
