"""Where weights live and are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.ranges import ADJUSTABLE_WITH_NOTE


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where weights live and are trained."""

    kind: Annotated[Literal["local", "fsdp", "tinker"], ADJUSTABLE_WITH_NOTE] = "local"
    """`local`: in this process, on one device. `fsdp`: over all ranks of a `torchrun`, each on a device of its own.
    `tinker`: on a server that speaks the Tinker API (docs/tinker.md)."""

    def __post_init__(self) -> None:
        check_values(self)
