"""The training image that an image may be a copy of, although it was moved, mirrored, recoded or relit.

Each image is held against candidates in all views at once. Candidates come from a coarse look at every training image
in all views, and from the exact nearest one in pixels. The coarse look may miss a source; what it finds is measured
exactly. Held-out images go through the same search, so a miss costs recall and never the error rate.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from temperance.data import Images

KEEP = 8  # candidates of the coarse look
SURE = 2  # candidates that are also cropped
REFINED = 4  # closest (view, candidate) pairs that are measured again, by differences
COARSE = 8  # side of the coarse look
POINTS = 2048  # of its blocks
FAINT = 0.25  # squared contrast below which a coarse look is mostly noise
GAIN, OFFSET = 1.25, 0.25  # change of contrast and of brightness (black to white: 2) that is fitted away
FLAT = 2 / 255  # contrast, a level of gray, below which brightness is all there is, and no change of it is
CROPS = (1, 2)
QUALITIES = tuple(range(50, 96))
STEP = 5  # between the qualities that are tried first; then all around the closest
BLOCK = 1 << 27  # bytes of a block of images in all views, of which several are held
SMALL = 12  # pixels: below, JPEG at low quality leaves nothing of an image, and it is not undone
JPEG_SLACK = 1.25  # times the distance of an image to itself at the lowest quality
TICK = 1e-5  # distances are rounded to it: below lies the rounding of sums in another order
LUMA = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))  # JFIF: Y, Cb, Cr


class Match(NamedTuple):
    """The best training image of each row in the best view; `view` is a number for `view_name`."""

    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride]
    distance: Float[Tensor, " n"]
    view: Int[Tensor, " n"]


class Seen(NamedTuple):
    """Luma at half and chroma at quarter resolution, luma around its mean; the mean from black, 0 to 2."""

    vector: Float[Tensor, "*batch f"]
    mean: Float[Tensor, " *batch"]


class Matcher:
    """Search in one training set, prepared once. Cost: one pass over the images, and 256 bytes for each of them."""

    def __init__(self, train: Images):
        self.train = train
        self.margin = _margin(train.pixels.shape[1:3])
        self.views = _views(self.margin)
        self.upright = [i for i, (_, dx, dy) in enumerate(self.views) if dx == dy == 0]
        parts = [_coarse(_channels(train[s : s + 2048]), self.margin) for s in range(0, len(train), 2048)]
        p = torch.cat(parts)
        self.coarse = torch.cat([p, p.square().sum(1, keepdim=True) / 2, torch.ones(len(p), 1)], 1)

    def __call__(self, images: Images, nearest: Int[Tensor, " n"]) -> Match:
        """Best match of each image; `nearest` is its nearest training image in pixels, always a candidate.

        Cost: 52 * 2 * 66 flops for each pair with a training image, and about 1 ms an image.
        """
        rows = max(1, min(128, BLOCK // (4 * len(self.views) * self.train.pixels[0].size)))
        parts = [self._block(images[s : s + rows], nearest[s : s + rows]) for s in range(0, len(nearest), rows)]
        return Match(*(torch.cat(column) for column in zip(*parts)))

    def _block(self, images: Images, nearest: Tensor) -> Match:
        x = _channels(images)
        moved = torch.stack([_moved(x, *view, self.margin) for view in self.views], 1)
        candidate = torch.cat([nearest[:, None], self._candidates(moved)], 1)
        views = self._see(moved)
        best, place = self._closest(views, self._originals(candidate), candidate, range(len(self.views)))
        order = best.distance.argsort(dim=1, stable=True)[:, :SURE]
        sure = best.index.gather(1, order)
        few = Seen(views.vector[:, self.upright], views.mean[:, self.upright])
        found = [Match(sure, best.distance.gather(1, order), place.gather(1, order))]
        for change, points in self._cropped(sure):
            other, where = self._closest(few, points, sure, self.upright)
            found.append(Match(sure, other.distance, where + change * len(self.views)))
        index, distance, view = (torch.cat(column, 1) for column in zip(*found))
        first = _first_least(distance, index)[:, None]
        return self._recoded(few, Match(*(c.gather(1, first)[:, 0] for c in (index, distance, view))))

    def _recoded(self, few: Seen, match: Match) -> Match:
        """Where a match is about as close as its source is to its own JPEG: the closest of all qualities."""
        if min(self.train.pixels.shape[1:3]) < SMALL:
            return match
        source = self.train[match.index]
        radius = self._distance(_channels(source), _channels(Images(recoded(source.pixels, QUALITIES[0]))))
        for i in ((match.distance > 0) & (match.distance <= JPEG_SLACK * radius)).nonzero()[:, 0].tolist():
            own, pixels = Seen(few.vector[i : i + 1], few.mean[i : i + 1]), source.pixels[i : i + 1]
            tried = self._qualities(own, pixels, QUALITIES[::STEP])
            middle = min(tried)[1]
            near = [q for q in QUALITIES if 0 < abs(q - middle) < STEP]
            least, quality, view = min(tried + self._qualities(own, pixels, near))
            if least < match.distance[i]:
                match.distance[i] = least
                match.view[i] = view + (1 + len(CROPS) + QUALITIES.index(quality)) * len(self.views)
        return match

    def _qualities(self, few: Seen, pixels: np.ndarray, qualities: Sequence[int]) -> list[tuple[float, int, int]]:
        """Distance, quality and view for one image and one source recoded."""
        points = self._see(_channels(Images(recoded(np.repeat(pixels, len(qualities), 0), qualities)))[None])
        found, where = self._closest(few, points, torch.zeros(1, len(qualities), dtype=torch.long), self.upright)
        return list(zip(found.distance[0].tolist(), qualities, where[0].tolist()))

    def _distance(self, x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        a, b = self._see(x[:, None]), self._see(y[:, None])
        return self._closest(a, b, torch.zeros(len(x), 1, dtype=torch.long), [0])[0].distance[:, 0]

    def _candidates(self, moved: Float[Tensor, "b v c h w"]) -> Int[Tensor, "b k"]:
        query = [_coarse(moved[:, i], self.margin) for i in range(moved.shape[1])]
        for border in CROPS[:1] if min(moved.shape[-2:]) >= 8 * CROPS[0] else ():
            query += [_coarse(_shrunk(moved[:, i], border), self.margin) for i in self.upright]
        q = torch.stack(query, 1)
        # |q - p|^2 / 2 as one product: views differ in |q|, for border rows leave and enter.
        q = torch.cat([-q, torch.ones_like(q[..., :1]), q.square().sum(2, keepdim=True) / 2], 2)
        k = min(KEEP, len(self.train))
        value, index = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.long)
        for start in range(0, len(self.coarse), POINTS):
            points = self.coarse[start : start + POINTS].T
            least = torch.cat(
                [(part.flatten(0, 1) @ points).unflatten(0, part.shape[:2]).amin(1) for part in q.split(8)]
            )
            found = least.topk(min(k, least.shape[1]), largest=False)
            value, index = torch.cat([value, found.values], 1), torch.cat([index, found.indices + start], 1)
            kept = value.topk(k, largest=False).indices
            value, index = value.gather(1, kept), index.gather(1, kept)
        return index

    def _see(self, x: Float[Tensor, "b v c h w"]) -> Seen:
        seen = see(x.flatten(0, 1), self.margin)
        return Seen(seen.vector.unflatten(0, x.shape[:2]), seen.mean.unflatten(0, x.shape[:2]))

    def _originals(self, candidate: Int[Tensor, "b k"]) -> Seen:
        return self._see(_channels(self.train[candidate.flatten()]).unflatten(0, candidate.shape))

    def _cropped(self, candidate: Int[Tensor, "b k"]) -> list[tuple[int, Seen]]:
        """The candidates cropped, with the number of the change."""
        images = _channels(self.train[candidate.flatten()])
        fits = [(i, c) for i, c in enumerate(CROPS, 1) if min(images.shape[2:]) >= 8 * c]
        return [(i, self._see(cropped(images, c).unflatten(0, candidate.shape))) for i, c in fits]

    def _closest(
        self, views: Seen, points: Seen, candidate: Tensor, number: "range | list[int]"
    ) -> tuple[Match, Tensor]:
        """For each candidate its distance in its best view, and that view: ranked by products, then by differences."""
        x, t = views.vector, points.vector
        size = _luma_size(self.train.pixels.shape, self.margin)
        rough, _ = _fit(
            (x * x).sum(-1)[:, :, None], x @ t.mT, (t * t).sum(-1)[:, None],
            views.mean[:, :, None], points.mean[:, None], size,
        )  # fmt: skip
        top = min(REFINED, rough.shape[1])
        place = rough.topk(top, dim=1, largest=False).indices.sort(1).values  # [b, top, k]
        rows = torch.arange(len(x))[:, None, None]
        a, mean = x[rows, place].double(), views.mean[rows, place].double()
        b = t[:, None].double()
        _, gain = _fit((a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1), mean, points.mean[:, None].double(), size)
        excess = _excess(mean, gain, points.mean[:, None].double(), (b * b).sum(-1), size)
        exact = ((a - gain[..., None] * b).square().sum(-1) + size * excess**2).sqrt()
        exact = (exact / TICK).round() * TICK
        first = exact.argmin(1, keepdim=True)  # the first of equals
        where = torch.tensor(list(number))[place.gather(1, first)[:, 0]]
        return Match(candidate, exact.gather(1, first)[:, 0], where), where


def view_name(view: int, shape: tuple[int, ...]) -> str:
    """What `Match.view` means for images [h, w, c], in words: how the copy differs from the training image."""
    views = _views(_margin(shape[:2]))
    change, which = divmod(view, len(views))
    mirror, dx, dy = views[which]
    changes = ["", *(f"cropped by {c}" for c in CROPS), *(f"JPEG quality {q}" for q in QUALITIES)]
    words = [changes[change], "mirrored" if mirror else "", f"shifted by ({-dx}, {-dy})" if dx or dy else ""]
    return ", ".join(w for w in words if w) or "as it is"


def undone(x: Float[Tensor, "n c h w"], view: int) -> Float[Tensor, "n c h w"]:
    """Images moved and mirrored so that they lie over the training image they match; crops and JPEG stay."""
    margin = _margin(tuple(x.shape[-2:]))
    views = _views(margin)
    return _moved(x, *views[view % len(views)], margin)


def equal(images: Images, train: Images, match: Match) -> Bool[Tensor, " n"]:
    """Which images equal the training image that they match, pixel by pixel, mirrored or moved.

    The border that a shift may have lost is left out. Distance 0 is not enough: it allows for contrast and brightness.
    """
    margin = _margin(tuple(train.pixels.shape[1:3]))
    inner = (..., slice(margin, train.pixels.shape[1] - margin), slice(margin, train.pixels.shape[2] - margin))
    near = (match.distance == 0) & (match.view < len(_views(margin)))  # higher numbers: cropped, recoded
    found = torch.zeros_like(near)
    for view in match.view[near].unique().tolist():
        rows = (near & (match.view == view)).nonzero()[:, 0]
        moved, source = undone(images[rows].tensor(), view), train[match.index[rows]].tensor()
        found[rows] = (moved[inner] == source[inner]).flatten(1).all(1)
    return found


def mirror_number(shape: tuple[int, ...]) -> int:
    """The number of the view that is mirrored and nothing else."""
    return _views(_margin(shape[:2])).index((True, 0, 0))


def see(x: Float[Tensor, "n c h w"], margin: int) -> Seen:
    """What two images (of `_channels`) are compared by. The border is left out: a shift may have lost it."""
    x = x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
    pool = 2 if min(x.shape[-2:]) >= 12 else 1
    luma = (functional.avg_pool2d(x[:, :1], pool) if pool > 1 else x[:, :1]).flatten(1)
    mean = luma.mean(1)
    vector = (luma - mean[:, None]) * pool
    if x.shape[1] == 3:
        cell = min(2 * pool, *x.shape[-2:])
        chroma = functional.avg_pool2d(x[:, 1:], cell).flatten(1) * cell
        vector = torch.cat([vector, chroma], 1)
    return Seen(vector, mean + 1)


def recoded(pixels: np.ndarray, quality: int | Sequence[int]) -> np.ndarray:
    """uint8 [n, h, w, c] after saving as JPEG at a quality (or one an image), with the encoder's defaults."""
    from PIL import Image

    out = np.empty_like(pixels)
    each = [quality] * len(pixels) if isinstance(quality, int) else quality
    for i, (image, quality) in enumerate(zip(pixels, each)):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(buffer)).reshape(image.shape)
    return out


