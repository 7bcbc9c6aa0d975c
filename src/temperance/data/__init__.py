"""Image sources: one text names a folder, a zip, an array, a data set or a built-in; out come uint8 pixels.

Everything arrives as `Images`, uint8 and channels last, as stored unless a size or a channel count is asked
for. Rules for pixels, in this order: EXIF orientation; 16-bit grey v becomes round(v / 257); transparency
is composited on white; palettes and other color spaces become RGB; with `size`, a center crop to a square
and an antialiased Lanczos resize (the choice of EDM's dataset tool); with `channels`, luma (ITU-R 601) or
three equal channels. Animations give their first frame.
"""

from temperance.data.builtin import BUILTINS, DIGIT_CLASSES, FASHION_CLASSES
from temperance.data.decode import PROGRESS_FROM
from temperance.data.folders import SUFFIXES, natural
from temperance.data.images import (
    Images,
    InputError,
    InputWarning,
    Skipped,
    among,
    digests,
    record_skipped,
    split,
    to_uint8,
    unlike,
    unseen,
)
from temperance.data.loading import load
from temperance.data.pixels import WHITE
from temperance.data.range import check_range, warn_of_range

__all__ = [
    "BUILTINS",
    "DIGIT_CLASSES",
    "FASHION_CLASSES",
    "PROGRESS_FROM",
    "SUFFIXES",
    "WHITE",
    "Images",
    "InputError",
    "InputWarning",
    "Skipped",
    "among",
    "check_range",
    "digests",
    "load",
    "natural",
    "record_skipped",
    "split",
    "to_uint8",
    "unlike",
    "unseen",
    "warn_of_range",
]
