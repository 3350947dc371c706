"""Recipes and recorded experts that come with Sparring, and where a path in a recipe leads.

In an installed package they lie in `sparring/recipes`, in a checkout in `recipes` beside the package. The rule for
paths in a recipe: they are relative to the current folder, as on the command line. One that begins with `recipes/` and
is not there leads to what comes with Sparring. A run records a path as it was written, so that its config is the same
wherever Sparring is installed.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "recipes"
"""First part of a path that may lead to a bundled file."""


def recipes_folder() -> Path:
    """Return the folder of the bundled recipes."""
    package = Path(__file__).parents[1]
    installed = package / FOLDER
    return installed if installed.is_dir() else package.parent / FOLDER


def locate(place: Path | str) -> Path:
    """Return the file that a path in a recipe means: in the current folder, else bundled, else the path itself."""
    path = Path(place).expanduser()
    if path.parts[:1] == (FOLDER,) and ".." not in path.parts and not path.exists():
        bundled = recipes_folder().joinpath(*path.parts[1:])
        return bundled if bundled.exists() else path
    return path


def locate_recipe(place: Path | str) -> Path:
    """Return the recipe that a path or the name of a bundled recipe means: `mine.toml`, `quickstart`, `study/sql`.

    A file that is there comes before a bundled recipe of that name.
    """
    path = locate(place)
    if path.suffix == ".toml" or path.exists():
        return path
    bundled = recipes_folder() / f"{place}.toml"
    return bundled if str(place) in recipe_names() else path


def recipe_names() -> list[str]:
    """List the bundled recipes' names: those for a first try, then the others by folder."""
    folder = recipes_folder()
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.toml"))
    return [str(name) for name in sorted(found, key=lambda name: (len(name.parts), str(name)))]
