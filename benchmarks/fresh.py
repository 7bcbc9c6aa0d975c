"""What is said of new real images, of which nothing should be said: python -m benchmarks.fresh [--quick] [--json].

* `flagged`: by an audit at a false discovery rate of .05, in four spaces, of as many new images as are held out.
* `fld`: of new images over random splits of digits: its mean, and how often its interval holds 0; beside them copies of
  the training set, one half of them copies, and every image twice.
* `guard`: share of near-copies (noise .02) and of new images that a guard of rate .05 refuses, its held-out images as
  they are, and with 30 training images among them.
"""

import torch
from benchmarks.common import arguments, say, show

from temperance.auditing import audit
from temperance.data import Images, InputError, load, split
from temperance.features import Pixels, by_name
from temperance.guard import Guard
from temperance.metrics import fld

SPACES = ("pixels", "lowres", "dct", "phash")


def flagged(name: str, train: int, rest: int) -> dict:
    """How many of `rest` new images an audit flags, by space."""
    sets = split(load(name, progress=False), (train, rest, rest), 0)
    spaces = [Pixels() if space == "pixels" else by_name(space) for space in SPACES]
    report = audit(sets[0], sets[2], sets[1], encoders=spaces, quality_limit=2)
    return {"data": name, "train": train, "new": rest, **report.flags}


def likelihood(n: int, splits: int) -> dict:
    """FLD of new digits and of copies, in pixels; n images in each set."""
    digits = load("digits", progress=False)
    kinds: dict[str, list] = {"new": [], "copies": [], "half_copies": [], "twice": []}
    for seed in range(splits):
        train, heldout, new = (s.tensor().flatten(1) for s in split(digits, (n, n, n), seed))
        half = n // 2
        kinds["new"].append(fld(new, train, heldout))
        if seed < 5:
            kinds["copies"].append(fld(train, train, heldout))
            kinds["half_copies"].append(fld(torch.cat([new[:half], train[half:]]), train, heldout))
            kinds["twice"].append(fld(torch.cat([new[:half], new[:half]]), train, heldout))
    row: dict = {"n": n, "splits": splits}
    for kind, found in kinds.items():
        row[kind] = sum(m.value for m in found) / len(found)
    row["zero_inside"] = sum(m.low <= 0 <= m.high for m in kinds["new"])
    return row


def guarded(leaked: int) -> dict:
    """What a guard refuses, with some training images among its held-out ones."""
    train, heldout, new = split(load("digits", progress=False), (300, 600, 600), 0)
    pixels = torch.from_numpy(heldout.pixels)
    unseen = torch.cat([torch.from_numpy(train.pixels[:leaked]), pixels]).numpy()
    guard = Guard.calibrate(train, Images(unseen), rate=0.05)
    noise = 0.02 * torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    refused = {"near_copies": train.tensor() * 0.99 + noise, "new": new.tensor()}
    return {"leaked": leaked, **{k: float(guard.look(x).refused.float().mean()) for k, x in refused.items()}}


def main() -> None:
    options = arguments()
    sets = [("digits", 300, 700)] if options.quick else [("digits", 300, 700), ("fashion[:5200]", 1200, 2000)]
    rows = []
    for name, train, rest in sets:
        say(f"auditing {rest} new images of {name}")
        try:
            rows.append(flagged(name, train, rest))
        except InputError as error:
            say(f"left out: {error}")
    sizes = ((50, 5),) if options.quick else ((50, 20), (100, 20), (500, 10))
    result = {"flagged": rows, "fld": [likelihood(*size) for size in sizes], "guard": [guarded(0), guarded(30)]}
    show(result, options.json)


if __name__ == "__main__":
    main()
