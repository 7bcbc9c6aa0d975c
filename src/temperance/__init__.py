"""Temperance: diffusion models that do not hand back their training data.

Public names are loaded on first use, so that `import temperance` stays light.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "empirical": "Posterior Tangent best_level denoise noise_conditional noise_unconditional "
    "paper_temperature score tangent",
    "distance": "Neighbors duplicates nearest neighbors",
    "schedule": "Edm Flow Schedule Ve Vp edm_for levels",
    "denoiser": "Denoiser",
    "objective": "Augmented ExactTangent IndexedDataset Labeled NoiseConditional NoiseUnconditional Objective "
    "TangentSmoothed Target TemperatureSmoothed Weighted loss native predict",
    "sample": "Noise NotConverged Samples adaptive ancestral annealed dpm_solver heun integrate nesterov "
    "predictor_corrector projected",
    "diagnostics": "collapse_sigma dominance effective_sample_size expansion_factor suggest_h suggest_k "
    "suggest_temperature",
    "engine": "EmpiricalDenoiser neighbor_table",
    "autoguidance": "Autoguided",
    "network": "Blind Parameterized Preconditioned ResidualMlp",
    "data": "Images InputError",
    "features": "Pixels efficientnet encode train_classifier",
    "guard": "Guard",
    "report": "Measurement Report",
    "start": "SmoothedStart smoothed_start",
    "streaming": "CopyMetric",
    "auditing": "audit",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'temperance' has no attribute {name!r}")
    return getattr(import_module(f"temperance.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
