"""How good the generated set is as a whole, beside real data's own score."""

from dataclasses import replace

import torch
from torch import Tensor

from temperance import metrics as tm
from temperance.auditing.views import Encoded
from temperance.report import Measurement


def fidelity(rows: dict[str, Encoded], limit: int, seed: int) -> dict[str, Measurement]:
    """Whole-set figures on equally many images of each set; real data's own score is the null."""
    size = min(limit, *(len(r) for r in rows.values()))
    if size < 2:
        return {}
    chosen = {key: _sample(r, size, seed) for key, r in rows.items()}
    x, train = chosen["generated"], chosen["train"]
    reference = chosen.get("heldout", train)
    fd_train = tm.frechet_distance(x, train)
    found = {"fd_train": replace(fd_train, name="fd_train"), "kid": tm.kid(x, reference)}
    found["mifid"] = tm.mifid(x, rows["train"], fd_train)
    fits = size > 5
    against = tm.quality(x, reference)._asdict() if fits else {}
    if "heldout" in chosen:
        floor = tm.frechet_distance(train, reference, interval=False)
        fd = replace(tm.frechet_distance(x, reference), name="fd_heldout", null=floor.value)
        found["fd_heldout"] = fd
        if fd.value > 0:
            found["fd_ratio"] = _fd_ratio(fd_train, fd)
        found["kid"] = tm.with_null(found["kid"], tm.kid(train, reference, interval=False))
        null = tm.quality(train, reference)._asdict() if fits else {}
        against = {key: tm.with_null(m, null[key]) for key, m in against.items()}
    return found | against


def _fd_ratio(fd_train: Measurement, fd_heldout: Measurement) -> Measurement:
    """Distance to train over distance to held-out, at equal sizes: 1 where the generator leans to neither."""
    value = fd_train.value / fd_heldout.value
    return Measurement("fd_ratio", value, None, None, fd_train.n, None, "ratio of the two", 1.0)


def _sample(rows: Encoded, size: int, seed: int) -> Tensor:
    return rows[tm.subsample(torch.arange(len(rows))[:, None].double(), size, seed)[:, 0].long()]
