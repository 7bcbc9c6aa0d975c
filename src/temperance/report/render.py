"""From a page to a file: the template, pictures as data URIs, the size limit, and writes that cannot be half done."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from temperance.atomic import write_bytes
from temperance.report.blocks import COPY_RATIO, Card, Facts, Gallery, Page, Pair, number

LIMIT = 5_000_000  # bytes of a page
SHOWN = 12  # cards of a gallery, on the pages that are made here
EDGE = 96  # longest edge of a thumbnail, in pixels


def picture(image: UInt8[ndarray, "h w c"]) -> str:
    """A PNG data URI. Small images keep their pixels (the page magnifies them), large ones are reduced."""
    from PIL import Image

    drawn = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    if max(drawn.size) > EDGE:
        drawn.thumbnail((EDGE, EDGE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def difference(a: UInt8[ndarray, "h w c"], b: UInt8[ndarray, "h w c"]) -> UInt8[ndarray, "h w c"]:
    """|a - b|, in gray levels: black where the two images agree."""
    return np.abs(a.astype(np.int16) - b.astype(np.int16)).astype(np.uint8)


def card(pair: Pair, *, show_difference: bool) -> Card:
    """The generated image, its neighbors, their distances, and optionally the difference to the nearest.

    "identical" means equal pixels, as they are or in the view that is named.
    """
    pictures = [(picture(pair.image), f"Generated image {pair.generated}", "generated")]
    over, source = pair.image if pair.over is None else pair.over, pair.neighbors[0].image
    same = np.array_equal(over, source)
    if show_difference:
        gap = difference(over, source)
        pictures.append((picture(gap), "Difference between the two, black where they agree", "difference"))
    for rank, near in enumerate(pair.neighbors, 1):
        alt = f"Training image {near.name}, rank {rank}, distance {number(near.distance)}"
        pictures.insert(rank, (picture(near.image), alt, number(near.distance)))
    moved = pair.view != "as it is"  # then every distance on the card is of the image moved, but the ratio is not
    facts = [("d1/d2 as it is" if moved else "d1/d2", number(pair.ratio)), ("match distance", number(pair.distance))]
    if pair.p_value is not None:
        facts.append(("p", number(pair.p_value)))
    if moved:
        facts.append(("view", pair.view))
    facts.append(("image", pair.generated))
    facts.append(("nearest", pair.neighbors[0].name))
    flag = "identical" if same else "flagged" if pair.flagged else "copy" if pair.ratio < COPY_RATIO else ""
    return Card(tuple(pictures), tuple(facts), flag)


def gallery(
    title: str,
    caption: str,
    pairs: Sequence[Pair],
    total: int,
    *,
    series: int | None = None,
    show_difference: bool = False,
) -> Gallery:
    """A gallery block from pairs, in the order given (worst first)."""
    cards = tuple(card(p, show_difference=show_difference) for p in pairs)
    return Gallery(title, caption, cards, total, series)


def facts(provenance: Mapping[str, Any], title: str = "Provenance") -> Facts:
    """Nested names and values as one flat block."""
    return Facts(title, tuple(_flat(provenance)))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix} · {key}" if prefix else str(key)
        found += _flat(item, name) if isinstance(item, Mapping) else [(name.replace("_", " "), _plain(item))]
    return found


def _plain(item: Any) -> str:
    if isinstance(item, (list, tuple)):
        return ", ".join(map(str, item)) or "none"
    return str(item)


def html(page: Page, *, limit: int = LIMIT) -> str:
    """The page as one self-contained document below `limit` bytes; galleries are shortened from their ends to fit.

    Raises:
        ValueError: if the page is too large even without pictures.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # our own SVG; every other text is escaped
    template = environment.get_template("page.html")
    while True:
        text = template.render(page=page)
        size = len(_encoded(text))
        if size <= limit:
            return text
        if not any(isinstance(b, Gallery) and b.cards for b in page.blocks):
            raise ValueError(f"the page holds {size} bytes without pictures, the limit is {limit}")
        page = replace(page, blocks=tuple(_shorter(b) if isinstance(b, Gallery) else b for b in page.blocks))


def _shorter(block: Gallery) -> Gallery:
    return replace(block, cards=block.cards[: int(len(block.cards) * 0.8)])


def write_text(path: Path, text: str) -> Path:
    """Write a file in one step: a reader sees the old content or the new one, never a part.

    Raises:
        OSError: if the folder cannot be made or written.
    """
    write_bytes(path, _encoded(text))
    return path


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a file's name need not be UTF-8


def write_json(path: Path, data: Any) -> Path:
    """Write JSON in one step; NaN and infinity become null, because JSON has neither."""
    return write_text(path, json.dumps(_finite(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def write_page(page: Page, path: Path) -> Path:
    """Render a page and write it in one step."""
    return write_text(path, html(page))
