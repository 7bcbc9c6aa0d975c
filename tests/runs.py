"""Short training runs, in this process, for tests of several files."""

from pathlib import Path

from temperance.data import load
from temperance.run.settings import Given
from temperance.run.training import train_run

IMAGES, UNSEEN = load("digits[:30]"), load("digits[100:180]")
DEFAULTS = {"objective": "tangent", "k": 4, "steps": 12, "batch_size": 8, "seed": 0, "lr": 1e-3}


def run(out, *assignments, config=None, **options):
    return train_run(
        IMAGES,
        out,
        Given(DEFAULTS, config, assignments=assignments),
        resume=False,
        progress=False,
        device="cpu",
        **options,
    )


def weights(out: Path) -> bytes:
    return (out / "model" / "mlp" / "model.safetensors").read_bytes()
