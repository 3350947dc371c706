"""One episode of the real engine: a task's rows in, code in, what it printed and all rows out.

Runs in the engine's own Python; the rows go in and come out through the engine's own models.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The engine's packages are in its own environment alone.

from __future__ import annotations

import datetime
import json
import math
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import guard
from appworld.apps import get_all_apps
from appworld.common.constants import DB_VERSION
from appworld.common.datetime import DateTime
from appworld.common.utils import import_models_module
from appworld.environment import AppWorld

OWN_TASK = "own_1"
"""What the engine calls every task of ours; its folder holds empty databases."""

LEFT_OUT = ("api_docs", "admin")
"""Apps without an agent's data: their rows are not told."""

BOOKKEEPING = {"record_hash", "last_logged_in", "updated_at"}
"""Fields that the engine changes by itself."""

MARK_OF_FAILURE = "Execution failed. Traceback:\n"


KILL_FACTOR = 2
"""Code that has used this many times its CPU seconds is killed, and the episode with it."""


class OutOfTime(BaseException):
    """The code has used up its CPU time. Not an `Exception`, so that the code's own `except` does not swallow it."""


class World(AppWorld):
    """The engine's world, which saves nothing unless it is asked to."""

    def _save_state(self, directory: str) -> None:
        if self.is_saving:
            super()._save_state(directory)

    def save_logs(self) -> None:
        if self.is_saving:
            super().save_logs()

    is_saving = False


def prepare_own_task(root: Path, data: Path, specs: dict[str, Any]) -> None:
    """Lay out a task of ours below `root` as the engine wants it, on the empty databases of `data`."""
    folder = root / "data" / "tasks" / OWN_TASK
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "dbs").symlink_to(data / "tasks" / OWN_TASK / "dbs")
        (root / "data" / "api_docs").symlink_to(data / "api_docs")
    (folder / "specs.json").write_text(json.dumps({**specs, "db_version": DB_VERSION}), encoding="utf-8")


def open_own_world(rows: dict[str, dict[str, list[dict[str, Any]]]]) -> World:
    """Start the task that `prepare_own_task` laid out and fill its databases, tables in the given order."""
    world = World(OWN_TASK, load_ground_truth=False, timeout_seconds=None, max_interactions=10_000)
    for app, tables in rows.items():
        models = import_models_module(app)
        for table, records in tables.items():
            model = getattr(models, table)
            for i, record in enumerate(records):
                _insert(model, record, f"{app}.{table}[{i}]")
    return world


def rehearse(root: Path, data: Path) -> None:
    """Play a world of no account through, so that what is built at first use (half of an episode's cost) is built."""
    for app in get_all_apps():
        for model in import_models_module(app).SQLModel.models():
            model.validator()
    person = {"first_name": "A", "last_name": "B", "email": "a.b@mail.example", "phone_number": "5551234567"}
    specs = {"instruction": "Rehearse.", "datetime": "2025-01-01T12:00:00", "supervisor": person}
    prepare_own_task(root, data, specs)
    world = open_own_world({"supervisor": {"Supervisor": [{**person, "birthday": "1990-01-01"}]}})
    all_rows()
    for code in ("print(apis.supervisor.show_profile())", "1/0"):
        execute(world, code, cpu_s=60.0, most_chars=100)
    world.close()
    World.close_all()
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _insert(model: Any, record: dict[str, Any], where: str) -> None:
    fields = {name: value for name, value in record.items() if name != "id"}
    for name, field in model.__fields__.items():
        if field.type_ is datetime.datetime and isinstance(fields.get(name), str):
            fields[name] = DateTime.fromisoformat(fields[name])
    try:
        row = model.create(**fields)
        row.save()
    except Exception as error:  # whatever the engine's models object to, it is the task's author who has to know
        raise ValueError(f"{where}: {type(error).__name__}: {getattr(error, 'detail', error)}") from None
    if record.get("id", row.id) != row.id:
        raise ValueError(f"{where}: is given id {record['id']}, but rows are numbered from 1: it is {row.id}")


def all_rows() -> dict[str, list[dict[str, Any]]]:
    """Return every row of every app: `app.Table` → rows, without what the engine keeps for itself."""
    rows = {}
    for app in get_all_apps():
        if app in LEFT_OUT:
            continue
        for model in import_models_module(app).SQLModel.models():
            records = [_plain(model, record) for record in model.all()]
            if records:
                rows[f"{app}.{model.__name__}"] = records
    return rows


def _plain(model: Any, record: Any) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in model.__fields__ if name not in BOOKKEEPING}
    return {
        name: value.isoformat()[:19] if isinstance(value, datetime.datetime) else value
        for name, value in values.items()
        if not name.startswith(("verification_", "password_reset_"))
    }


def execute(world: World, code: str, cpu_s: float, most_chars: int) -> str:
    """Run code in the engine's shell and return what it printed, or its error, cut to `most_chars`."""
    if refused := guard.refusal(code):
        return MARK_OF_FAILURE + refused

    def interrupt(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    used = sum(os.times()[:2])  # code that goes on even so (a bare `except`, one long call) is ended by the kernel
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + KILL_FACTOR * cpu_s), resource.RLIM_INFINITY))
    try:
        output = world.execute(code)
    except OutOfTime:
        world.safety_guard.disable()
        output = f"{MARK_OF_FAILURE}Stopped: the code used more than {cpu_s:g} seconds of CPU time."
    except BaseException as error:  # memory ran out, or the code raised what the engine does not catch
        world.safety_guard.disable()
        output = f"{MARK_OF_FAILURE}{type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return cut(re.sub(r" at 0x[0-9a-f]+", "", output).strip() or "Execution successful.", most_chars)


def cut(text: str, most_chars: int) -> str:
    """Keep the beginning of a text and say how much is missing."""
    if len(text) <= most_chars:
        return text
    return f"{text[:most_chars]}\n[… {len(text) - most_chars} more characters; print less]"
