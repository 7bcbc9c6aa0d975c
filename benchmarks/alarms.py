"""How often the audit is wrong where the truth is known: false alarms of a fitted tail, and intervals that miss.

    python -m benchmarks.alarms [--quick] [--json]     a minute; --quick: a tenth of the trials

Alarms: the share of trials in which something is flagged, at a rate of .05, though nothing is copied. Real digits, of
which some train, some are held out and the rest is judged, in pixels; emoji at 16x16, many of which have a near twin,
with 100, 300 and 500 held out, if they are installed; distances that follow a power law, few held out and many
judged; and such distances of which 1, 3 or 5 in a hundred are near twins'. Leaks: the share of trials in which more
than 1 % of the members are said to be recognized at 1 % of false alarms, though members and others are alike, with
10 to 100 others. Intervals, 95 %: how often KID's, from two blocks, holds the 0 that is true; how often those of the
FD ratio (1) and of KID (0) do for 50 images of few directions in each set; of copy AUC (.856) with 1,000 images of
one kind and 3 or 10 of the other; and that of a Frechet distance between digits in turns of their classes, as a
class-conditional model draws them.
"""

from statistics import NormalDist

import torch
from benchmarks.common import arguments, show
from torch import Generator, Tensor

from temperance import metrics as tm
from temperance.data import InputError, load
from temperance.distance import distinct, nearest
from temperance.report import Measurement

RATE = 0.05


def main() -> None:
    options = arguments()
    digits = load("digits", progress=False).tensor().flatten(1)
    trials = range(10 if options.quick else 100)
    found = {
        "alarms_digits": sum(alarm(*distances(digits, 700, 300, 790, seed)) for seed in trials) / len(trials),
        **emoji(trials),
        "alarms_power_law": sum(alarm(power_law(100, s), power_law(2000, 1000 + s)) for s in trials) / len(trials),
        **near_twins(range(3 * len(trials))),
        "kid_holds": sum(map(kid_holds, trials)) / len(trials),
        "fd_ratio_holds_few": sum(map(ratio_holds, trials)) / len(trials),
        "kid_holds_few": sum(holds(tm.kid(*few(seed)[:2]), 0) for seed in trials) / len(trials),
        **{f"leaks_told_{m}": sum(leak_told(m, seed) for seed in trials) / len(trials) for m in (10, 20, 50, 100)},
        **{f"copy_auc_holds_{m}": sum(auc_holds(m, seed) for seed in trials) / len(trials) for m in (3, 10)},
        **dict(zip(("frechet", "frechet_low", "frechet_high"), turns())),
    }
    show(found, options.json)


def alarm(heldout: Tensor, judged: Tensor) -> bool:
    null = tm.fit_null(heldout, len(judged), RATE)
    return bool(tm.benjamini_hochberg(null.p(judged), RATE).any())


def distances(x: Tensor, train: int, heldout: int, judged: int, seed: int) -> tuple[Tensor, Tensor]:
    """Distances of held-out and judged images to the training images, all different, split at random."""
    order = torch.randperm(len(x), generator=Generator().manual_seed(seed))[: train + heldout + judged]
    near = nearest(x[order[train:]], x[order[:train]], 1).distance[:, 0]
    return near[:heldout], near[heldout:]


def emoji(trials: range) -> dict[str, float]:
    """Alarms on 500 emoji beside 500 that train, by the number held out; nothing where there are none."""
    try:
        x = distinct(load("emoji", size=16, progress=False).tensor().flatten(1))
    except InputError:
        return {}
    return {
        f"alarms_emoji_{m}": sum(alarm(*distances(x, 500, m, 500, seed)) for seed in trials) / len(trials)
        for m in (100, 300, 500)
    }


def power_law(m: int, seed: int, power: float = 6.0) -> Tensor:
    return torch.rand(m, generator=Generator().manual_seed(seed), dtype=torch.float64) ** (1 / power)


def near_twins(trials: range) -> dict[str, float]:
    """Alarms where a few distances are near twins', by their percentage, the number held out and the number judged."""
    return {
        f"alarms_twins_{percent}_{m}_{n}": sum(
            alarm(*with_twins(m + n, percent / 100, seed).split([m, n])) for seed in trials
        )
        / len(trials)
        for percent in (1, 3, 5)
        for m, n in ((60, 100), (100, 100), (300, 1000))
    }


def with_twins(n: int, share: float, seed: int) -> Tensor:
    """Distances that follow a power law, but for a share whose logarithm spreads evenly down to that of a millionth."""
    which, exponent = torch.rand(2, n, generator=Generator().manual_seed(5000 + seed), dtype=torch.float64)
    return torch.where(which < share, 10 ** (-6 * exponent), power_law(n, seed))


def kid_holds(seed: int) -> bool:
    x, y = torch.randn(2, 60, 4, generator=Generator().manual_seed(seed))
    return holds(tm.kid(x, y, block=30), 0)


def holds(found: Measurement | None, truth: float) -> bool:
    assert found is not None and found.low is not None and found.high is not None
    return found.low <= truth <= found.high


def few(seed: int) -> Tensor:
    """Three sets of 50 rows of one source: 64 numbers that follow 8 directions but for a tenth."""
    mix = torch.randn(8, 64, generator=Generator().manual_seed(1))
    draw = Generator().manual_seed(1000 + seed)
    return torch.randn(3, 50, 8, generator=draw) @ mix + 0.1 * torch.randn(3, 50, 64, generator=draw)


def ratio_holds(seed: int) -> bool:
    x, train, heldout = few(seed)
    return holds(tm.fd_ratio(x, train, heldout), 1)


def leak_told(m: int, seed: int) -> bool:
    """Whether, with m unseen values of the same kind, more than 1 % are said to lie below what 1 % of these do."""
    draw = Generator().manual_seed(seed)
    return tm.share_below(torch.randn(500, generator=draw), torch.randn(m, generator=draw), 0.01)[1] > 0.01


def auc_holds(m: int, seed: int) -> bool:
    draw = Generator().manual_seed(seed)
    found = tm.copy_auc(torch.randn(1000, generator=draw) - 1.5, torch.randn(m, generator=draw))
    return holds(found, NormalDist().cdf(1.5 / 2**0.5))


def turns() -> list[float | None]:
    """Value and ends of the interval: 40 digits of each class in turns, against 40 others."""
    images = load("digits", progress=False)
    x, label = images.tensor().flatten(1), torch.from_numpy(images.labels)
    classes = [x[label == c][:80] for c in range(10)]
    drawn = torch.stack([own[:40] for own in classes], 1).flatten(0, 1)
    found = tm.frechet_distance(drawn, torch.cat([own[40:] for own in classes]))
    return [found.value, found.low, found.high]


if __name__ == "__main__":
    main()
