"""`sparring envs`: the worlds, and how to get those that do not run yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparring.core.terminal import open_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the worlds: what works on this machine, and how to get what does not."""


def do(_: Options, __: Mapping[str, Any]) -> None:
    """Print what works here."""
    from sparring.envs.status import status_table

    open_console().print(status_table(), soft_wrap=True)
