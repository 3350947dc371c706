"""What is going on, how much of it is done and how long it takes: bars on a terminal, few lines elsewhere, or nothing.

A phase is a piece of work with a name and, often, a size. Phases may lie in one another. Whoever does the work is
handed a `Progress` and says no more than `with progress.phase("rollout", total=300) as bar: … bar.advance(1)`.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from sparring.core.terminal import open_console

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import rich.progress
    from rich.console import Console

_depth: ContextVar[int] = ContextVar("depth", default=0)
"""Phases that the present one lies in. Threads that show phases side by side count for themselves."""


class Bar(Protocol):
    """One phase that is being worked on."""

    def advance(self, num: float = 1) -> None:
        """Count `num` more units as done."""
        ...

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Set how much is done, of how much, and a few words on how it goes, for instance `loss 0.41`."""
        ...


class Progress(Protocol):
    """Shows phases and notes."""

    def phase(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        """Show a phase while the context lasts; without a total, until `update` gives one, its end is open."""
        ...

    def note(self, message: str) -> None:
        """Show a message that should be read, once."""
        ...

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stop showing, and leave the terminal as it was."""
        ...


class SilentProgress:
    """Shows no phases, and notes only where it is told how: for tests and for use as a library."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        """`write` gets the notes; none: they are dropped."""
        self._write = write

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """Do nothing."""
        yield self

    def note(self, message: str) -> None:
        """Write the message, if there is a way."""
        if self._write:
            self._write(message)

    def advance(self, num: float = 1) -> None:
        """Do nothing."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LineProgress:
    """Prints a line when a phase ends, and one of a phase under way at most every `interval_s` seconds: for logs."""

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write lines by `write`; `clock` returns seconds."""
        self._write = write
        self._interval_s = interval_s
        self._clock = clock
        self._last_line_s = clock()

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """Print the phase's name, size and duration once it ends; nothing where it is left by an error."""
        bar = TextBar(name, total, self._clock(), self._show)
        with _deeper() as indent:
            yield bar
        size = f" ({_number(bar.done)})" if bar.done else ""
        self.note(f"{indent}{name}{size}: done in {format_duration(self._clock() - bar.start_s)}")

    def note(self, message: str) -> None:
        """Print the message."""
        self._last_line_s = self._clock()
        self._write(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _show(self, bar: TextBar) -> None:
        now = self._clock()
        if now - self._last_line_s < self._interval_s:
            return
        line = describe_bar(bar.name, bar.done, bar.total, now - bar.start_s, bar.note)
        self.note(f"{'  ' * (_depth.get() - 1)}{line}")


class TextBar:
    """A phase that is told in text; `show` is called with it at each advance."""

    def __init__(self, name: str, total: float | None, start_s: float, show: Callable[[TextBar], object]) -> None:
        self.name = name
        self.total = total
        self.start_s = start_s
        self.done: float = 0
        self.note = ""
        self._show = show

    def advance(self, num: float = 1) -> None:
        self.update(self.done + num)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self.done = done
        self.total = total if total is not None else self.total
        self.note = note or self.note
        self._show(self)


class RichProgress:
    """Bars with time elapsed and time left; a finished phase leaves one line behind."""

    def __init__(self, console: Console) -> None:
        """Show on `console`, a terminal."""
        import rich.progress as rp
        from rich.text import Text

        class Figures(rp.ProgressColumn):
            """How much is done, and how long it has taken and will take."""

            def render(self, task: rp.Task) -> Text:
                elapsed_s = task.elapsed or 0.0
                left = _time_left(task.completed, task.total, elapsed_s)
                size = f"{_number(task.completed)}/{_number(task.total)}  " if task.total else ""
                return Text(f"{size}{format_duration(elapsed_s)}{left}")

        self._console = console
        self._live = rp.Progress(
            rp.SpinnerColumn(),
            rp.TextColumn("{task.description}", markup=False),
            rp.BarColumn(bar_width=24),
            Figures(),
            rp.TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
        )

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """Show a bar below those of the phases around it."""
        start_s = time.monotonic()
        with _deeper() as indent:
            task = self._live.add_task(indent + name, total=total, note="")
            try:
                yield _RichBar(self._live, task)
            finally:
                done = next(one.completed for one in self._live.tasks if one.id == task)
                self._live.remove_task(task)
        size = f" ({_number(done)})" if done else ""
        duration = format_duration(time.monotonic() - start_s)
        self._console.print(f"✓ {indent}{name}{size}  {duration}", style="dim", markup=False, highlight=False)

    def note(self, message: str) -> None:
        """Print the message above the bars."""
        self._console.print(f"! {message}", style="yellow", markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class _RichBar:
    def __init__(self, live: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._live = live
        self._task = task

    def advance(self, num: float = 1) -> None:
        self._live.advance(self._task, num)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._live.update(self._task, completed=done, total=total)
        if note:
            self._live.update(self._task, note=note)


def library_progress(*, shows: bool | None = None) -> Progress:
    """Return what suits a program that uses the package.

    Args:
        shows: whether phases are shown; none: in a notebook and on a terminal, and not where standard error is a file.
            Notes are shown in any case.
    """
    from sparring.core.notebook import NotebookProgress, is_notebook, notebook_display

    if is_notebook() and shows is not False:
        return NotebookProgress(notebook_display())
    is_seen = open_console(on_stderr=True).is_terminal if shows is None else shows
    return terminal_progress(quiet=not is_seen)


def terminal_progress(*, quiet: bool = False) -> Progress:
    """Return what suits standard error: bars on a terminal, lines elsewhere; notes alone where `quiet`."""
    console = open_console(on_stderr=True)

    def write(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if quiet:
        return SilentProgress(write)
    return RichProgress(console) if console.is_terminal else LineProgress(write)


@contextmanager
def heard(progress: Progress) -> Iterator[None]:
    """Show what the package has to say, too: its log from warnings on, and Python's warnings."""
    handler = _NoteHandler(progress)
    logger, show = logging.getLogger("sparring"), warnings.showwarning
    ours = str(Path(__file__).parents[1])

    def show_warning(message: Any, category: Any, filename: str, *rest: Any) -> None:
        if filename.startswith(ours):
            progress.note(str(message))
        else:
            show(message, category, filename, *rest)

    logger.addHandler(handler)
    warnings.showwarning = show_warning
    try:
        yield
    finally:
        logger.removeHandler(handler)
        warnings.showwarning = show


class _NoteHandler(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.note(record.getMessage())


@contextmanager
def _deeper() -> Iterator[str]:
    """Count a phase that lies in the present one, and give its indentation."""
    depth = _depth.get()
    _depth.set(depth + 1)
    try:
        yield "  " * depth
    finally:
        _depth.set(depth)


def describe_bar(name: str, done: float, total: float | None, elapsed_s: float, note: str = "") -> str:
    """Say how far a phase is: `rollout: 30/300, about 2 min left, reward 0.41`."""
    line = f"{name}: {_number(done)}"
    if total:
        line += f"/{_number(total)}{_time_left(done, total, elapsed_s)}"
    return line + (f", {note}" if note else "")


def format_duration(seconds: float) -> str:
    """Write a duration for people: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 1 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _time_left(done: float, total: float | None, elapsed_s: float) -> str:
    """Say how long the rest takes at the mean speed so far; nothing while there is no telling."""
    if not total or not 0 < done < total:
        return ""
    return f", about {format_duration(elapsed_s * (total - done) / done)} left"


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"
