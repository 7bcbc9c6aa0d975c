"""The tables of an audit's page: every figure beside its interval and its null, by class, and the membership test."""

from collections.abc import Mapping, Sequence

from temperance.report.blocks import (
    Block,
    Cell,
    Class,
    Column,
    Measurement,
    Row,
    Table,
    at_most,
    between,
    number,
    percent,
)

COPYING, WHOLE = "Copying", "Quality and variety of the whole set"

# name: heading, plain sentence; in the order shown
MEASURES: dict[str, dict[str, tuple[str, str]]] = {
    COPYING: {
        "memorized_fraction": (
            "Copied",
            "Share of images at least three times closer to one training image than to any other.",
        ),
        "memorized_adaptive": (
            "Copied, threshold from real data",
            "The same below what 1 % of unseen real images stay below; of fewer than 100, the lowest.",
        ),
        "ratio_median": (
            "Typical d1/d2",
            "Nearest over second nearest distance of the middle image; should equal real data's.",
        ),
        "copy_auc": (
            "Closer than real",
            "Chance that a generated image is closer to the training set than an unseen real one.",
        ),
        "dcr_share": (
            "Nearer to training",
            "Share of images nearer to a training image than to an unseen one, of equally many.",
        ),
        "ct_score": (
            "Copying test (CT)",
            "Standard score of being farther than unseen data; below -3: copies (see the flags) or blur (see recall).",
        ),
        "authpct": (
            "Authentic, %",
            "Images farther from their nearest training image than its own neighbors are.",
        ),
        "extracted_fraction": (
            "Extracted",
            "Share of images whose pixels differ from a training image by at most a tenth of the range.",
        ),
        "eidetic_k": (
            "Rarest extracted",
            "Training images that look like the rarest one extracted; 1: it stands alone.",
        ),
        "mifid": (
            "MiFID",
            "Frechet distance to the training set, made worse when the images lie very close to it.",
        ),
        "fd_ratio": (
            "FD ratio",
            "Distance to training images over distance to unseen ones; below 1 leans to the training set.",
        ),
    },
    WHOLE: {
        "fd_heldout": (
            "FD to unseen",
            "Frechet distance to unseen real images: how far off the set is as a whole.",
        ),
        "fd_train": ("FD to training", "The same distance to the training images; copies score well here."),
        "fd_floor": ("FD floor", "Unseen real images against training images: what real data score."),
        "kid": (
            "KID to unseen",
            "A second whole-set distance, free of the bias that small sets give the Frechet distance.",
        ),
        "kid_train": ("KID to training", "The same to the training images; copies score well here."),
        "fld": (
            "FLD",
            "How badly unseen images fit the generated ones; copying, low quality and lost variety all raise it.",
        ),
        "precision": ("Precision", "Share of generated images that look like real ones."),
        "recall": ("Recall", "Share of real images that the generated ones come close to: variety."),
        "density": ("Density", "How thickly real images surround the generated ones; about 1 for real data."),
        "coverage": ("Coverage", "Share of real images with a generated one in their neighborhood."),
        "vendi": ("Vendi", "Effective number of different images; should reach real data's."),
    },
}
_SHARES = ("memorized_fraction", "memorized_adaptive", "extracted_fraction", "dcr_share")
CLASSES = 50  # rows of a table by class: a folder for each person makes thousands, and report.json has them all
_DIRECTION = {True: "higher", False: "lower", None: "as real"}

_VALUE = Column("Value", "The figure for the generated images.")
_INTERVAL = Column(
    "95 % interval",
    "The range that holds the true figure with 95 % confidence, where one can be given. For precision, recall, density"
    " and coverage it is the range for other images of the one set, with the other set as it is.",
)
_NULL = Column(
    "Real data",
    "The null: the same figure for real images. For copying, unseen images against the training set; for quality, the"
    " training images against the unseen ones.",
)


def measures(encoder: str, found: Mapping[str, Measurement], heldout: bool) -> Table:
    """Every measurement of one encoder: copying first, then the set as a whole."""
    reference = "unseen real images" if heldout else "training images (no held-out set)"
    size = f"{found['fd_train'].n:,} images of each set" if "fd_train" in found else "equally many images of each set"
    rows = []
    for group, names in MEASURES.items():
        shown = [(names[name], found[name]) for name in names if name in found and (heldout or name != "kid")]
        rows += [_measure(about, m, group if i == 0 else "") for i, (about, m) in enumerate(shown)]
    return Table(
        f"Measurements · {encoder}",
        f"Quality is measured against {reference}, on {size}. Images are compared as {encoder} features.",
        (
            Column("Measurement", "What is measured, in one sentence.", text=True),
            _VALUE,
            _INTERVAL,
            _NULL,
            Column("Better", "Which direction is better; “as real” where real data's own figure is right."),
            Column("Source", "Where the definition comes from.", text=True),
        ),
        tuple(rows),
    )


