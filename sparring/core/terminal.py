"""All that is shown on a terminal goes through here: no control character of a shown text ever reaches it.

What a world or a model writes stands in notes, tables and errors. Escape sequences in it could move the cursor, set the
title or hide what was printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparring.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
"""Columns of a table that is not printed on a terminal."""


def open_console(*, on_stderr: bool = False) -> Console:
    """Return a console for a standard stream. Styles and bars keep their control characters, texts lose them."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class TextConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    if on_stderr or sys.stdout.isatty():
        return TextConsole(stderr=on_stderr)
    return TextConsole(width=PLAIN_WIDTH)


def write(message: str, *, on_stderr: bool = False) -> None:
    """Print a message as it is, however long its lines are."""
    print(printable(message), file=sys.stderr if on_stderr else sys.stdout, flush=True)
