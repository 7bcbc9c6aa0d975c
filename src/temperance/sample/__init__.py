"""Samplers: generators that walk a batch of noise down to images, for any denoiser.

Each yields the batch after every step, so `*_, x = heun(denoiser, x, sigmas)` is the whole loop. `integrate` adds what
a report needs: how many evaluations it took, and whether the noise is really gone. Every random number belongs to one
sample index (`Noise`), so image i depends only on (seed, i), never on the batch it was drawn in.

With preset levels, one step for each pair of neighbors in `sigmas`: `heun`, `dpm_solver`, `ancestral`,
`predictor_corrector`. At the level that the denoiser itself sees, until that is down to `sigmas[-1]`: `adaptive`,
`nesterov`, `annealed`. All work in sigma space, x = mu + sigma eps, whatever process a model was trained on.
"""

from temperance.sample.adaptive import adaptive
from temperance.sample.ancestral import ancestral
from temperance.sample.annealed import annealed
from temperance.sample.dpm_solver import dpm_solver
from temperance.sample.heun import heun
from temperance.sample.integrate import CONVERGED, NotConverged, Samples, integrate
from temperance.sample.named import SAMPLERS, SELF_PACED, STEPS, Walk, usual, walk
from temperance.sample.nesterov import nesterov
from temperance.sample.noise import FRESH, Noise
from temperance.sample.predictor_corrector import predictor_corrector
from temperance.sample.projected import Project, projected
from temperance.sample.sampler import Sampler, Start, Walker, residual

__all__ = [
    "CONVERGED",
    "FRESH",
    "SAMPLERS",
    "SELF_PACED",
    "STEPS",
    "Noise",
    "NotConverged",
    "Project",
    "Sampler",
    "Samples",
    "Start",
    "Walk",
    "Walker",
    "adaptive",
    "ancestral",
    "annealed",
    "dpm_solver",
    "heun",
    "integrate",
    "nesterov",
    "predictor_corrector",
    "projected",
    "residual",
    "usual",
    "walk",
]
