"""What each known world needs, whether it runs on this machine, and the one command that gets the rest.

Nothing is started: packages are looked up, Java is looked for on PATH.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError
from sparring.envs.appworld import install as appworld_install
from sparring.envs.base import ADAPTERS, BENCHMARKS
from sparring.envs.bfcl import wheel
from sparring.envs.intercode_sql import dump as intercode_dump
from sparring.envs.intercode_sql import official as intercode_official
from sparring.envs.scienceworld import benchmark as scienceworld
from sparring.envs.scienceworld.jvm import INSTALL_COMMAND, find_jar, find_java
from sparring.envs.webshop import generated as webshop_generated
from sparring.envs.webshop import official as webshop_official

if TYPE_CHECKING:
    from rich.console import RenderableType

ETO_URL = (
    "https://raw.githubusercontent.com/Yifan-Song793/ETO/9cd80875322d255db0c9e20600b22f88450ca0d6/"
    "eval_agent/data/sciworld/{train,dev,test}_indices.json"
)
"""Where ETO's split files are, in curl's notation for several addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldStatus:
    """One world, as `sparring envs` tells it."""

    id: str
    is_ready: bool
    """Whether it runs here, now, on `data`."""
    parts: Mapping[str, str]
    """What it is made of and where that was found, for instance `java` → `/usr/bin/java`; empty text: not found."""
    problem: str
    """What is missing and how to get it; empty where it is ready."""
    data: str
    """What it runs on."""
    more: str
    """What else it could run on; empty: nothing."""
    command: str
    """One command that gets what is missing, or, where nothing is, `more`."""


def world_statuses() -> list[WorldStatus]:
    """Look at every known world."""
    return [STATUSES[env_id]() for env_id in BENCHMARKS]


def status_table() -> RenderableType:
    """Render the statuses for a terminal, one block a world; commands stand on lines of their own, to be copied."""
    from rich.console import Group
    from rich.text import Text

    blocks = []
    for status in world_statuses():
        block = Text(status.id, style="bold")
        block.append(
            "  runs here" if status.is_ready else "  does not run yet", style="green" if status.is_ready else "red"
        )
        for name, where in status.parts.items():
            block.append(f"\n  {name + ':':11}{where or 'not found'}", style="default")
        block.append(f"\n  {'data:':11}{status.data}", style="default")
        if status.problem or status.more:
            block.append(
                f"\n  {'missing:' if status.problem else 'also:':11}{status.problem or status.more}", style="default"
            )
            block.append(f"\n  {'to get it:':11}", style="default").append(status.command, style="cyan")
        blocks.append(block)
    blocks.append(
        Text(
            'A world of your own: env.id = "package.module:Class"; see docs/your-environment.md.\n'
            f"Environments of other libraries: env.id = {', '.join(ADAPTERS)}; see docs/adapters.md.",
            style="dim",
        )
    )
    return Group(*blocks)


def _scienceworld() -> WorldStatus:
    parts, problems = {}, []
    for name, find in (("simulator", find_jar), ("java", find_java)):
        try:
            parts[name] = str(find())
        except ConfigError as error:
            parts[name] = ""
            problems.append(str(error))
    if parts["simulator"]:
        parts["simulator"] = f"scienceworld {metadata.version('scienceworld')}, {parts['simulator']}"
    num_tasks = sum(scienceworld.NUM_VARIATIONS.values())
    fetch = (f'curl -fL --create-dirs "{ETO_URL}" -o "data/scienceworld/{scienceworld.SPLIT_FILES["train"]}"').replace(
        "eto_train_", "eto_#1_"
    )
    return WorldStatus(
        id="scienceworld",
        is_ready=not problems,
        parts=parts,
        problem=" ".join(problems),
        data=f"the simulator's own split: {num_tasks:,} tasks of {len(scienceworld.NUM_VARIATIONS)} types",
        more='ETO\'s split of 24 types; use it with `path = "data/scienceworld"` under [env]',
        command=INSTALL_COMMAND if problems else fetch,
    )


def _webshop() -> WorldStatus:
    return WorldStatus(
        id="webshop",
        is_ready=True,
        parts={"engine": "part of Sparring"},
        problem="",
        data=f"a catalogue of {webshop_generated.NUM_PRODUCTS:,} products invented by Sparring",
        more='the benchmark\'s own products; use them with `path = "data/webshop"` under [env]',
        command=webshop_official.FETCH_COMMAND,
    )


def _intercode_sql() -> WorldStatus:
    try:
        where, problem = str(intercode_dump.find_dump(None)), ""
    except ConfigError as error:
        where, problem = "", str(error).partition("\n")[0]
    return WorldStatus(
        id="intercode_sql",
        is_ready=not problem,
        parts={"databases": where},
        problem=problem,
        data="questions made by Sparring over 19 of the benchmark's 20 databases (one is empty)",
        more='the benchmark\'s 972 usable questions; use them with `path = "data/intercode_sql"` under [env]',
        command=intercode_dump.INSTALL if problem else intercode_official.FETCH_COMMAND,
    )


def _bfcl() -> WorldStatus:
    try:
        folder = wheel.find_wheel()
        where, problem = f"bfcl-eval {metadata.version('bfcl-eval')}, {folder}", ""
    except (ConfigError, metadata.PackageNotFoundError) as error:
        where, problem = "", str(error)
    return WorldStatus(
        id="bfcl",
        is_ready=not problem,
        parts={"wheel": where},
        problem=problem,
        data="all 800 multi-turn tasks: 200 scenarios in four variants, with reference calls",
        more="",
        command=wheel.INSTALL_COMMAND,
    )


def _appworld() -> WorldStatus:
    try:
        where, problem = str(appworld_install.find_engine().python), ""
    except ConfigError as error:
        where, problem = "", str(error)
    return WorldStatus(
        id="appworld",
        is_ready=not problem,
        parts={"engine": where},
        problem=problem,
        data="tasks made by Sparring on AppWorld's engine, over seven of its apps",
        more='the benchmark\'s own tasks; use them with `path = "data/appworld/data"` under [env]',
        command=appworld_install.COMMAND if problem else appworld_install.FETCH_COMMAND,
    )


STATUSES: Mapping[str, Callable[[], WorldStatus]] = {
    "scienceworld": _scienceworld,
    "webshop": _webshop,
    "intercode_sql": _intercode_sql,
    "bfcl": _bfcl,
    "appworld": _appworld,
}
"""World → the function that looks at it; a test holds it against `BENCHMARKS`."""
