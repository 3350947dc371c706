"""Tasks of worlds that list none: each is a seed, and no seed is in two splits."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from sparring.core.errors import ConfigError, quote
from sparring.core.types import Task

DEFAULT = {"train": 100, "dev": 20, "test": 50}
"""Tasks of each split where nothing is said."""
MOST = 1_000_000
"""Most tasks of a split."""


class Splits:
    """Numbers tasks 0, 1, 2, …, and gives each split its share of them, one after another."""

    def __init__(self, sizes: Mapping[str, Any] | None = None) -> None:
        """Args:
        sizes: split → number of tasks; those that are not named are the default's.

        Raises:
            ConfigError: a size is no number of tasks.
        """
        self.sizes = {**DEFAULT, **(sizes or {})}
        for split, num in self.sizes.items():
            if type(num) is not int or not 0 <= num <= MOST:
                raise ConfigError(f"env.options: splits.{split} is {quote(num)}; it is a number of tasks.")

    def numbers(self, split: str) -> range:
        """Return the numbers of a split's tasks.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self.sizes:
            raise ConfigError(f"split: unknown {split!r}. Known: {', '.join(sorted(self.sizes))}.")
        start = 0
        for name, num in self.sizes.items():
            if name == split:
                return range(start, start + num)
            start += num
        raise AssertionError

    def seeds(self, split: str, kind: str) -> list[Task]:
        """Return a split's tasks, whose numbers are seeds."""
        return [Task(id=f"{kind}/{seed}", kind=kind, data={"seed": seed}) for seed in self.numbers(split)]

    @property
    def num(self) -> int:
        """Tasks of all splits."""
        return sum(self.sizes.values())


def import_or_refuse(name: str, install: str) -> ModuleType:
    """Import an adapter's library.

    Raises:
        ConfigError: it is not installed, or its import fails.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"env.id: this adapter needs {install} ({error}). Install it with: pip install {install}"
        ) from None


def find_object(target: str, what: str) -> Any:
    """Return what `package.module:name` names.

    Raises:
        ConfigError: there is no such thing.
    """
    module_name, _, name = target.partition(":")
    if not name:
        raise ConfigError(f"env.options: {what} is {quote(target)}; it is named as package.module:name.")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"env.options: {what}: can't find {quote(target)} ({error}).") from None


def shortened(texts: Sequence[str], most: int = 12) -> str:
    """List texts, the first few of them."""
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "")
