"""How near unseen images lie to training images, beside how near these lie to one another: 0.5 where alike.

    python -m benchmarks.spacing [--quick]      the sets of the studies, splits 10 to 13, pixels

The chance that an unseen image lies nearer to the training set than a training image to the others;
`on_copying=prevent` takes it for one half.
"""

import argparse

import torch

from temperance.data import Images, load, split, unlike
from temperance.metrics import copy_auc, proximity

SETS = (  # data, size, training images, unseen images, where these are taken from if not from the data
    ("digits", None, 100, 700, None),
    ("digits", None, 300, 700, None),
    ("mnist5k", 16, 100, 1000, None),
    ("emoji", 16, 100, 1000, None),
    ("emoji", 32, 100, 1000, None),
    ("fashion", 16, 300, 1000, "fashion/test"),
    ("fashion", 16, 1200, 1200, "fashion/test"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits only")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    for data, size, n, m, other in SETS[: 2 if quick else None]:
        images = load(data, size=size, progress=False)
        apart = images if other is None else load(other, size=size, progress=False)
        found = [spacing(*drawn(images, apart, n, m, seed)) for seed in range(10, 14)]
        print(f"{data} {n} {size or ''}".ljust(18), *(f"{value:.2f}" for value in found), flush=True)


def drawn(images: Images, apart: Images, n: int, m: int, seed: int) -> tuple[Images, Images]:
    """Training images, and unseen ones that are none of them."""
    if apart is images:
        train, unseen, _ = split(images, (n, m, len(images) - n - m), seed)
        return train, unlike(unseen, train)
    train, _ = split(images, (n, len(images) - n), seed)
    others = unlike(apart, train)
    return train, split(others, (m, len(others) - m), seed)[0]


def spacing(train: Images, unseen: Images) -> float:
    """The chance that an unseen image lies nearer to the training images than one of these to the others."""
    rows, others = train.tensor().flatten(1), unseen.tensor().flatten(1)
    return float(copy_auc(proximity(others, rows).distance, proximity(rows, rows).second).value)


if __name__ == "__main__":
    main()
