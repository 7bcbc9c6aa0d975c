"""Feature spaces: what turns images into rows whose distances mean something, and the cache of those rows.

No encoder is best everywhere: EfficientNet finds better same-class neighbors among color photographs, plain
pixels on MNIST. A Frechet distance in any of these spaces is a Frechet distance of that space, never "FID", but for
`inception`. Weights come from installed packages or from files the user names; nothing is ever fetched.
"""

from temperance.features.classifier import Classifier, train_classifier
from temperance.features.efficientnet import EfficientNet, efficientnet
from temperance.features.encoder import Encoder, Function
from temperance.features.encoding import encode
from temperance.features.frequency import Dct, PHash
from temperance.features.inception import Inception, inception
from temperance.features.names import by_name
from temperance.features.pixels import LowRes, Pixels
from temperance.features.torchscript import TorchScript, torchscript
from temperance.features.transformer import Transformer, transformer

__all__ = [
    "Classifier",
    "Dct",
    "EfficientNet",
    "Encoder",
    "Function",
    "Inception",
    "LowRes",
    "PHash",
    "Pixels",
    "TorchScript",
    "Transformer",
    "by_name",
    "efficientnet",
    "encode",
    "inception",
    "torchscript",
    "train_classifier",
    "transformer",
]
