"""A user's own parts of a run, named in a config as `package.module:name`: methods, losses, pair rules, partner kinds.

Their modules are found as Python finds any: below the current folder, on PYTHONPATH, or installed. A run records the
name, not the code behind it.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

from sparring.core.errors import ConfigError
from sparring.core.ranges import MAX_NAME, Text

Reference = Annotated[str, Text(at_most=MAX_NAME, is_reference=True)]
"""`package.module:name`."""


def resolve(reference: str, *, key: str) -> Any:
    """Import what a reference names.

    Args:
        reference: `package.module:name`; `__main__:name` is the running script or notebook.
        key: where it stands, for messages.

    Raises:
        ConfigError: the module can't be imported, or has no such name.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{key}: can't import {module_name!r} ({error}). Start where it lies, or put its folder on PYTHONPATH."
        ) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}: importing {module_name!r} raised {type(error).__name__}: {error}.") from error
    if not hasattr(module, name):
        hint = (
            " A process of its own does not see what a script or notebook defines." if module_name == "__main__" else ""
        )
        raise ConfigError(f"{key}: module {module_name!r} has no {name!r}.{hint}")
    return getattr(module, name)


def resolve_function(reference: str, *, key: str) -> Any:
    """Import a function that a reference names.

    Raises:
        ConfigError: as `resolve`, or it can't be called.
    """
    found = resolve(reference, key=key)
    if not callable(found):
        raise ConfigError(f"{key}: {reference!r} is a {type(found).__name__}, not a function.")
    return found


def short_name(reference: str) -> str:
    """Return the name without its module: `mine` of `package.module:mine`, and any other word as it is."""
    return reference.rpartition(":")[2]
