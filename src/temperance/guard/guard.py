"""Judging samples, and drawing again what is refused."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from temperance.atomic import write_bytes
from temperance.data import Images, among, to_uint8
from temperance.denoiser import expand
from temperance.distance import duplicates
from temperance.features import Dct, Encoder, LowRes, Pixels, by_name
from temperance.guard.index import ROWS, Index, compared, index_of
from temperance.guard.views import View, views_of
from temperance.metrics import block_rows, nearest_rows, proximity
from temperance.report import COPY_RATIO
from temperance.sample import FRESH

ATTEMPTS = 10  # draws of one image before it is withheld
MOST = 16  # draws of one image whose noise no other image shares: see `temperance.sample.FRESH`
PICTURES = (Pixels, LowRes, Dct)  # spaces whose features can be looked at
MARGIN = 1.02  # how far beyond the threshold an image is guided


class Verdict(NamedTuple):
    """What a guard says about each image."""

    refused: Bool[Tensor, " batch"]
    closeness: Float[Tensor, " batch"]  # distance to the nearest training image over the threshold: refused below 1
    index: Int[Tensor, " batch"]  # pyright: ignore[reportIncompatibleMethodOverride]  # that training image
    view: Int[Tensor, " batch"]  # the view in which it was found: its place in `Guard.views`


class Near(NamedTuple):
    """The nearest training image of each sample, over some views."""

    distance: Float[Tensor, " batch"]
    index: Int[Tensor, " batch"]  # pyright: ignore[reportIncompatibleMethodOverride]
    view: Int[Tensor, " batch"]


class Guarded(NamedTuple):
    """Images that went past a guard."""

    x: Float[Tensor, "batch c h w"]
    passed: Bool[Tensor, " batch"]  # False: refused at every attempt, to be withheld
    stream: list[int]  # the noise index that each image was drawn from in the end
    refused: int  # draws that were refused, in all


class Thresholds(NamedTuple):
    """Distances below which a sample is refused: of the whole image, and of its middle, which may have moved."""

    whole: float
    inner: float = 0.0


def _shape(images: Images | Index) -> tuple[int, int, int]:
    height, width, channels = (
        (*images.shape[1:], images.shape[0]) if isinstance(images, Index) else images.pixels.shape[1:]
    )
    return channels, height, width


class Guard:
    """Refuses samples that are near-copies of training images.

    Distances: Euclidean between pixels in [-1, 1]; in any other encoder's space between centered, normalized features
    (0 to 2). The whole sample and its mirror image are held against the training images; and, with a threshold for
    it, every part of it that a shift of up to `shift` pixels leaves inside, against the middles of the training images.
    Exact copies, also mirrored ones, are refused by their hash whatever the threshold.

    Args:
        train: the training images, or an `Index` of them.
        encoder: the space of the distances.
        threshold: refuse what is closer: a number, or `Thresholds`. None is the uncalibrated rule, d1/d2 < 1/3 (Yoon
            2023) of the sample as it is. `Guard.calibrate` finds thresholds from held-out images.
        shift: the largest shift in pixels, along both axes, at which a copy is looked for.
        rate: the false-refusal rate behind the threshold, for reports.

    Raises:
        ValueError: if the index was made by another encoder, or there are fewer than two images.

    Cost of a look: 2 + 2 (2 shift + 1)^2 encodings of each image and a search among n rows for each.
    """

    def __init__(
        self,
        train: Images | Index,
        encoder: Encoder | None = None,
        threshold: float | Thresholds | None = None,
        *,
        shift: int = 2,
        rate: float | None = None,
    ):
        self.encoder = Pixels() if encoder is None else encoder
        self.index = train if isinstance(train, Index) else index_of(train, self.encoder, shift)
        self.threshold = Thresholds(float(threshold)) if isinstance(threshold, float | int) else threshold
        self.rate = rate
        if self.index.encoder != self.encoder.name:
            raise ValueError(f"the index was made with {self.index.encoder}, got encoder {self.encoder.name}")
        if len(self.index) < 2:
            raise ValueError(f"a guard needs at least 2 training images, got {len(self.index)}")
        if self.threshold is not None and not all(t >= 0 and math.isfinite(t) for t in self.threshold):
            raise ValueError(f"threshold must be a distance >= 0, got {threshold}")

    @staticmethod
    def calibrate(
        train: Images | Index,
        heldout: Images,
        encoder: Encoder | None = None,
        rate: float = 0.01,
        *,
        shift: int = 2,
        progress: bool = False,
    ) -> "Guard":
        """A guard that refuses at most a share `rate` of new real images.

        Half of the rate goes to whole images, half to moved ones (all of it to whole ones if shift is 0). Each
        threshold is the floor(share (m + 1))-th smallest distance of the m held-out images: a conformal quantile (Vovk
        et al. 2005; arXiv 2104.08279). The rate holds on average over draws of the held-out images, if they and the new
        ones are drawn alike; it says nothing about how many copies are found. Held-out images that are training images,
        as they are or mirrored, are not unseen and are left out.

        Raises:
            ValueError: if the held-out images have another shape, are too few for the rate, or too many of them lie on
                training images.
        """
        if not 0 < rate < 1:
            raise ValueError(f"rate must be between 0 and 1, got {rate}")
        ours, theirs = (_shape(train), _shape(heldout))
        if ours != theirs:
            raise ValueError(f"held-out images are {theirs}, the guard's {ours}; set --size or --channels")
        guard = Guard(train, encoder, Thresholds(0.0, 0.0), shift=shift, rate=rate)
        share = rate / 2 if shift else rate
        unseen = np.flatnonzero(~among(heldout.pixels, guard._known, mirrored=True))
        rank = math.floor(share * (len(unseen) + 1) + 1e-9)
        if rank < 1:
            dropped = len(heldout) - len(unseen)
            raise ValueError(
                f"heldout holds {len(unseen)} images{f' beside {dropped} of the training set' if dropped else ''}; a "
                f"false-refusal rate of {rate:g} needs at least {math.ceil(1 / share - 1 - 1e-9)}: give more images or "
                "a higher rate"
            )
        parts = tqdm(
            range(0, len(unseen), 64),
            desc="calibrating the guard",
            unit="batch",
            file=sys.stderr,
            disable=not progress,
        )
        found = [[near.distance for near in guard.nearest(heldout[unseen[s : s + 64]].tensor())] for s in parts]
        guard.threshold = Thresholds(*(float(torch.cat(kind).sort().values[rank - 1]) for kind in zip(*found)))
        if min(guard.threshold[: len(found[0])]) == 0:
            raise ValueError(
                f"{rank} or more of {len(unseen)} held-out images lie on training images in {guard.encoder.name}, as "
                "they are or moved: no distance tells a copy from a new image; give other held-out images or encoder"
            )
        return guard

    @cached_property
    def views(self) -> list[View]:
        """The sample whole, its parts that a shift may have left, and the mirror images of all."""
        return views_of(*self.index.shape[1:], self.index.shift)

    @cached_property
    def _group(self) -> Int[Tensor, " n"]:
        return duplicates(self.index.whole)

    @cached_property
    def _known(self) -> set[bytes]:
        return {row.tobytes() for row in self.index.digests.numpy()}

    @torch.no_grad()
    def look(self, x: Float[Tensor, "batch c h w"]) -> Verdict:
        """Judge images as they are written: what a sampler leaves outside [-1, 1] is clamped.

        Raises:
            ValueError: if they have another shape than the training images.
        """
        if tuple(x.shape[1:]) != self.index.shape:
            raise ValueError(
                f"images must be {self.index.shape}, as the guard's, got {tuple(x.shape[1:])}; set --size or --channels"
            )
        x = x.clamp(-1, 1)
        known = self._is_known(x)
        if self.threshold is None:
            near = proximity(self.rows(x), self.index.whole, self._group)
            return Verdict(
                (near.ratio < COPY_RATIO) | known, near.ratio / COPY_RATIO, near.index, torch.zeros_like(near.index)
            )
        found = self.nearest(x)
        closeness = torch.stack(
            [near.distance / t if t > 0 else near.distance + torch.inf for near, t in zip(found, self.threshold)]
        )
        best = closeness.argmin(0)[None]
        index, view = (
            torch.stack([getattr(near, name) for near in found]).gather(0, best)[0] for name in ("index", "view")
        )
        closest = closeness.gather(0, best)[0]
        return Verdict((closest < 1) | known, closest, index, view)

    @torch.no_grad()
    def nearest(self, x: Float[Tensor, "batch c h w"]) -> list[Near]:
        """The nearest training image of each sample over its whole views, then over its inner ones."""
        kinds = (False, True) if self.index.shift else (False,)
        return [self._nearest(x.clamp(-1, 1), inner) for inner in kinds]

    def _nearest(self, x: Tensor, inner: bool) -> Near:
        chosen = [i for i, view in enumerate(self.views) if view.inner == inner]
        points = self.index.inner if inner else self.index.whole
        parts = []
        rows = block_rows(math.prod(self.index.shape), ROWS)
        for some in x.split(max(1, rows // len(chosen))):
            found = nearest_rows(self.rows(torch.cat([self.views[i].see(some) for i in chosen])), points, 1)
            distance, best = found.distance.reshape(len(chosen), len(some)).min(0)
            index = found.index.reshape(len(chosen), len(some)).gather(0, best[None])[0]
            parts.append(Near(distance, index, torch.tensor(chosen)[best]))
        return Near(*(torch.cat(column) for column in zip(*parts)))

    def rows(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        """Features as they are compared; gradients flow through."""
        return compared(self.encoder(x).cpu(), self.index.center, self.encoder)

    @property
    def leads_away(self) -> bool:
        """Whether `away` can be used: the encoder has a gradient."""
        with torch.enable_grad():
            x = torch.zeros(1, *self.index.shape, requires_grad=True)
            return self.threshold is not None and self.rows(x).requires_grad

    def _is_known(self, x: Tensor) -> Bool[Tensor, " batch"]:
        return torch.from_numpy(among(to_uint8(x), self._known, mirrored=True))

    def away(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """One gradient step away from the nearest training image, for the images that would be refused.

        The step's length is what takes the distance, to first order, just beyond the threshold. A constraint for
        `temperance.sample.projected`. An image exactly on a training image has no direction and stays. It leaves the
        copy by the least change: prefer fresh draws where they can be had.

        Raises:
            ValueError: if the guard has no threshold.
        """
        if self.threshold is None:
            raise ValueError("guiding away needs a distance: calibrate the guard on held-out images")
        verdict = self.look(x)
        close = (verdict.closeness < 1).nonzero()[:, 0]
        out = x.clone()
        for v in verdict.view[close].unique().tolist():
            rows = close[verdict.view[close] == v]
            out[rows] = self._stepped(x[rows].clamp(-1, 1), self.views[v], verdict.index[rows])
        return out

    def _stepped(self, x: Tensor, view: View, index: Tensor) -> Tensor:
        assert self.threshold is not None
        goal = (self.index.inner if view.inner else self.index.whole)[index]
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            distance = (self.rows(view.see(leaf)) - goal).norm(dim=1)
            (slope,) = torch.autograd.grad(distance.sum(), leaf)
        gap = MARGIN * (self.threshold.inner if view.inner else self.threshold.whole) - distance.detach()
        size = slope.flatten(1).square().sum(1)
        step = torch.where(size > 1e-12, gap / size.clamp(min=1e-12), 0)
        return x + expand(step, x) * slope

    def draw(
        self, draw: Callable[..., Tensor], index: Sequence[int], *, attempts: int = ATTEMPTS, guide: bool = False
    ) -> Guarded:
        """Draw images until none is refused, each at most `attempts` times.

        Args:
            draw: images [len(index), c, h, w] in [-1, 1] for a list of noise indices: `integrate` with
                `Noise(seed, index)`, or `temperance.pipeline.drawer` of a diffusers pipeline. With `guide`, it is also
                given `project=`, the constraint to pass on to `integrate`.
            index: the noise indices of the first attempt. Attempt k uses index + k * FRESH, so image i still depends on
                (seed, i) alone.
            attempts: the bound; what is refused every time is marked, never returned silently.
            guide: draw a refused image again from the same noise, kept away from training images on its way
                (`away`), before fresh noise is tried.
        """
        if not 1 <= attempts <= MOST:
            raise ValueError(f"attempts must be between 1 and {MOST}, got {attempts}")
        stream = list(index)
        x = draw(stream)
        passed = ~self.look(x).refused
        refused = int((~passed).sum())
        for attempt in range(1, attempts):
            bad = (~passed).nonzero()[:, 0].tolist()
            if not bad:
                break
            again = [index[i] + (attempt - guide) * FRESH for i in bad]
            new = draw(again, project=self.away) if guide else draw(again)
            good = ~self.look(new).refused
            x[bad], passed[bad] = new, good
            for i, used in zip(bad, again):
                stream[i] = used
            refused += int((~good).sum())
        return Guarded(x, passed, stream, refused)

    def save(self, path: str | Path) -> None:
        """Write the guard as one safetensors file: features, hashes and threshold, no images. 4 f + 32 bytes an image.

        Features are not anonymous: with the encoder at hand they tell what an image looks like. Treat the file as
        you treat the model.

        Raises:
            ValueError: in a space of `PICTURES`, whose features are the training images themselves or small ones.
        """
        if isinstance(self.encoder, PICTURES):
            raise ValueError(
                f"an index of {self.encoder.name} would hold the training images themselves, or small versions of them;"
                " use encoder efficientnet"
            )
        about = {
            "encoder": self.index.encoder, "shape": self.index.shape, "shift": self.index.shift,
            "threshold": self.threshold, "rate": self.rate,
        }  # fmt: skip
        tensors = {k: getattr(self.index, k).contiguous() for k in ("whole", "inner", "center", "digests")}
        write_bytes(Path(path), save(tensors, {"guard": json.dumps(about)}))

    @staticmethod
    def load(path: str | Path, encoder: Encoder | None = None) -> "Guard":
        """Read what `save` wrote; an encoder other than the package's own must be given.

        Raises:
            ValueError: if the file is no saved guard, or the encoder is another one.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["guard"])
            tensors = load_file(str(path))
            shape: tuple[int, int, int] = tuple(about["shape"])
            index = Index(**tensors, encoder=about["encoder"], shape=shape, shift=about["shift"])
            threshold = None if about["threshold"] is None else Thresholds(*about["threshold"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a saved guard ({error}); write one with Guard.save") from error
        space = by_name(about["encoder"]) if encoder is None else encoder
        return Guard(index, space, threshold, rate=about["rate"])
