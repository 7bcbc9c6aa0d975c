"""Vision transformers from a local folder: DINOv2, CLIP, and whatever `transformers` can open as an image model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.features.local import as_rgb, present, sha256, squared_up

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Transformer:
    """A loaded model with its own resizing and normalization; the name holds the start of its weights' sha256.

    Attributes:
        network: the model.
        name: what a report calls it.
        side: of the square its images are brought to.
        mean: of its training images' channels, in [0, 1].
        std: of the same.
        pooled: whether its pooled output is trained; if not, the first token is taken.
    """

    network: nn.Module
    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pooled: bool

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Resize the whole image (bicubic, no crop), normalize, encode: CLIP's image embedding, else the pooled output.

        Raises:
            ValueError: if there are not 1 or 3 channels.
        """
        device = next(self.network.parameters()).device
        x = (squared_up(as_rgb(images.float(), self.name), self.side, "bicubic").to(device) + 1) / 2
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.std))
        x = (x - mean) / std
        embed: Any = getattr(self.network, "get_image_features", None)
        if embed is not None:
            found = embed(pixel_values=x)
            return found if isinstance(found, Tensor) else found.pooler_output
        found = self.network(pixel_values=x)
        return found.pooler_output if self.pooled else found.last_hidden_state[:, 0]


def transformer(folder: str | Path, device: str | torch.device = "cpu") -> Transformer:
    """Load a model folder as `save_pretrained` writes it: `config.json`, `*.safetensors`, `preprocessor_config.json`.

    Only safetensors are read, no code in the folder is run, and no connection is made.

    Raises:
        ValueError: if `transformers` is not installed, the folder is incomplete, or weights are missing in it.
    """
    advice = (
        "get config.json, preprocessor_config.json and model.safetensors of a vision model (facebook/dinov2-base,"
        " openai/clip-vit-base-patch32) on a connected machine, compare the sha256 shown there, and copy the folder"
    )
    path = present(folder, "transformers", advice)
    weights = sorted(path.glob("*.safetensors"))
    if not weights or not (path / "config.json").exists():
        raise ValueError(f"{path} lacks config.json or *.safetensors; {advice}")
    network, missing = _load(path)
    if any("pooler" not in key for key in missing):
        raise ValueError(f"{path} lacks weights of the model, {sorted(missing)[0]} first; copy the complete folder")
    side, mean, std = _preprocessing(path)
    name = f"transformers-{path.resolve().name}-{sha256(*weights)[:12]}"
    return Transformer(network.eval().requires_grad_(False).to(device), name, side, mean, std, not missing)


def _load(path: Path) -> tuple[nn.Module, set[str]]:
    """The model, and the weights that the folder lacks (they would be random)."""
    try:
        from transformers import AutoModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("the encoder transformers is not installed: pip install -e '.[transformers]'") from error
    try:
        network, about = AutoModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be opened by transformers: {str(error).splitlines()[0][:160]}") from error
    return network, set(about["missing_keys"])


def _preprocessing(path: Path) -> tuple[int, Any, Any]:
    """Side, mean and std: from preprocessor_config.json, or the model's own size and 0.5."""
    file = path / "preprocessor_config.json"
    about = json.loads(file.read_text()) if file.exists() else {}
    config = json.loads((path / "config.json").read_text())
    size = about.get("crop_size") or about.get("size") or config.get("vision_config", config).get("image_size", 224)
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge", 224))
    mean, std = (tuple(map(float, about.get(key, HALF))) for key in ("image_mean", "image_std"))
    return int(size), mean, std
