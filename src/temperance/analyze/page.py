"""The page of an analysis: the curves behind every suggested setting."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from temperance.data import Images
from temperance.diagnostics import WHEN_CUT, Width
from temperance.report import Facts, Figures, Notes, Page, Tile, curves, histogram

NAMED = 5  # pairs of near-duplicates that the page names


def page(
    images: Images,
    found: dict[str, Any],
    widths: tuple[Width, Width],
    own: Float[Tensor, " n"],
    unseen: Any,
    reading: Sequence[str],
) -> Page:
    """Lay out what `analysis.json` holds.

    Args:
        images: the training images.
        found: what is written to `analysis.json`.
        widths: the curves of h, of displaced images as they are and cut to the range of pixels.
        own: each training image's distance to the nearest other one.
        unseen: each held-out image's distance to the nearest training image, as an array; None: there are none.
        reading: the options with which the images were read.
    """
    lede = (
        f"{images.source}: {found['n']:,} images of {'x'.join(map(str, found['shape']))}. Below a noise level of"
        f" {found['sigma_collapse']:.2f}, the ideal diffusion model of this data knows single training images only."
    )
    facts = (("sha256", found["sha256"]), ("shape", str(found["shape"])), ("source", images.source))
    blocks = (
        _collapse(found),
        _spread(*widths),
        _closeness(own, unseen),
        _words(images.source, found, reading),
        Facts("Provenance", facts),
    )
    return Page("Before training: what this data set invites", lede, _tiles(found), blocks, "Temperance · analysis")


def _tiles(found: dict[str, Any]) -> tuple[Tile, ...]:
    s, pairs = found["suggested"], len(found["near_duplicates"])
    wider = ", ".join(f"{name} {s[f'h_{name}']:.2f}" for name in WHEN_CUT)
    twice = f"{found['duplicates']} of them exact duplicates; near-duplicates: {pairs} pairs"
    return (
        Tile(f"{found['n']:,}", "training images", twice),
        Tile(f"{found['sigma_collapse']:.2f}", "sigma_collapse", "below it, single images own the score"),
        Tile(f"{s['h']:.2f}", "tangent width h", f"k = {s['k']}; {wider}"),
        Tile(f"{s['temperature']:.2f}", "temperature strength", "T = max(strength / sigma, 1)"),
    )


def _collapse(found: dict[str, Any]) -> Figures:
    sigma, size = zip(*[(r["sigma"], r["effective_sample_size"]) for r in reversed(found["effective_sample_size"])])
    figure = curves(
        [("images that share the score", sigma, size, 0)],
        name="ess",
        xlabel="noise level sigma",
        ylabel="effective sample size",
        level=("1.5: single images take over", 1.5),
        log=(True, True),
    )
    return Figures(
        "Where sampling collapses",
        "How many training images share the exact score of a noisy image. Where the curve falls to 1, sampling can"
        " only return training images; a network that fits the score well does the same.",
        (figure,),
    )


def _spread(width: Width, cut: Width) -> Figures:
    figure = curves(
        [
            ("displaced images", width.candidates, width.nearer, 1),
            ("the same, cut to the range of pixels", cut.candidates, cut.nearer, 2),
        ],
        name="h",
        xlabel="tangent width h",
        ylabel="nearer to the others than an unseen one",
        level=("a half: as far as unseen images", 0.5),
    )
    return Figures(
        "How far to spread each image",
        "Tangent smoothing displaces each training image towards its neighbors. Too little, and it stays nearer to"
        " the training set than an unseen image would be; too much, and it is farther. Each training image stands"
        " in for an unseen one against all others. The automatic width is where neither is nearer; held-out data"
        " plays no part. Samples are cut to the range of pixels, which brings them back nearer; two more widths"
        " allow for it: halved (--h halved), where they are the nearer ones three times out of four, and matched,"
        " where they are half of the time; wider ones keep their distance and are less sharp.",
        (figure,),
    )


def _closeness(own: Float[Tensor, " n"], unseen: Any) -> Figures:
    figure = histogram(
        own.numpy(),
        unseen,
        name="d1",
        title="training images to one another",
        xlabel="distance to the nearest training image",
        limit=1.05 * max(float(own.max()), 0.0 if unseen is None else float(unseen.max()), 1e-6),
        of="training images",
    )
    outline = " Dashed outline: unseen real images to the nearest training image."
    return Figures(
        "How close images are",
        "Euclidean distances of pixels that run from -1 to 1. Filled: each training image to the nearest other one."
        + outline * (unseen is not None),
        (figure,),
    )


def _words(source: str, found: dict[str, Any], reading: Sequence[str]) -> Notes:
    s, factor = found["suggested"], found["expansion_factor"]["median"]
    settings = ["--objective", "tangent", "--k", str(s["k"]), "--h", f"{s['h']:.2g}"]
    command = shlex.join(["temperance", "train", source, "--out", "run", *reading, *settings])
    return Notes(
        "In words",
        (
            "At a quarter of sigma_collapse, one exact sampling step pulls two images that straddle a boundary"
            f" apart {factor if math.isfinite(factor) else 0:.3g}-fold; trained networks have 1 to 2.",
            f"Suggested: {command}",
            *_near(found["near_duplicates"]),
        ),
    )


def _near(pairs: list[dict[str, Any]]) -> tuple[str, ...]:
    """A word on near-duplicates, if there are any; analysis.json has all of them."""
    if not pairs:
        return ()
    named = ", ".join(f"{pair['image']} and {pair['of']}" for pair in pairs[:NAMED])
    more = f", and {len(pairs) - NAMED} more in analysis.json" if len(pairs) > NAMED else ""
    return (
        f"Near-duplicates, five times nearer to each other than to a tenth neighbor: {named}{more}. Keep one of each:"
        " with both, the width above comes out too small, and no look at d1/d2 can see a copy of them.",
    )
