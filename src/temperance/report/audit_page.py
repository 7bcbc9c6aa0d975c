"""The page of an audit: one generated set, every figure beside its null."""

from collections.abc import Mapping
from typing import Any

from temperance.report import figures
from temperance.report.audit_tables import classes, measures, membership
from temperance.report.blocks import (
    Block,
    Distances,
    Figures,
    Measurement,
    Notes,
    Page,
    Report,
    Sign,
    Tile,
    at_most,
    between,
    number,
    percent,
)
from temperance.report.planted_block import planted_blocks
from temperance.report.render import facts, gallery

_SIGN = (
    "By signing, a reviewer states to have read the figures above with their nulls and intervals, what was tested and"
    " what was not, and to have compared the fingerprints under Provenance with those of the files in question."
)


_ATTACKED = "Whether one who holds the model can tell training images from unseen ones by how well it denoises them."
_NOT_ATTACKED = "The model itself: none was given, so nobody tried to tell its training images from unseen ones."


def audit_page(report: Report, *, title: str = "Does the generator hand back its training data?") -> Page:
    """The page of `temperance audit`: every measurement beside its null, the distances, the closest pairs."""
    tiles: list[Tile] = []
    blocks: list[Block] = []
    for i, (encoder, found) in enumerate(report.measurements.items()):
        tiles += _audit_tiles(encoder, found, report, len(report.measurements) > 1)
        blocks.append(measures(encoder, found, "heldout" in report.sizes))
        blocks += _audit_figures(encoder, report.distances[encoder], i)
        blocks += planted_blocks(encoder, report.planted.get(encoder), i)
        blocks.append(
            gallery(
                f"Closest pairs · {encoder}",
                "Each card: a generated image, its three nearest training images with their distances, and"
                " the absolute difference to the nearest one (black where they agree). Those of a moved or"
                " mirrored copy are of the image laid over its match.",
                report.pairs[encoder],
                report.sizes["generated"],
                show_difference=True,
            )
        )
        blocks += classes(encoder, report.classes.get(encoder, ()))
    blocks += membership(report.membership)
    blocks += [
        Notes("What was tested", (*report.tested, *((_ATTACKED,) if report.membership else ()))),
        Notes("What was not", (*(() if report.membership else (_NOT_ATTACKED,)), *report.untested), "warning"),
        facts(report.provenance),
        Sign("Signatures", _SIGN, ("Name", "Role", "Decision", "Date", "Signature")),
    ]
    if report.membership:
        auc = report.membership[0]
        detail = f"{between(auc.low, auc.high)} at 95 % · 0.5 gives nothing away"
        tiles.append(Tile(number(auc.value), "members told from non-members", detail))
    return Page(title, _audit_lede(report), tuple(tiles), tuple(blocks), "Temperance · audit")


def _audit_lede(report: Report) -> str:
    sizes = report.sizes
    text = f"{sizes['generated']} generated images were compared with all {sizes['train']} training images"
    if "heldout" not in sizes:
        same = _same(max(report.identical, key=report.identical.__getitem__, default=""), report)
        return (
            f"{text}{'; ' if same else ''}{same}. No held-out images were given. Images that equal a training image are"
            " listed; of the others, no number here can tell a near-copy from real data that merely look alike: give a"
            " held-out set to get p-values, the null of each figure, and distances to unseen data."
        )
    parts = [_verdict(encoder, found, report) for encoder, found in report.measurements.items()]
    again = next((null.get("heldout_copies", 0) for null in report.nulls.values() if null), 0)
    if again:
        parts.append(f"{again} equal held-out images: those are not new, and quality below is too good.")
    return f"{text}; {_null(report)} went through the same test as the null. {' '.join(parts)}"


def _null(report: Report) -> str:
    """Which real images the null was taken on: not those that are training images, unless most of them are."""
    held, seen = _held(report), _seen(report)
    if seen:
        return f"{held} held-out images, of which {seen} are training images,"
    return f"{held} real images that the model never saw"


def _held(report: Report) -> int:
    """How many held-out images the null was taken on."""
    return next((null["heldout"] for null in report.nulls.values() if null), report.sizes.get("heldout", 0))


def _seen(report: Report) -> int:
    """How many of those are training images; 0 where they were left out."""
    shared = next((null.get("identical_heldout", 0) for null in report.nulls.values() if null), 0)
    return shared if _held(report) == report.sizes.get("heldout") else 0


