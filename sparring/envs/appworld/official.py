"""AppWorld's official tasks: their ids by split, and the instruction of one, for telling that a new task is none.

Source: arXiv 2407.18901.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sparring.core.errors import DataError
from sparring.core.types import Task

OFFICIAL_SPLITS: Mapping[str, str] = {
    "train": "train",
    "dev": "dev",
    "test": "test_normal",
    "test_challenge": "test_challenge",
}
"""Split → file `datasets/….txt` of AppWorld's data folder."""

OFFICIAL_KIND = "official"
REMEDY = "Name the folder `data` that `appworld download data` made (docs/worlds/appworld.md)."


def official_tasks(data: Path) -> dict[str, list[Task]]:
    """List the official tasks of AppWorld's data folder; nothing of them is read but their ids.

    Raises:
        DataError: it is no such folder, or a listed task is missing.
    """
    tasks: dict[str, list[Task]] = {}
    for split, name in OFFICIAL_SPLITS.items():
        file = data / "datasets" / f"{name}.txt"
        if not file.exists():
            continue
        tasks[split] = [Task(id=id, kind=OFFICIAL_KIND) for id in file.read_text(encoding="utf-8").split()]
        for task in tasks[split]:
            if not (data / "tasks" / task.id / "specs.json").exists():
                raise DataError(f"{file}: lists {task.id}, but {data / 'tasks' / task.id} is not there. {REMEDY}")
    if not tasks:
        raise DataError(f"{data}: holds no AppWorld data (no datasets/train.txt). {REMEDY}")
    return tasks


def official_instruction(data: Path, id: str) -> str:
    """Read what an official task asks for.

    Raises:
        DataError: its `specs.json` can't be read, or has no instruction.
    """
    file = data / "tasks" / id / "specs.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["instruction"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: holds no instruction ({type(error).__name__}). {REMEDY}") from None
    return str(found)
