"""How strong a Langevin correction, and how many? The predictor-corrector on a split that no table reports.

python -m benchmarks.corrector [--json] [--data digits] [--cache FOLDER]

Every signal-to-noise ratio and number of corrections at the same cost, 49 or 50 evaluations, and one correction at 999;
models of split 13, trained as `benchmarks.samplers` trains them.
"""

import torch
from benchmarks.common import show
from benchmarks.samplers import PLANS, Column, cached_arguments, row, trained
from tqdm import tqdm

from temperance.scorecard import yardstick
from temperance.trial import draw_sets

SPLIT = 13
SNR = (0.04, 0.08, 0.16, 0.32)
LEVELS = {0: 50, 1: 25, 2: 17, 3: 13}  # by number of corrections: equal evaluations
KEYS = ("nfe", "fd_heldout", "recall", "memorized_fraction", "converged")


def columns() -> dict[str, Column]:
    found: dict[str, Column] = {"ancestral alone": ("pc", LEVELS[0], {"correctors": 0})}
    for snr in SNR:
        for correctors in (1, 2, 3):
            name = f"snr {snr:g}, {correctors} corrections"
            found[name] = ("pc", LEVELS[correctors], {"snr": snr, "correctors": correctors})
        found[f"snr {snr:g}, 1 correction, 500 levels"] = ("pc", 500, {"snr": snr})
    return found


def main() -> None:
    options = cached_arguments(__doc__, data="digits", help_="digits or fashion").parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    plan = PLANS[options.data]
    train, heldout, encoder = draw_sets(plan.data, plan.n_train, plan.n_heldout, SPLIT, size=plan.size)
    against, rows = yardstick(train.tensor(), heldout.tensor(), encoder), []
    for objective in ("conditional", "unconditional"):
        model = trained(plan, objective, "mlp", SPLIT, against.train, options.cache)
        for name, column in tqdm(columns().items(), desc=objective, unit="row"):
            found = row(plan, model, column, SPLIT, against)
            rows.append({"objective": objective, "pc": name, **{key: found[key] for key in KEYS}})
    show({"data": options.data, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