def cropped(x: Float[Tensor, "n c h w"], border: int) -> Float[Tensor, "n c h w"]:
    """Without `border` pixels on each side, resized to the old size."""
    inner = x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]
    return functional.interpolate(inner, tuple(x.shape[-2:]), mode="bilinear", antialias=True)


def _shrunk(x: Float[Tensor, "n c h w"], border: int) -> Float[Tensor, "n c h w"]:
    """Undoes `cropped`, but for the border that it lost, which is repeated."""
    size = (x.shape[-2] - 2 * border, x.shape[-1] - 2 * border)
    small = functional.interpolate(x, size, mode="bilinear", antialias=True)
    return functional.pad(small, (border,) * 4, mode="replicate")


def _channels(images: Images) -> Float[Tensor, "n c h w"]:
    """Gray, or luma and chroma."""
    x = images.tensor()
    return torch.einsum("kc,nchw->nkhw", x.new_tensor(LUMA), x).contiguous() if x.shape[1] == 3 else x


def _margin(size: tuple[int, ...]) -> int:
    return 2 if min(size) >= 16 else 1 if min(size) >= 6 else 0


def _views(margin: int) -> list[tuple[bool, int, int]]:
    """(mirrored, dx, dy), the image as it is first."""
    reach = sorted(range(-margin, margin + 1), key=abs)
    return [(mirror, dx, dy) for mirror in (False, True) for dx in reach for dy in reach]


