"""How good the generated set is as a whole, beside real data's own score."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.views import Encoded
from temperance.distance import duplicates
from temperance.report import Measurement

FEWEST = 20  # of each set for neighborhoods and likelihoods: on fewer, recall comes out too high, and fld has no null
LIKELIHOOD = 2_000  # rows of each set that enter the figures that cost n^2 in float64 many times over


def fidelity(rows: dict[str, Encoded], limit: int, seed: int) -> dict[str, Measurement]:
    """Whole-set figures on equally many images of each set; real data's own score is the null.

    Equal rows of the real sets count as one: of two references the one that repeats itself would lie farther away, and
    have a null of its own. What a model repeats is its own doing, and stays.
    """
    first = {key: torch.arange(len(r)) if key == "generated" else duplicates(r).unique() for key, r in rows.items()}
    size = min(limit, *map(len, first.values()))
    if size < 2:
        return {}
    x, train = (_sample(rows[key], first[key], size, seed) for key in ("generated", "train"))
    fd_train = tm.frechet_distance(x, train)
    found = {"fd_train": replace(fd_train, name="fd_train"), "kid_train": replace(tm.kid(x, train), name="kid_train")}
    found["mifid"] = tm.mifid(x, rows["train"], fd_train)
    # After the costliest step.
    heldout = _sample(rows["heldout"], first["heldout"], size, seed) if "heldout" in rows else None
    found["vendi"] = tm.vendi_score(*(_few(v, seed) for v in (x, train if heldout is None else heldout)))
    if heldout is not None:
        return found | _against_heldout(x, train, heldout, found, rows["train"], seed)
    return found | {"kid": replace(found["kid_train"], name="kid")} | _quality(x, train)


def _against_heldout(
    x: Tensor, train: Tensor, heldout: Tensor, found: dict[str, Measurement], all_train: Encoded, seed: int
) -> dict[str, Measurement]:
    """What takes held-out images: distances to them, and the nulls of the distances to the training images."""
    floor = replace(tm.frechet_distance(heldout, train), name="fd_floor")
    same = tm.kid(heldout, train, interval=False)
    fd = tm.with_null(replace(tm.frechet_distance(x, heldout), name="fd_heldout"), floor)
    ratio = tm.fd_ratio(x, train, heldout, (found["fd_train"], fd))
    null = _quality(train, heldout)
    against = {
        "fd_train": tm.with_null(found["fd_train"], floor),
        "fd_heldout": fd,
        "fd_floor": floor,
        "fd_ratio": ratio,
        "kid_train": tm.with_null(found["kid_train"], same),
        "kid": tm.with_null(tm.kid(x, heldout), same),
        "mifid": tm.with_null(found["mifid"], tm.mifid(heldout, all_train, floor)),
        "dcr_share": tm.dcr_share(x, train, heldout),
        "fld": _likelihood(x, train, heldout, seed),
    }
    quality = {key: tm.with_null(m, null[key]) for key, m in _quality(x, heldout).items()}
    return {key: m for key, m in against.items() if m is not None} | quality


def _quality(x: Tensor, reference: Tensor) -> dict[str, Measurement]:
    """Precision, recall, density and coverage, where the sets are large enough for neighborhoods."""
    return tm.quality(x, reference)._asdict() if len(x) >= FEWEST else {}


def _likelihood(x: Tensor, train: Tensor, heldout: Tensor, seed: int) -> Measurement | None:
    """FLD, where the sets are large enough and their rows differ."""
    if len(train) < FEWEST or any(bool((v == v[0]).all()) for v in (train, heldout)):
        return None
    return tm.fld(*(_few(v, seed) for v in (x, train, heldout)))


def _few(rows: Tensor, seed: int) -> Tensor:
    return tm.subsample(rows, LIKELIHOOD, seed)  # not the first ones: sets come sorted by class


def _sample(rows: Encoded, among: Int[Tensor, " m"], size: int, seed: int) -> Float[Tensor, "size f"]:
    return rows[tm.subsample(among[:, None].double(), size, seed)[:, 0].long()]
