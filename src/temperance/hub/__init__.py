"""Everything diffusers: its UNet as a denoiser, and models as folders that diffusers can open.

`unet` and `networks` make what is trained, `model` is what a sampler takes, `about`, `scheduler`, `folder` and
`foreign` are what is on disk.
"""

from temperance.hub.about import ABOUT, described
from temperance.hub.folder import load, save
from temperance.hub.model import Model
from temperance.hub.networks import kind_of, new_denoiser, new_network
from temperance.hub.scheduler import process_of
from temperance.hub.unet import Unet, read_unet

__all__ = [
    "ABOUT",
    "Model",
    "Unet",
    "described",
    "kind_of",
    "load",
    "new_denoiser",
    "new_network",
    "process_of",
    "read_unet",
    "save",
]
