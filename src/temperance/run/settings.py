"""The settings of a training run: defaults, a file, typed options and `--set`, later ones win."""

import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any

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


def settings_from(
    defaults: dict[str, Any], config: Path | None, typed: set[str], assignments: list[str]
) -> tuple[Recipe, Settings]:
    """Merge option defaults, configuration file, the options named in `typed`, and `key=value`; later ones win.

    Raises:
        ValueError: for a key that does not exist (the nearest one is named) or a value of the wrong kind.
    """
    merged = dict(defaults)
    if config is not None:
        merged |= {k: _number(v) for k, v in read_config(config).items() if k not in ABOUT_DATA}
    merged |= {name: defaults[name] for name in typed}
    for text in assignments:
        key, found, value = text.partition("=")
        if not found:
            raise ValueError(f"--set takes key=value, got {text!r}")
        try:
            merged[key] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise ValueError(f"--set {text}: {value!r} is no value") from None
    for key in merged:
        if key not in names():
            near = difflib.get_close_matches(str(key), names(), n=1)
            raise ValueError(
                f"unknown setting {key!r}; {'did you mean ' + near[0] if near else 'see temperance train --help'}?"
            )
    try:
        return tuple(c(**{f.name: merged[f.name] for f in fields(c) if f.name in merged}) for c in (Recipe, Settings))  # pyright: ignore[reportReturnType]
    except TypeError as error:
        raise ValueError(f"a setting has the wrong type: {error}") from error


def _number(value: Any) -> Any:
    """What YAML takes for text but people write as a number: 1e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
