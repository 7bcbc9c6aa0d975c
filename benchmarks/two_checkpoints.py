"""An idea against copying: an early checkpoint at high noise, where the image is chosen, a late one at low noise.

    python -m benchmarks.two_checkpoints [--quick]
    python -m benchmarks.two_checkpoints --data mnist5k --size 16 --heldout 1000 --seed 10 --early 400 --early 566 \
        --last 3200 --late tangent --batch-size 32

Early checkpoints are of plain training, the late one of plain training or of tangent smoothing: each alone, and each
early one above a level of noise with the late one below it.
"""

import copy

import torch
from benchmarks.common import draw_split, split_arguments
from torch import Tensor, nn

from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import heun
from temperance.scorecard import score
from temperance.train import Settings
from temperance.trial import draw

SAMPLES = 300
KEYS = ("memorized_fraction", "copy_auc", "fd_heldout", "precision", "recall")


def main() -> None:
    parser = split_arguments(__doc__, seed=100)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: shows that it runs")
    parser.add_argument("--early", type=int, action="append", help="steps; may be repeated (default: 500 and 1000)")
    parser.add_argument("--last", type=int, default=3000, help="steps of the late checkpoint")
    parser.add_argument("--late", choices=("conditional", "tangent"), default="conditional")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    early, last = [s // scale for s in options.early or (500, 1000)], options.last // scale
    torch.set_num_threads(1)
    train, against = draw_split(options)
    points = train.tensor()

    def judged(name: str, denoiser: object) -> None:
        drawn = draw(denoiser, schedule, heun, points.shape[1:], options.seed, range(SAMPLES))  # type: ignore[arg-type]
        row, _ = score(drawn.x.clamp(-1, 1), against)
        print(f"{name:40s} " + "  ".join(f"{key} {row[key]:.3g}" for key in KEYS), flush=True)

    def trained(objective: str, looks: list[int]) -> dict[int, nn.Module]:
        ready, kept = prepare(Recipe(objective=objective), points, seed=options.seed), {}

        def visit(step: int, model: Model) -> None:
            if step in looks:
                kept[step] = copy.deepcopy(model.denoiser).eval()
                judged(f"{objective}, step {step}", model.denoiser)

        settings = Settings(steps=max(looks), batch_size=options.batch_size, checkpoint_every=1, seed=options.seed)
        fit(ready, points, settings, progress=False, device="cpu", visit=visit)
        return kept

    schedule = prepare(Recipe(objective="conditional"), points).schedule
    kept = trained("conditional", [*early, last] if options.late == "conditional" else early)
    end = kept[last] if options.late == "conditional" else trained("tangent", [last])[last]
    for step in early:
        for level in (0.2, 0.4, 0.8):

            def denoiser(x: Tensor, sigma: Tensor, step: int = step, level: float = level) -> Tensor:
                return (kept[step] if float(sigma[0]) > level else end)(x, sigma)

            judged(f"{step} above {level}, then {options.late} {last}", denoiser)


if __name__ == "__main__":
    main()
