"""What the world asks of a database, whichever it is: open a fresh copy, run a statement, get rows or an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a statement gave."""

    rows: tuple[Row, ...] | None = None
    """The rows; None where the statement gives none, such as INSERT, or failed."""
    error: str = ""
    """The database's message, where the statement failed."""


class Session(Protocol):
    """A database for one episode. What is written to it is gone when it is closed."""

    def run(self, statement: str) -> Result:
        """Run one statement of the agent's dialect, MySQL's `SHOW` and `DESC` included. Never raises over its text."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice."""
        ...


class Backend(Protocol):
    """Where sessions come from."""

    def names(self) -> frozenset[str]:
        """Return the databases that there are."""
        ...

    def open(self, database: str, *, for_gold: bool = False) -> Session:
        """Open a fresh copy of a database; `for_gold`: for the right answer, which runs whatever MySQL says to it."""
        ...
