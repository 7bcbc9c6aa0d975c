"""The methods that a study compares, each by the name that its rows carry.

A method is a recipe, training settings, and, for baselines, another objective or dropout; `guidance` other than 1 draws
with autoguidance by the last look at no more than a `share` of the steps; `start` is the width of a smoothed start. All
else is equal.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from temperance.autoguidance import SHARE, WEIGHT
from temperance.diagnostics import collapse_sigma
from temperance.distance import neighbors
from temperance.network import ResidualMlp
from temperance.objective import Objective
from temperance.recipe import Prepared, Recipe, prepare
from temperance.schedule import levels
from temperance.study.objectives import Band, Displaced, Floored, Literal, Mixing, Tangents

Change = Callable[[Prepared, Tensor], Objective]


@dataclass(frozen=True)
class Method:
    """How one method trains; empty for closed forms, which do not."""

    recipe: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    objective: Change | None = None
    dropout: float = 0.0
    guidance: float = 1.0
    share: float = SHARE
    start: str = ""
    closed: str = ""


def _of(name: str, ready: Prepared, points: Tensor) -> Any:
    """The objective of another recipe, with its own automatic settings."""
    return prepare(Recipe(objective=name, network=ready.recipe.network), points).objective


def _mixing(ready: Prepared, points: Tensor) -> Objective:
    return Displaced(Mixing(points, neighbors(points.flatten(1), 5)), ready.objective)


def _floored(ready: Prepared, points: Tensor) -> Objective:
    return Floored(_of("temperature", ready, points), collapse_sigma(points.flatten(1), size=3.0))


def _literal(ready: Prepared, points: Tensor) -> Objective:
    high, low = levels(ready.schedule, 2).tolist()
    return Literal(_of("temperature", ready, points), low, high)


def _everywhere(ready: Prepared, points: Tensor) -> Objective:
    return replace(_of("temperature", ready, points), sigma_collapse=math.inf)


def _blind_tangent(ready: Prepared, points: Tensor) -> Objective:
    return replace(_of("tangent", ready, points), told=False)


def _tempered_tangent(ready: Prepared, points: Tensor) -> Objective:
    """Images are displaced first; the tempered mean is taken over the neighborhoods of the training images."""
    return Displaced(Tangents(_of("tangent", ready, points)), _of("temperature", ready, points))


def _band(lower: float) -> Change:
    """Tangent smoothing above `lower` times the data's root mean square; training images themselves below."""

    def change(ready: Prepared, points: Tensor) -> Objective:
        return Band(
            Tangents(_of("tangent", ready, points)), ready.objective, lower * float(points.square().mean().sqrt())
        )

    return change


METHODS: dict[str, Method] = {
    "conditional": Method({"objective": "conditional"}),
    "unconditional": Method({"objective": "unconditional"}),
    "temperature": Method({"objective": "temperature"}),
    "tangent": Method({"objective": "tangent"}),
    **{f"temperature/T={t:g}": Method({"objective": "temperature", "temperature": t}) for t in (2.0, 8.0)},
    "temperature/everywhere": Method({"objective": "conditional"}, objective=_everywhere),
    "temperature/floor": Method({"objective": "conditional"}, objective=_floored),
    "temperature/literal": Method({"objective": "unconditional"}, objective=_literal),
    **{f"tangent/h={h:g}": Method({"objective": "tangent", "h": h}) for h in (0.3, 0.5, 1.0)},
    **{f"tangent/k={k}": Method({"objective": "tangent", "k": k}) for k in (5, 20)},
    "tangent/unconditional": Method({"objective": "unconditional"}, objective=_blind_tangent),
    "tangent/temperature": Method({"objective": "conditional"}, objective=_tempered_tangent),
    "tangent/band": Method({"objective": "conditional"}, objective=_band(0.5)),
    "conditional/mixing": Method({"objective": "conditional"}, objective=_mixing),
    "conditional/weight-decay": Method({"objective": "conditional"}, {"weight_decay": 1.0}),
    "conditional/dropout": Method({"objective": "conditional"}, dropout=0.2),
    "conditional/flips": Method({"objective": "conditional", "flips": True}),
    "conditional/augmented": Method({"objective": "conditional", "augment": 0.5}),
    "conditional/augmented-all": Method({"objective": "conditional", "augment": 1.0}),
    "conditional/augmented-all-by-third": Method({"objective": "conditional", "augment": 1.0, "augment_size": 1 / 3}),
    "conditional/augmented-guided": Method({"objective": "conditional", "augment": 0.5}, guidance=WEIGHT),
    "tangent/h=0.5-augmented": Method({"objective": "tangent", "h": 0.5, "augment": 0.5}),
    "conditional/started": Method({"objective": "conditional"}, start="matched"),
    "conditional/augmented-started": Method({"objective": "conditional", "augment": 0.5}, start="matched"),
    "conditional/augmented-all-started": Method({"objective": "conditional", "augment": 1.0}, start="matched"),
    "tangent/halved-exact-started": Method(
        {"objective": "tangent", "h": "halved", "targets": "exact"}, start="matched"
    ),
    "tangent/exact": Method({"objective": "tangent", "targets": "exact"}),
    "tangent/halved-exact": Method({"objective": "tangent", "h": "halved", "targets": "exact"}),
    "conditional/guided": Method({"objective": "conditional"}, guidance=WEIGHT),
    "tangent/guided": Method({"objective": "tangent"}, guidance=WEIGHT),
    "conditional/guided-by-half": Method({"objective": "conditional"}, guidance=WEIGHT, share=1 / 2),
    "tangent/guided-by-half": Method({"objective": "tangent"}, guidance=WEIGHT, share=1 / 2),
    "tangent/exact-guided-by-eighth": Method(
        {"objective": "tangent", "targets": "exact"}, guidance=WEIGHT, share=1 / 8
    ),
    "tangent/halved-exact-guided-by-eighth": Method(
        {"objective": "tangent", "h": "halved", "targets": "exact"}, guidance=WEIGHT, share=1 / 8
    ),
    "tangent/matched-exact-guided-by-eighth": Method(
        {"objective": "tangent", "h": "matched", "targets": "exact"}, guidance=WEIGHT, share=1 / 8
    ),
    "closed-form-empirical": Method(closed="empirical"),
    "closed-form-temperature": Method(closed="temperature"),
    "closed-form-tangent": Method(closed="tangent"),
    "closed-form-tangent/matched": Method({"h": "matched"}, closed="tangent"),
}


def trained_as(name: str) -> str:
    """The first method that trains as this one does; they may differ in how they sample."""
    wanted = _training(METHODS[name])
    return next(other for other, method in METHODS.items() if _training(method) == wanted)


def _training(method: Method) -> Method:
    return replace(method, guidance=1.0, share=SHARE, start="")


def add_dropout(network: nn.Module, p: float) -> None:
    """Give every residual block of a network a dropout of `p`; blocks that have one already take the new rate.

    Raises:
        ValueError: if the network has neither.
    """
    found = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    for layer in found:
        layer.p = p
    if found:
        return
    blocks = [block for m in network.modules() if isinstance(m, ResidualMlp) for block in m.blocks]
    if not blocks:
        raise ValueError(f"{type(network).__name__} has no place for dropout")
    for block in blocks:
        assert isinstance(block, nn.Sequential)
        block.append(nn.Dropout(p))
