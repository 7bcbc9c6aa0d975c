"""The settings of a training run: defaults, a file, typed options and `--set`, later ones win."""

import difflib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from temperance.recipe import Recipe, names
from temperance.train import Settings

ABOUT_DATA = ("data", "heldout", "size", "channels")  # what a configuration file says besides settings


def read_config(config: Path) -> dict[str, Any]:
    """What a configuration file holds.

    Raises:
        ValueError: if it cannot be read or is not one.
    """
    try:
        held = yaml.safe_load(config.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read --config {config}: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"--config {config} must hold key: value lines")
    return held


def about_data(*files: Path | None) -> dict[str, Any]:
    """What configuration files say of the images and how they are read; later ones win."""
    held = [read_config(file) for file in files if file is not None]
    return {key: value for of in held for key, value in of.items() if key in ABOUT_DATA}


class Given(NamedTuple):
    """Where settings come from: options, of which some were `typed`, a file, and texts `key=value`."""

    options: dict[str, Any]
    config: Path | None = None
    typed: AbstractSet[str] = frozenset()
    assignments: Sequence[str] = ()


def settings_from(given: Given, resumed: Path | None = None) -> tuple[Recipe, Settings, set[str]]:
    """Merge what options are by default, files, the options that were typed, and `key=value`; later ones win.

    `resumed` is the configuration of a run that goes on; the file that was asked for wins over it. Model
    folders are made absolute: a run may be resumed from elsewhere. Also returns the names that were asked for.

    Raises:
        ValueError: for a key that does not exist (the nearest one is named) or a value of the wrong kind.
    """
    typed = {name: given.options[name] for name in given.typed}
    asked = _held(given.config) | typed | _assigned(given.assignments)
    merged = given.options | _held(resumed) | asked
    for key in merged:
        if key not in names():
            near = difflib.get_close_matches(str(key), names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(names()))}"
            raise ValueError(f"unknown setting {key!r}; {hint}")
    for key in ("network", "init"):
        if isinstance(merged.get(key), str) and merged[key] and Path(merged[key]).is_dir():
            merged[key] = str(Path(merged[key]).absolute())
    try:
        recipe, settings = (
            kind(**{f.name: merged[f.name] for f in fields(kind) if f.name in merged}) for kind in (Recipe, Settings)
        )
    except TypeError as error:
        raise ValueError(f"a setting has the wrong type: {error}") from error
    return recipe, settings, set(asked)  # pyright: ignore[reportReturnType]


def _held(config: Path | None) -> dict[str, Any]:
    held = {} if config is None else read_config(config)
    return {key: _number(value) for key, value in held.items() if key not in ABOUT_DATA}


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """What `key=value` texts say, as YAML would."""
    found = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, got {text!r}")
        try:
            found[key] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise ValueError(f"--set {text}: {value!r} is no value") from None
    return found


def _number(value: Any) -> Any:
    """What YAML takes for text but people write as a number: 1e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