def _moved(x: Tensor, mirror: bool, dx: int, dy: int, margin: int) -> Tensor:
    """Rolled: what crosses the border stays in the margin, which is never compared."""
    return torch.roll(x.flip(-1) if mirror else x, (dy, dx), (-2, -1)) if margin or mirror else x


def _coarse(x: Float[Tensor, "n c h w"], margin: int) -> Float[Tensor, "n f"]:
    x = x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
    small = functional.adaptive_avg_pool2d(x[:, :1], (min(COARSE, x.shape[-2]), min(COARSE, x.shape[-1]))).flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / (small.square().sum(1, keepdim=True) + FAINT).sqrt()  # whatever the contrast; noise stays small


def _luma_size(shape: tuple[int, ...], margin: int) -> int:
    """What a difference of the mean weighs: the number of pixels compared."""
    return (shape[1] - 2 * margin) * (shape[2] - 2 * margin)


def _fit(xx: Tensor, xt: Tensor, tt: Tensor, x_mean: Tensor, t_mean: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Squared distance |x - g t - b|^2 over gains g within 1/GAIN..GAIN and offsets b within OFFSET; and g."""
    gain = torch.where(tt > 1e-12, xt / tt.clamp(min=1e-12), 1.0).clamp(1 / GAIN, GAIN)
    rest = (xx - 2 * gain * xt + gain**2 * tt).clamp(min=0)
    return rest + size * _excess(x_mean, gain, t_mean, tt, size) ** 2, gain


def _excess(x_mean: Tensor, gain: Tensor, t_mean: Tensor, tt: Tensor, size: int) -> Tensor:
    """The difference of brightness that is not fitted away; none is of a flat image, or all of them would be one."""
    flat = tt < size * FLAT**2
    gain, offset = torch.where(flat, 1.0, gain), torch.where(flat, 0.0, OFFSET)
    return ((x_mean - gain * t_mean).abs() - offset).clamp(min=0)


def _first_least(distance: Float[Tensor, "b k"], index: Int[Tensor, "b k"]) -> Int[Tensor, " b"]:
    """The column of the least distance; of equal ones that of the lowest training image, then the first."""
    least = distance == distance.min(1, keepdim=True).values
    lowest = torch.where(least, index, torch.iinfo(torch.long).max)
    return (lowest == lowest.min(1, keepdim=True).values).int().argmax(1)
