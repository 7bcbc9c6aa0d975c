"""The package's public names: lazy, and always the thing the name promises."""

import importlib
import pkgutil

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
