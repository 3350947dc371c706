"""A run in progress: its page is written again and again, until the run is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sparring.core.errors import DataError
from sparring.core.journal import read_object
from sparring.core.terminal import write
from sparring.report.page import write_page
from sparring.report.unfinished import OpenPhase, read_state


def watch(
    folders: Sequence[Path],
    compare: Sequence[str] = (),
    *,
    out: Path | None = None,
    every: int,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page every so many seconds, and once more when all runs are finished. Ctrl-C ends it.

    Args:
        folders: of the runs.
        compare: two arms that are set side by side.
        out: as for `write_page`.
        every: seconds between two pages.
        sleep: waits.

    Raises:
        DataError: a file is damaged or missing. What is being written at this moment is read again in the next turn;
            only an error that stays is one.
    """
    failed = ""
    try:
        while True:
            try:
                is_finished = _is_finished(folders)
                path = write_page(folders, compare, out=out, every=every)
                write(f"{time.strftime('%H:%M:%S')}  {path}: {_words(folders)}")
                failed = ""
            except (DataError, FileNotFoundError) as error:
                if str(error) == failed:
                    raise DataError(str(error)) from None
                failed, is_finished = str(error), False
            if is_finished:
                return
            sleep(every)
    except KeyboardInterrupt:
        write("Stopped watching. The page stays as it was written last; the run goes on.")


def _is_finished(folders: Sequence[Path]) -> bool:
    return all((folder / "results.json").exists() for folder in folders)


def _words(folders: Sequence[Path]) -> str:
    open_ones = [folder for folder in folders if not _is_finished([folder])]
    states = [read_state(folder, read_object(folder / "config.json")) for folder in open_ones]
    if not states:
        return "finished."
    return " ".join(f"{state.words}{_at_work(state.at_work)}" for state in states)


def _at_work(phases: Sequence[OpenPhase]) -> str:
    if not phases:
        return ""
    last = phases[0]
    return f" At work: {last.arm or 'shared'}/{last.name}, seed {last.seed} ({last.words})."
