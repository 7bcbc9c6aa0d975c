"""Any network that was saved as TorchScript."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.features.local import present, sha256


@dataclass(frozen=True, eq=False)
class TorchScript:
    """A loaded network; the name holds the start of its file's sha256."""

    network: nn.Module
    name: str
    device: str | torch.device

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Hand the images over as they are, float32 in [-1, 1]; the network must return [n, f]."""
        return self.network(images.float().to(self.device))


def torchscript(path: str | Path, device: str | torch.device = "cpu") -> TorchScript:
    """Load a network saved with `torch.jit.save`: images [n, c, h, w] in [-1, 1] in, [n, f] out.

    A TorchScript file is a program with its weights. Load files that you made or trust, as you would run a script.

    Raises:
        ValueError: if there is no such file, or it is not TorchScript.
    """
    advice = "save one with torch.jit.trace(network, example).save(path); its sha256 becomes part of the name"
    file = present(path, "torchscript", advice)
    digest = sha256(file)
    return TorchScript(load_script(file, device), f"torchscript-{file.stem}-{digest[:12]}", device)


def load_script(file: Path, device: str | torch.device) -> nn.Module:
    """The network in a TorchScript file, ready to evaluate.

    Raises:
        ValueError: if the file is not TorchScript.
    """
    try:
        with warnings.catch_warnings():
            # PyTorch moves to torch.export; the published weights and most saved encoders are in this format.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(file), map_location=device)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ValueError(f"{file} is not a TorchScript file ({reason}); write one with torch.jit.save") from error
    return network.eval()
