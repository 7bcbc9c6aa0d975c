"""An idea against copying: one checkpoint at high noise, where the image is chosen, another one at low noise.

    python -m benchmarks.two_checkpoints [--quick]
    python -m benchmarks.two_checkpoints --data mnist5k --size 16 --heldout 1000 --seed 10 --early 400 --early 566 \
        --last 3200 --late tangent --batch-size 32
    python -m benchmarks.two_checkpoints --data emoji --size 16 --heldout 1000 --early 800 --early 1131 --last 1600 \
        --late tangent --above late --level .3 --level 1 --level 3 --batch-size 32 --seed 10

Early checkpoints are of plain training, the late one of plain training or of tangent smoothing: each alone, the mean of
each early one and the late one, and each early one above a level of noise with the late one below it, or below it with
the late one above.
"""

import copy

import torch
from benchmarks.common import draw_split, judge, split_arguments
from torch import Tensor, nn

from temperance.denoiser import Denoiser
from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.train import Settings


def main() -> None:
    parser = split_arguments(__doc__, seed=100)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: shows that it runs")
    parser.add_argument("--early", type=int, action="append", help="steps; may be repeated (default: 500 and 1000)")
    parser.add_argument("--last", type=int, default=3000, help="steps of the late checkpoint")
    parser.add_argument("--late", choices=("conditional", "tangent"), default="conditional")
    parser.add_argument("--above", choices=("early", "late"), default="early", help="the one at high noise")
    parser.add_argument("--level", type=float, action="append", help="may be repeated (default: .2, .4 and .8)")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    early, last = [max(1, s // scale) for s in options.early or (500, 1000)], max(1, options.last // scale)
    torch.set_num_threads(1)
    train, against = draw_split(options)
    points = train.tensor()

    def judged(name: str, denoiser: Denoiser) -> None:
        judge(name, denoiser, schedule, against, options.seed)

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
        high, low = (kept[step], end) if options.above == "early" else (end, kept[step])
        for level in options.level or (0.2, 0.4, 0.8):
            switched = _switched(high, low, level)
            judged(f"{step} and {options.late} {last}, {options.above} above {level:g}", switched)
        judged(f"{step} and {options.late} {last}, mean", _mean(high, low))


def _switched(high: nn.Module, low: nn.Module, level: float) -> Denoiser:
    def denoiser(x: Tensor, sigma: Tensor | None) -> Tensor:
        assert sigma is not None  # both are told the noise level
        return (high if float(sigma[0]) > level else low)(x, sigma)

    return denoiser


def _mean(one: nn.Module, other: nn.Module) -> Denoiser:
    def denoiser(x: Tensor, sigma: Tensor | None) -> Tensor:
        return (one(x, sigma) + other(x, sigma)) / 2

    return denoiser


if __name__ == "__main__":
    main()
