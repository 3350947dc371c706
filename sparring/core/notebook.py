"""Progress in a notebook: one display of the phases under way, which is rewritten in place. It needs no widgets."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparring.core.progress import Bar, TextBar, describe_bar, format_duration
from sparring.core.text import printable

MAX_NOTES = 8
"""Most notes that the display keeps; they stand in the run's report, too."""


def is_notebook() -> bool:
    """Say whether this process runs the cells of a notebook, and not a terminal's IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def notebook_display() -> Callable[[str], None]:
    """Return what shows a text in the cell that is run, in the place of the one before."""
    from IPython.display import TextDisplayObject, display  # pyright: ignore[reportMissingImports]

    class Plain(TextDisplayObject):
        def __repr__(self) -> str:
            return str(self.data)

    handle: Any = display(Plain(""), display_id=True)
    return lambda text: handle.update(Plain(text))


class NotebookProgress:
    """Shows the phases under way, one a line, with what has been noted above them."""

    def __init__(
        self,
        show: Callable[[str], object],
        *,
        interval_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show texts by `show`, at most every `interval_s` seconds; `clock` returns seconds."""
        self._show, self._interval_s, self._clock = show, interval_s, clock
        self._bars: list[TextBar] = []
        self._notes: list[str] = []
        self._lock = threading.RLock()
        self._shown_s = float("-inf")

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """Show a line below those of the phases around it; the outermost leaves its duration behind."""
        bar = TextBar(name, total, self._clock(), lambda _: self.refresh())
        with self._lock:
            is_outermost = not self._bars
            self._bars.append(bar)
        self.refresh()
        try:
            yield bar
        finally:
            with self._lock:
                self._bars.remove(bar)
        if is_outermost:
            self.note(f"{name}: done in {format_duration(self._clock() - bar.start_s)}")

    def note(self, message: str) -> None:
        """Show a message above the phases; the last few stay."""
        with self._lock:
            self._notes = [*self._notes, message][-MAX_NOTES:]
        self.refresh(at_once=True)

    def refresh(self, *, at_once: bool = False) -> None:
        """Write the display anew, if it is time."""
        with self._lock:
            now = self._clock()
            if not at_once and now - self._shown_s < self._interval_s:
                return
            self._shown_s = now
            lines = [describe_bar(bar.name, bar.done, bar.total, now - bar.start_s, bar.note) for bar in self._bars]
            text = "\n".join([*self._notes, *("  " * depth + line for depth, line in enumerate(lines))])
            self._show("\n".join(map(printable, text.splitlines())))

    def __enter__(self) -> NotebookProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh(at_once=True)
