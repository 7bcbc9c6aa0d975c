"""Constraints on what is sampled."""

from collections.abc import Callable

from torch import Tensor

from temperance.denoiser import Denoiser

Project = Callable[[Tensor], Tensor]


def projected(denoiser: Denoiser, project: Project) -> Denoiser:
    """A denoiser whose every estimate of the clean image is put through `project` first.

    A constraint speaks of images, and a sampler's state is an image plus noise: so it is D that is projected, at
    every step. Every sampler contracts towards D, and so onto the constraint: projected gradient ascent.
    """

    def call(x: Tensor, sigma: Tensor | None) -> Tensor:
        denoised = denoiser(x, sigma)
        found = project(denoised)
        if found.shape != denoised.shape:
            raise ValueError(f"project must keep the shape {tuple(denoised.shape)}, got {tuple(found.shape)}")
        return found

    return call
