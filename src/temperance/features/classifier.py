"""A small network trained on the labels of the data at hand, for the features before its last layer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.nn import functional

from temperance.features.local import write_tensors

FEATURES = 64  # width of the classifier's penultimate layer: full-rank covariance from some hundreds of images


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
        write_tensors(Path(path), dict(self.network.state_dict()), {"classifier": json.dumps(about)})

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
    images, labels = images.float(), torch.as_tensor(labels)
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
