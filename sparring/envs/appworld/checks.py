"""Tests on the state that an episode leaves: rows before and after in, which tests pass and the reward out.

A test is a JSON object; what it may say is listed at `CHECKS`. Nothing in it is run as code, and it is judged outside
of the process that ran the agent's code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparring.core.errors import ConfigError

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""`app.Table` → its rows, each with its `id`."""

Check = Mapping[str, Any]

CHECKS: Mapping[str, frozenset[str]] = {
    "status": frozenset(),
    "answer": frozenset({"answer"}),
    "count": frozenset({"table", "where", "count"}),
    "changes": frozenset({"allowed"}),
}
"""The kinds of tests and what each says besides `name` and `check`.

- `status`: the task is marked complete, as a success.
- `answer`: the answer given to `complete_task` is this one: numbers by value, texts without regard to case and outer
  blanks, lists in any order (one text with commas is a list too).
- `count`: that many rows of `table` agree with `where` (field → value).
- `changes`: every row that was added, removed or updated is allowed: each of `allowed` names a `table` and the kind of
  `change`, and may name the `fields` that may be updated and, in `where`, which rows (as they are now, or were, where
  they are gone).
"""

TASK_TABLE = "supervisor.Task"
NOT_TOLD = "Notification"
"""Tables of this name hold what apps tell other people by themselves: changes there are nobody's doing."""

TOLERANCE = 0.005
"""Numbers closer than this are the same: half a cent."""


def validate(checks: Sequence[Check], where: str) -> None:
    """Refuse tests that say something unknown, or too little. Raises ConfigError."""
    for i, check in enumerate(checks):
        kind = str(check.get("check"))
        if kind not in CHECKS:
            raise ConfigError(f"{where}: test {i + 1} has no known `check`: {kind!r}. Known: {', '.join(CHECKS)}.")
        if said := set(check) - {"name", "check"} ^ CHECKS[kind]:
            raise ConfigError(f"{where}: test {i + 1} ({kind}): missing or unknown: {', '.join(sorted(said))}.")
        if not str(check.get("name", "")).strip():
            raise ConfigError(f"{where}: test {i + 1} has no `name`. Say in a few words what must hold.")


def passed(checks: Sequence[Check], before: Rows, after: Rows) -> list[bool]:
    """Tell of each test whether it passes."""
    return [_holds(check, before, after) for check in checks]


def reward(checks: Sequence[Check], before: Rows, after: Rows, start: Rows | None = None) -> float:
    """Return the share of tests passed beyond those that an agent passes which only ends the task.

    Breaking such a test (by changing what was to be left alone) costs as much as another one gains; less than 0 is 0.

    Args:
        checks: the tests.
        before: the rows that they compare with.
        after: the rows that are judged.
        start: the rows in which the agent began, where these are others than `before`.
    """
    idle = sum(passed(checks, before, idle_end(before if start is None else start)))
    return beyond_idle(sum(passed(checks, before, after)), idle, len(checks))


def beyond_idle(num_passed: int, num_idle: int, num: int) -> float:
    """Return (passed − idle) / (all − idle), at least 0; 0 too where an idle agent passes everything."""
    return max(0.0, (num_passed - num_idle) / (num - num_idle)) if num > num_idle else 0.0


def idle_end(before: Rows) -> Rows:
    """Return the state that an agent leaves which ends the task at once, without an answer."""
    tasks = [{**row, "status": "success", "answer": "null"} for row in before[TASK_TABLE]]
    return {**before, TASK_TABLE: tasks}


def _holds(check: Check, before: Rows, after: Rows) -> bool:
    match check["check"]:
        case "status":
            return [row["status"] for row in after.get(TASK_TABLE, ())] == ["success"]
        case "answer":
            return _is_answer(given_answer(after), check["answer"])
        case "count":
            return sum(_agrees(row, check["where"]) for row in after.get(check["table"], ())) == check["count"]
        case "changes":
            return all(any(_allows(rule, *change) for rule in check["allowed"]) for change in changes(before, after))
    raise AssertionError(check["check"])


def changes(before: Rows, after: Rows) -> Iterator[tuple[str, str, Mapping[str, Any], set[str]]]:
    """Give each change, the task's own row aside: table, kind (`added`, `removed`, `updated`), row, updated fields."""
    for table in sorted({*before, *after} - {TASK_TABLE}):
        if table.endswith(f".{NOT_TOLD}"):
            continue
        old, new = ({row["id"]: row for row in rows.get(table, ())} for rows in (before, after))
        yield from ((table, "added", new[id], set()) for id in sorted(new.keys() - old.keys()))
        yield from ((table, "removed", old[id], set()) for id in sorted(old.keys() - new.keys()))
        for id in sorted(old.keys() & new.keys()):
            if fields := {name for name in new[id] if new[id][name] != old[id].get(name)}:
                yield table, "updated", new[id], fields


def _allows(rule: Mapping[str, Any], table: str, change: str, row: Mapping[str, Any], fields: set[str]) -> bool:
    return (
        (rule["table"], rule["change"]) == (table, change)
        and fields <= set(rule.get("fields", fields))
        and _agrees(row, rule.get("where", {}))
    )


def _agrees(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(name in row and _same(row[name], value) for name, value in where.items())


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found.strip() == wanted.strip()
    if isinstance(wanted, list) and isinstance(found, list):
        return Counter(map(str, found)) == Counter(map(str, wanted))
    if isinstance(wanted, float) and isinstance(found, int | float):
        return abs(found - wanted) < TOLERANCE
    return found == wanted


def given_answer(after: Rows) -> Any:
    """Return what was answered through `complete_task`; None: nothing."""
    rows = after.get(TASK_TABLE, ())
    if len(rows) != 1:
        return None
    try:
        return json.loads(rows[0]["answer"])
    except ValueError:
        return rows[0]["answer"]


def _is_answer(given: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        items = given.split(",") if isinstance(given, str) else given
        return isinstance(items, list) and Counter(map(_plain, items)) == Counter(map(_plain, wanted))
    number = _number(wanted)
    if number is not None:
        found = _number(given)
        return found is not None and abs(found - number) < TOLERANCE
    return given is not None and _plain(given) == _plain(wanted)


def _plain(value: Any) -> str:
    return " ".join(str(value).strip().strip("\"'.").casefold().split())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(str(value).strip().removeprefix("$").replace(",", ""))
    except ValueError:
        return None
