"""The package's public names: lazy, and always the thing the name promises."""

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import temperance as tp


@pytest.mark.parametrize("name", tp.__all__)
def test_a_public_name_is_never_replaced_by_a_submodule(name):
    first = getattr(tp, name)
    for module in pkgutil.walk_packages(tp.__path__, "temperance."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert getattr(tp, name) is first
    assert not isinstance(first, type(pkgutil))


def test_an_unknown_name_says_so():
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = tp.nonesuch


@pytest.mark.parametrize("name", tp.__all__)
def test_a_public_name_is_on_the_page_of_the_python_interface(name):
    """A function named as its own file is left out of its package's section and needs a line of its own."""
    page = Path(__file__).parent.parent / "docs" / "api.md"
    listed = set(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    package = importlib.import_module(f"temperance.{tp._MODULE[name]}")
    hidden = hasattr(package, "__path__") and importlib.util.find_spec(f"{package.__name__}.{name}") is not None
    ways = [f"{package.__name__}.{name}.{name}"] if hidden else [package.__name__, f"{package.__name__}.{name}"]
    assert listed & set(ways)
