"""What a study runs: every method at every size, on every split, with the same steps and the same looks."""

from dataclasses import dataclass

from temperance.recipe import OBJECTIVES
from temperance.study.cell import Cell
from temperance.study.methods import METHODS

OVER = {"steps": OBJECTIVES, "n": ("conditional", "tangent"), "strength": tuple(METHODS)}
QUICK = OVER | {
    "strength": (
        "conditional",
        *(name for name in METHODS if name.startswith(("temperature/T=", "tangent/h=")) and "augmented" not in name),
    )
}
LOOKS = 8  # times a run is looked at over its steps, the last one at its end


@dataclass(frozen=True)
class Plan:
    """The grid of a study.

    Attributes:
        data: training images. Where `heldout` names the same set, it is split by the seed.
        over: steps (every objective, at LOOKS steps), n (conditional and tangent at an eighth, a quarter, a half
            and all of n_train) or strength (all variants of every method).
        methods: names of METHODS; empty for those that `over` asks for.
        steps: optimizer steps of every run.
        seeds: each is another split, initialization and noise.
    """

    data: str
    heldout: str
    over: str = "steps"
    methods: tuple[str, ...] = ()
    n_train: int = 100
    n_heldout: int = 700
    n_samples: int = 500
    steps: int = 6000
    batch_size: int = 128
    grid: int = 20
    size: int | None = None
    channels: int | None = None
    on_bad: str = "error"
    network: str = "auto"
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if self.over not in OVER:
            raise ValueError(f"--over must be one of {', '.join(OVER)}, got {self.over!r}")
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}; expected some of {', '.join(METHODS)}")
        least = {"n_train": 12, "n_heldout": 12, "n_samples": 12, "steps": LOOKS, "batch_size": 1, "grid": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.seeds:
            raise ValueError("at least one seed is needed")


def cells(plan: Plan) -> list[Cell]:
    """Every training run of a plan, closed forms last.

    Raises:
        ValueError: if a method asks for more neighbors than there are images.
    """
    names = tuple(dict.fromkeys(plan.methods)) or OVER[plan.over]
    sizes = sorted({max(12, plan.n_train // part) for part in (8, 4, 2, 1)}) if plan.over == "n" else [plan.n_train]
    for name in names:
        k = METHODS[name].recipe.get("k", 0)
        if k >= sizes[0]:
            raise ValueError(f"{name} needs more than {k} images, got {sizes[0]}; give more, or leave it out")
    found = [
        Cell(
            data=plan.data, heldout=plan.heldout, method=name, n_train=n, n_drawn=plan.n_train,
            n_heldout=plan.n_heldout, n_samples=plan.n_samples, steps=0 if METHODS[name].closed else plan.steps,
            looks=() if METHODS[name].closed else looks(plan.steps), batch_size=plan.batch_size, grid=plan.grid,
            size=plan.size, channels=plan.channels, on_bad=plan.on_bad, network=plan.network, seed=seed,
        )
        for seed in plan.seeds for n in sizes for name in names
    ]  # fmt: skip
    return sorted(found, key=lambda c: c.steps == 0)


def looks(steps: int) -> tuple[int, ...]:
    """Steps at which a run is sampled: each 1.41 times the one before, the last one at the end."""
    return tuple(sorted({max(1, round(steps / 2 ** (i / 2))) for i in range(LOOKS)}))