def _measure(about: tuple[str, str], m: Measurement, group: str) -> Row:
    write = percent if m.name in _SHARES else number
    most = f"{at_most(m.n)} (3/n)" if m.name == "memorized_fraction" and m.value == 0 else ""
    cells = (
        Cell(*about),
        Cell(write(m.value), f"0 of {m.n:,}" if most else ""),
        Cell(between(m.low, m.high, write) or "–", most),
        Cell(write(m.null)),
        Cell(_DIRECTION[m.higher_is_better]),
        Cell(m.source),
    )
    return Row(cells, group=group)


def classes(encoder: str, rows: Sequence[Class]) -> list[Block]:
    """Copying by class of the training set, of many classes the worst; nothing where it has no classes."""
    if not rows:
        return []
    shown, left = rows, ""
    if len(rows) > CLASSES:
        shown = sorted(rows, key=_most)[:CLASSES]
        left = f" Those with most copies or flags, then the largest; {len(rows) - CLASSES:,} others are left out here."
    return [
        Table(
            f"By class · {encoder}",
            "A generated image counts for the class of its nearest training image, a flag for the class of the image"
            " that was matched; nothing has to be known about the generated one. Intervals are wide where there are"
            f" few.{left}",
            (
                Column("Class", "Label of the training images.", text=True),
                Column("Training images", "How many training images have this label."),
                Column("Generated", "How many generated images lie nearest to one of them."),
                Column("Copied", "Share of these that are copies of one training image (d1/d2 below 1/3)."),
                Column("95 % interval", "The range that holds the true share with 95 % confidence."),
                Column("Real data", "The same share among unseen real images nearest to this class."),
                Column("Flagged", "How many images that match one of them are closer than chance allows."),
            ),
            tuple(Row(_class(row)) for row in shown),
        )
    ]


def _most(row: Class) -> tuple[float, int]:
    """Sorts by the number of copies or of flags, whichever is larger, then by size, largest first."""
    copies = 0.0 if row.copied is None else row.copied.value * row.generated
    return -max(copies, float(row.flagged or 0)), -row.train


def _class(row: Class) -> tuple[Cell, ...]:
    m = row.copied
    most = "" if m is None or m.value else f"{at_most(m.n)} (3/n)"
    return (
        Cell(row.label),
        Cell(f"{row.train:,}"),
        Cell(f"{row.generated:,}"),
        Cell("–" if m is None else percent(m.value)),
        Cell("–" if m is None else between(m.low, m.high, percent), most),
        Cell("–" if m is None else percent(m.null)),
        Cell("–" if row.flagged is None else str(row.flagged)),
    )


def membership(found: Sequence[Measurement]) -> list[Block]:
    """What an attacker who holds the model can tell; nothing where no model was given."""
    if not found:
        return []
    auc, tpr, *levels = found
    rows = [
        Row(
            (
                Cell(
                    "Members told apart",
                    "Chance that a training image scores as a member before an unseen one.",
                ),
                Cell(number(auc.value)),
                Cell(between(auc.low, auc.high)),
                Cell(number(auc.null)),
                Cell(auc.source),
            )
        ),
        Row(
            (
                Cell("Recognized at 1 % false alarms", "Share of training images recognized at that price."),
                Cell(percent(tpr.value)),
                Cell(between(tpr.low, tpr.high, percent)),
                Cell(percent(tpr.null)),
                Cell(tpr.source),
            )
        ),
    ]
    rows += [
        Row(
            (
                Cell(m.name.capitalize().replace(" at ", " at sigma ")),
                Cell(number(m.value)),
                Cell(between(m.low, m.high)),
                Cell(number(m.null)),
                Cell(""),
            ),
            group="" if i else "Each score by itself (the largest of several is an optimistic choice)",
        )
        for i, m in enumerate(levels)
    ]
    return [
        Table(
            "Membership test",
            "The model was asked twice per image and noise level, with and without noise, how well it restores the"
            " image. A model that denoises its training images better than unseen ones gives them away, even if no"
            " sample is a copy. Unseen images are the non-members.",
            (
                Column("Test", text=True),
                _VALUE,
                _INTERVAL,
                Column("No leak", "The figure of a model that leaks nothing."),
                Column("Source", "Where the attack comes from.", text=True),
            ),
            tuple(rows),
        )
    ]
