"""Give AppWorld's engine an environment of its own, once: `python -m sparring.envs.appworld.install`.

The engine needs pydantic before version 2, so it can't live beside Sparring. It gets a virtual environment in the cache
folder, made by the Python that runs this; pip downloads about 35 MB, which become about 235 MB. AppWorld's own
`install` then unpacks its apps there, and the data folder that our own tasks start from is built, without a network.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from sparring.core.errors import ConfigError
from sparring.envs.variables import clean_environment

VERSION = "0.1.3.post1"
"""AppWorld's version: the one whose models and sandbox this world was built on."""

COMMAND = "python -m sparring.envs.appworld.install"

_TOOL = f'"${{XDG_CACHE_HOME:-$HOME/.cache}}/sparring/appworld-{VERSION}/venv/bin/appworld"'
FETCH_COMMAND = f"{_TOOL} download data --root data/appworld"
"""Fetches the official tasks into `data/appworld/data`."""

FOR_DOWNLOADS = {
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "netrc"),
    *("ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle", "curl_ca_bundle"),
}
"""Variables that pip reads beside its own, in small letters."""

INSIDE = Path(__file__).with_name("inside")
"""Modules that run in the engine's Python; they import nothing of Sparring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An installed engine."""

    python: Path
    data: Path
    """API documentation and empty databases, in the layout of AppWorld's own data folder."""


def engine_folder() -> Path:
    """Return where the engine lives: `$XDG_CACHE_HOME/sparring/appworld-…`, usually below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparring" / f"appworld-{VERSION}"


def find_engine() -> Engine:
    """Return the installed engine.

    Raises:
        ConfigError: there is none, or another user could have put it there.
    """
    folder = engine_folder()
    if not _marker(folder).exists():
        raise ConfigError(f"AppWorld's engine is not installed (looked in {folder}). Install it with `{COMMAND}`.")
    for part in (folder, folder / "venv", _python(folder).parent):
        entry = part.stat()
        if entry.st_uid not in (0, os.geteuid()) or entry.st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"AppWorld's engine: {part} belongs to another user or can be written to by all, so that others decide "
                f"which program runs. Set XDG_CACHE_HOME to a folder of yours, and install the engine with `{COMMAND}`."
            )
    return Engine(python=_python(folder), data=folder / "data")


def install() -> Engine:
    """Install the engine; what an earlier attempt left unfinished goes first. An installed one is left alone.

    Raises:
        ConfigError: pip or the engine's own installation failed.
    """
    with contextlib.suppress(ConfigError):
        return find_engine()
    folder = engine_folder()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _say(f"AppWorld {VERSION} goes to {folder}: about 35 MB to download, 235 MB on disk, a few minutes.")
    venv.create(folder / "venv", with_pip=True)
    python = _python(folder)
    _run([python, "-m", "pip", "install", "--quiet", f"appworld=={VERSION}"], folder, "pip could not install it")
    _say("Unpacking its apps …")
    _run([python, "-m", "appworld.cli", "install"], folder, "its apps could not be unpacked")
    _say("Building empty databases and the documentation of its APIs …")
    _run([python, INSIDE / "base.py", folder / "data"], folder, "its databases could not be built")
    _marker(folder).write_text(json.dumps({"appworld": VERSION, "python": sys.version}), encoding="utf-8")
    _say("Done.")
    return find_engine()


def _run(command: list[str | Path], folder: Path, problem: str) -> None:
    """Run a step, quietly unless it fails; nothing of it lands outside of `folder`."""
    names = [name for name in os.environ if name.startswith("PIP_") or name.lower() in FOR_DOWNLOADS]
    variables = {**clean_environment(names), "APPWORLD_CACHE": str(folder / "cache"), "APPWORLD_ROOT": str(folder)}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"AppWorld: {problem}. Mend what follows and run `{COMMAND}` again.\n{done.stdout[-2000:]}")


def _python(folder: Path) -> Path:
    return folder / "venv" / "bin" / "python"


def _marker(folder: Path) -> Path:
    """The last thing that an installation writes."""
    return folder / "installed.json"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        install()
    except ConfigError as error:
        sys.exit(str(error))
