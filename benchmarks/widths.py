"""Widths and neighbors of tangent smoothing, judged before any training: python -m benchmarks.widths [--data digits].

For every k and h: how often a displaced training image is nearer to the training set than an unseen one would be, as it
is and cut to the range of pixels (`suggest_h`'s curves, training images alone; in bold the widths that they put: auto
at 1/2 of the first, halved and matched at 3/4 and 1/2 of the second), and what held-out images say of 500 displaced
images that were cut: what a network that learned them perfectly would draw.
"""

import numpy as np
import torch
from benchmarks.common import draw_split, say, split_arguments

from temperance.diagnostics import PIXELS, WHEN_CUT, suggest_h
from temperance.distance import neighbors
from temperance.engine import displaced
from temperance.scorecard import score

SHOWN = ("memorized_fraction", "copy_auc", "fd_heldout", "recall", "precision")


def main() -> None:
    parser = split_arguments(__doc__)
    parser.add_argument("--k", type=int, action="append", help="instead of 10 and 20; may be repeated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, against = draw_split(options)
    points = train.tensor()
    flat = points.flatten(1)
    say(f"{options.data}: {len(flat)} images, split {options.seed}")
    print(f"| k | h | nearer than unseen | cut | {' | '.join(SHOWN)} | floor |\n|{'---|' * (len(SHOWN) + 5)}")
    for k in options.k or (10, 20):
        table = neighbors(flat, k)
        width, cut = suggest_h(flat, table), suggest_h(flat, table, span=PIXELS)
        named = (width.h, *map(cut.at, WHEN_CUT.values()))
        for h in (*named, *width.candidates):
            generator = torch.Generator().manual_seed(0)
            row = torch.randint(len(flat), (500,), generator=generator)
            z = torch.randn(500, k, generator=generator) / k**0.5
            drawn = displaced(flat[row], flat, table.index[row], h * z)
            nearer, matched = (np.interp(h, w.candidates, w.nearer) for w in (width, cut))
            found, _ = score(drawn.reshape(-1, *points.shape[1:]).clamp(-1, 1), against)
            name = f"**{h:.2f}**" if h in named else f"{h:.2f}"
            figures = " | ".join(f"{found[key]:.2f}" for key in SHOWN)
            print(f"| {k} | {name} | {nearer:.2f} | {matched:.2f} | {figures} | {found['fd_floor']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
