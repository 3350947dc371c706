"""`sparring recipes`: the recipes that come with Sparring, and copies of them to edit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from sparring.core.bundled import locate_recipe, recipe_names, recipes_folder
from sparring.core.convert import suggest
from sparring.core.errors import ConfigError, quote
from sparring.core.folder import check_place
from sparring.core.ranges import Place
from sparring.core.terminal import open_console, write
from sparring.runs.recipe_files import load_recipe

if TYPE_CHECKING:
    from rich.table import Table

TAKES = re.compile(r"^# Takes: (?P<time>.+) \| (?P<hardware>.+)$", re.MULTILINE)
"""The line at the head of a bundled recipe that says how long it takes, and on what."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the recipes that come with Sparring, with world, time and hardware; or copy one, to edit it.

    sparring recipes copy NAME [FILE] writes NAME's recipe to FILE (none: its name in the current folder). The copy
    works where it lies: paths in a recipe are relative to the current folder, and those that begin with `recipes/` and
    are not there lead to what comes with Sparring.
    """

    words: tyro.conf.Positional[tuple[Place, ...]] = ()
    """Nothing, or: copy NAME [FILE]."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Print the table, or write a copy and print how to run it."""
    match options.words:
        case ():
            open_console().print(_table())
            write(f"Run one: sparring run NAME. Edit one: sparring recipes copy NAME. They lie in {recipes_folder()}")
        case ("copy", name):
            copy(name, Path(f"{Path(name).stem}.toml"))
        case ("copy", name, file):
            copy(name, Path(file))
        case _:
            raise ConfigError(
                f"recipes: expected nothing, or copy NAME [FILE]; found {quote(' '.join(options.words))}."
            )


def copy(name: str, file: Path) -> None:
    """Write a bundled recipe to a new file; the run's name becomes the file's.

    Raises:
        ConfigError: there is no such recipe, or the file exists already.
    """
    name = name.removesuffix(".toml")
    if name not in recipe_names():
        raise ConfigError(f"recipes: no recipe is called {quote(name)}. {suggest(name, recipe_names())}")
    check_place(file.parent)
    if file.exists():
        raise ConfigError(f"recipes: {file} exists already. Choose another file, or delete it.")
    text = locate_recipe(name).read_text(encoding="utf-8")
    if file.stem != Path(name).stem and re.fullmatch(r"\w[\w.+-]*", file.stem):
        text = re.sub(r'^name = "[^"]*"$', lambda _: f'name = "{file.stem}"', text, count=1, flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")
    write(f"{file}\nRun it: sparring run {file}")


def takes(name: str) -> tuple[str, str]:
    """Return how long a bundled recipe takes, and on what, as its head says."""
    found = TAKES.search(locate_recipe(name).read_text(encoding="utf-8"))
    assert found, f"{name}: no line that begins with '# Takes: '"
    return found["time"], found["hardware"]


def _table() -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "world", "time", "hardware"):
        table.add_column(heading, no_wrap=heading in ("recipe", "world"))
    for name in recipe_names():
        table.add_row(name, load_recipe(name).shared_config().env.id, *takes(name))
    return table