def _real(report: Report) -> str:
    """What to call the images of the null."""
    return "held-out" if _seen(report) else "unseen real"


def _verdict(encoder: str, found: Mapping[str, Measurement], report: Report) -> str:
    m, flagged = found["memorized_fraction"], report.flags.get(encoder)
    share = f"{percent(m.value)} are copies by d1/d2 ({_real(report)} images: {percent(m.null)})"
    if m.value == 0:
        share = f"0 of {m.n} are copies by d1/d2, so {at_most(m.n)} (3/n) with 95 % confidence"
    more = "" if flagged is None else f"; {flagged} {'is' if flagged == 1 else 'are'} closer than chance allows"
    if flagged == 0 and (blind := _blind(encoder, report)):
        more = f"; {blind} here"
    same = _same(encoder, report)
    return f"In {encoder}: {same}{'; ' if same else ''}{share}{more}."


def _same(encoder: str, report: Report) -> str:
    """How many are no question of distance."""
    identical = report.identical.get(encoder, 0)
    if identical == 0:
        return ""
    return f"{identical} equal{'s' if identical == 1 else ''} a training image, {_ways(encoder, report)}"


def _ways(encoder: str, report: Report) -> str:
    """In which ways an image may equal a training image to be counted: moved ones are looked for in pixels only."""
    if not report.provenance.get("settings", {}).get("moved", True):
        return "as it is"
    return "as it is, mirrored or moved" if encoder == "pixels" else "as it is or mirrored"


def _blind(encoder: str, report: Report) -> str:
    """How many images must be very close before one can be flagged, in words; nothing where one is enough."""
    fewest = (report.nulls.get(encoder) or {}).get("fewest_flags", 1)
    if fewest > report.sizes["generated"]:
        return "none can be flagged"
    return f"fewer than {fewest} cannot be flagged" if fewest > 1 else ""


def _audit_tiles(encoder: str, found: Mapping[str, Measurement], report: Report, several: bool) -> list[Tile]:
    m, where = found["memorized_fraction"], f" · {encoder}" if several else ""
    flagged, identical = report.flags.get(encoder), report.identical.get(encoder, 0)
    range95 = f"{between(m.low, m.high, percent)} at 95 %" if m.value else f"{at_most(m.n)} at 95 % (3/n)"
    null = "" if m.null is None else f" · {_real(report)} {percent(m.null)}"
    tiles = [Tile(percent(m.value), f"copied by d1/d2{where}", range95 + null)]
    if identical:
        same = Tile(f"{identical} of {m.n}", f"equal a training image{where}", _ways(encoder, report))
        tiles.insert(0, same)
    if flagged is not None:
        detail = (_blind(encoder, report) if flagged == 0 else "") or "flagged at the chosen rate"
        tiles.append(Tile(f"{flagged} of {m.n}", f"closer than chance allows{where}", detail))
    if "copy_auc" in found:
        tiles.append(
            Tile(
                number(found["copy_auc"].value),
                f"closer than {_real(report)}{where}",
                "0.5 is right, 1 is copying",
            )
        )
    return tiles


_AUDIT_DISTANCES = (
    "If nothing is copied, generated images are as far from the training set as unseen real ones: the"
    f" shapes agree, the curves coincide and the dots follow the diagonal. {figures.LEGEND}"
)


def _audit_figures(encoder: str, distances: Mapping[str, Distances], i: int) -> list[Block]:
    generated, null = distances["generated"], distances.get("heldout")
    far, near = (null.d1, null.ratio) if null else (None, None)
    shared: Any = {"series": i, "size": figures.PAIR}
    top = figures.distance_limit([generated.d1] if far is None else [generated.d1, far])
    shown = [
        figures.histogram(
            generated.d1,
            far,
            name=f"a{i}-d1",
            title="Distance to the nearest training image",
            xlabel="d1",
            limit=top,
            **shared,
        ),
        figures.ratio_histogram(
            generated.ratio,
            near,
            name=f"a{i}-ratio",
            title="How much one training image stands out",
            **shared,
        ),
        figures.cumulative(generated.d1, far, name=f"a{i}-ecdf", xlabel="d1", series=i),
    ]
    if far is not None:
        shown.append(figures.quantiles(generated.d1, far, name=f"a{i}-qq", xlabel="d1", series=i))
    caption = (
        _AUDIT_DISTANCES if far is not None else "Distances of the generated images; nothing to hold them against."
    )
    return [Figures(f"Distances · {encoder}", caption, tuple(shown), "pair")]
