"""Where weights live and are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.core.convert import check_values


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where weights live and are trained."""

    kind: Literal["local"] = "local"
    """`local`: in this process, on one device."""

    def __post_init__(self) -> None:
        check_values(self)
