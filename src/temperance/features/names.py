"""From the text after `--encoder` to the encoder."""

from collections.abc import Callable
from difflib import get_close_matches

from temperance.features.classifier import Classifier
from temperance.features.efficientnet import efficientnet
from temperance.features.encoder import Encoder
from temperance.features.frequency import Dct, PHash
from temperance.features.inception import inception
from temperance.features.pixels import LowRes, Pixels
from temperance.features.torchscript import torchscript
from temperance.features.transformer import transformer

PLAIN: dict[str, Callable[[], Encoder]] = {
    "pixels": Pixels,
    "lowres": LowRes,
    "dct": Dct,
    "phash": PHash,
    "efficientnet": efficientnet,
}
FROM_FILE: dict[str, Callable[[str], Encoder]] = {
    "classifier": Classifier.load,
    "torchscript": torchscript,
    "transformers": transformer,
    "inception": inception,
}


def by_name(name: str) -> Encoder:
    """The encoder that `--encoder` names: one of `PLAIN`, or one of `FROM_FILE` followed by `:PATH`.

    Raises:
        ValueError: for another name, with the nearest known one; or if the file is missing or another one.
    """
    kind, colon, path = name.partition(":")
    if name in PLAIN:
        return PLAIN[name]()
    if kind in FROM_FILE and path:
        return FROM_FILE[kind](path)
    if kind in FROM_FILE:
        raise ValueError(f"the encoder {kind} needs a path: {kind}:PATH")
    known = [*PLAIN, *(f"{kind}:PATH" for kind in FROM_FILE)]
    near = get_close_matches(kind.lower(), [*PLAIN, *FROM_FILE], n=1)
    hint = f"did you mean {near[0]}{colon and ':PATH'}?" if near else "use one of these"
    raise ValueError(f"unknown encoder {name!r}; expected {', '.join(known[:-1])} or {known[-1]}; {hint}")
