"""Packages whose names are loaded at their first use."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def load_lazily(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package, which imports the module of a name when the name is first used.

    Args:
        package: The package's `__name__`.
        modules: The names that each module has.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:  # noqa: ANN401 - any public object
        if name not in homes:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
