"""Question files in, tasks and splits out: InterCode's `ic_spider_dev.json`, or any file in Spider's form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.types import Task

FILE_NAME = "ic_spider_dev.json"
SOURCE = (
    "https://raw.githubusercontent.com/princeton-nlp/intercode/c3e46d827cfc9d4c704ec078f7abf9f41e3191d8/"
    f"data/sql/spider/{FILE_NAME}"
)
FETCH_COMMAND = f'curl -fL --create-dirs "{SOURCE}" -o "data/intercode_sql/{FILE_NAME}"'
"""Gets the official questions to where the documentation expects them."""

FORMS: Mapping[str, Mapping[str, str]] = {
    "gold": {"db": "db", "question": "query", "gold": "gold"},
    "db_id": {"db": "db_id", "question": "question", "gold": "query"},
}
"""How an entry names its parts: InterCode's form, known by its key `gold`, and Spider's, known by `db_id`."""

SHARES: Mapping[str, float] = {"train": 0.7, "dev": 0.1, "test": 0.2}
"""How much of a file goes to which split."""


def read_questions(path: Path, databases: Collection[str], empty: Collection[str], *, prefix: str = "") -> list[Task]:
    """Read a question file; questions over the `empty` databases are left out. Task ids begin with `prefix`.

    Raises:
        DataError: the file is missing or malformed, or an entry lacks something or names a database that is not there.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}). InterCode's questions: {SOURCE}.") from None
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error}). Fetch it again: {SOURCE}.") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: must be a list of questions, each {{db, query, gold}} or {{db_id, question, query}}.")
    data = [_parse_entry(entry, f"{file}: entry {i + 1}", databases) for i, entry in enumerate(entries)]
    tasks = [
        Task(id=f"{prefix}{parts['db']}/{i}", kind=_kind(entries[i]), data=parts)
        for i, parts in enumerate(data)
        if parts["db"] not in empty
    ]
    if not tasks:
        raise DataError(f"{file}: all its questions are about databases without rows ({', '.join(empty)}).")
    return tasks


def _parse_entry(entry: Any, where: str, databases: Collection[str]) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}, {json.dumps(entry)[:60]}, is not an object with db, query and gold.")
    form = FORMS["gold" if "gold" in entry else "db_id"]
    data = {}
    for part, key in form.items():
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {key!r} must be a text; it is {json.dumps(value)[:60]}.")
        data[part] = value.strip()
    if data["db"] not in databases:
        raise DataError(
            f"{where}: there is no database {data['db']!r}. Name a dump or a folder that has it "
            f"(env.options.dump, env.options.databases). There are: {', '.join(sorted(databases))}."
        )
    return data


def _kind(entry: Mapping[str, Any]) -> str:
    """Return InterCode's hardness; Spider's form has none."""
    hardness = entry.get("hardness")
    return hardness if isinstance(hardness, str) and hardness else "question"


def normal_form(query: str) -> str:
    """Return a query without what makes no difference: case, spacing and the semicolon at its end."""
    return re.sub(r"\s*([(),=<>])\s*", r"\1", " ".join(query.casefold().split())).rstrip("; ")


def split_by_gold(tasks: Sequence[Task], shares: Mapping[str, float] = SHARES) -> dict[str, list[Task]]:
    """Split tasks so that no gold query is on two sides: many questions are two wordings of one query.

    The queries are put into the order of their hashes, and cut where the shares end; a file's order plays no part.
    """
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(normal_form(task.data["gold"]), []).append(task)
    ordered = sorted(groups, key=lambda query: hashlib.sha256(query.encode()).digest())
    side, bounds, total = {}, list(shares.items()), 0
    for query in ordered:
        total += len(groups[query])
        reached = 0.0
        for split, share in bounds:
            reached += share
            side[query] = split
            if total <= reached * len(tasks):
                break
    return {split: [task for task in tasks if side[normal_form(task.data["gold"])] == split] for split in shares}
