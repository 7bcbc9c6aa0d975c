"""Hugging Face data sets saved on disk."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from temperance.data.images import InputError
from temperance.data.source import Source


def open_hugging_face(path: Path) -> Source:
    """The first image column of a data set saved on disk, with the first column of labels."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path} is a Hugging Face data set; to read it: pip install -e '.[datasets]'") from error
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

    return Source(read, len(rows), None, *_labels(rows))


def _labels(rows: Any) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    for name, kind in rows.features.items():
        names = getattr(kind, "names", None)
        if names or (name in ("label", "labels") and "int" in str(getattr(kind, "dtype", ""))):
            labels = np.array([-1 if label is None else label for label in rows[name]], dtype=np.int64)
            return labels, tuple(names) if names else None
    return None, None
