"""What commands share: progress on standard error, quiet loading of models, files that must be new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

from sparring.analysis.endings import describe_endings, is_nothing_played
from sparring.core.errors import ConfigError
from sparring.core.folder import check_place
from sparring.core.progress import Progress, heard, terminal_progress
from sparring.core.terminal import write
from sparring.core.types import Trajectory

Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"])]


@contextmanager
def showing(quiet: bool) -> Iterator[Progress]:
    """Show progress, and with it what the package has to say."""
    with terminal_progress(quiet=quiet) as progress, heard(progress):
        yield progress


def note_endings(trajectories: Sequence[Trajectory]) -> None:
    """Say on standard error how episodes ended, where nothing was played."""
    if is_nothing_played(trajectories):
        write(f"sparring: {describe_endings(trajectories)}.", on_stderr=True)


def new_file(path: Path | None) -> Path | None:
    """Return the path of a file to write.

    Raises:
        ConfigError: it exists already, or its folder can't be written to.
    """
    if path is not None:
        check_place(path.parent)
        if path.exists():
            raise ConfigError(f"--out {path}: exists already. Choose another file, or delete it.")
    return path
