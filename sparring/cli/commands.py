"""Finds a subcommand's module, parses its words and runs it.

Each subcommand is a module of its own, `sparring.cli.NAME` with `_` for `-`. It has a dataclass `Options`, whose
docstring and fields are its help, and a function `do(options, overrides)`. Where the options have a field `config`, its
keys can be given as `--section.key value`. Only what was typed overrides a recipe: a default never does. The names are
listed in `sparring.cli.main.COMMANDS`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sparring.cli.main import RUNNING
from sparring.cli.words import parse
from sparring.runs.ranks import follow, rank_here


def run_command(name: str, words: Sequence[str]) -> None:
    """Parse a subcommand's words and do it.

    Raises:
        SparringError: whatever the user can mend.
        SystemExit: after `--help`, or with code 2 where a word can't be parsed.
    """
    if (rank := rank_here()) is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch shows its stack where another rank has died
    if rank:  # the first alone reads, prints and writes
        return follow() if name in RUNNING else None
    command = importlib.import_module(f"sparring.cli.{name.replace('-', '_')}")
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)  # as `python -m` does, so that a world of the user's own is found where they stand
    options, overrides = parse(command.Options, f"sparring {name}", words)
    command.do(options, overrides)
