"""AppWorld's part in making tasks: other draws of a template, episodes begun in the middle, deeds in hindsight, chains.

A synthetic task is one of `make_task`'s, with more `data` where it begins in the middle:

    prefix   code that is run at the reset, so that the episode begins in the state, and with the variables, it leads to

With a prefix, reward counts from what an agent would earn that ends the task there. Tasks are made of training
templates and scenes alone. What code did is read from the rows that it leaves in an engine of its own (`Replays`); no
code is run, read or changed anywhere else, but that the line which ends a task is cut off where another one follows.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.appworld import checks
from sparring.envs.appworld.drafting import only
from sparring.envs.appworld.exploration import explored_action, place_of
from sparring.envs.appworld.generate import find_template, own_task
from sparring.envs.appworld.hindsight import put_into_words
from sparring.envs.appworld.official import OFFICIAL_KIND, official_instruction
from sparring.envs.appworld.replays import Replay, Replays
from sparring.envs.appworld.scene import NAMES, Names, Scene
from sparring.envs.appworld.tasks import Draft as Drafted
from sparring.envs.appworld.tasks import make_task
from sparring.envs.synthesis import Draft, synthetic_id

NUM_VARIATIONS = 24
"""Variations of a template, beyond the benchmark's own draws from it."""
MAX_DRAWS = 8
"""How often the second of two chained tasks is drawn anew until it keeps clear of the first."""
MAX_PATTERN = 4
"""Most APIs that a pattern names."""

CALL = re.compile(r"\bapis\.(\w+)\.(\w+)\s*\(")
COMPLETION = re.compile(r"(?:^|\n)apis\.supervisor\.complete_task\((?:status=['\"]success['\"])?\)\s*$")
"""The last line of code that ends a task without an answer."""
LABELS: Mapping[str, Sequence[str]] = {
    "simple_note.Note": ("title", "tags"),
    "todoist.Project": ("name",),
    "todoist.ProjectCollaboratorLink": (),
    "todoist.Task": (),
    "phone.Contact": (),
    "file_system.Directory": ("path",),
    "file_system.File": ("path",),
    "gmail.Email": ("subject",),
    "gmail.GlobalEmailThread": (),
    "gmail.UserEmailThread": (),
}
"""Tables that two tasks may share, if no row of the second has a value in these fields that one of the first has."""


class AppWorldSynthesis:
    """What AppWorld offers (`Synthesis`), of our own tasks."""

    def __init__(
        self,
        splits: Mapping[str, Sequence[Task]],
        seed: int,
        apis: Collection[str],
        replays: Replays,
        official: Path | None = None,
    ) -> None:
        """Args:
        splits: split → tasks; all but `train` are kept for evaluation. Official ones are in no other split.
        seed: of our own tasks.
        apis: `app.api` of all that can be called.
        replays: tells what code did.
        official: data folder of the official tasks among them.
        """
        self._evaluated = {task.id for split, tasks in splits.items() if split != "train" for task in tasks}
        self._held_out = _names_of(names for split, names in NAMES.items() if split != "train")
        self._seed = seed
        self._apis = frozenset(apis)
        self._replays = replays
        self._official = official
        self._made: dict[str, list[Task]] = {}

    def variations(self, task: Task) -> list[Task]:
        """List other draws of the task's template: other people, things, numbers, and another state."""
        found = find_template(task.id)
        if found is None or not self._is_training(task):
            return []
        split, app, template = found
        base = f"{app}/{template.__name__.replace('_', '-')}"
        if base not in self._made:
            drawn = [own_task(split, app, template, self._seed, f"variation-{i}") for i in range(NUM_VARIATIONS)]
            named = (replace(one, id=synthetic_id(base, "variation", one.data)) for one in drawn)
            self._made[base] = list({one.id: one for one in named}.values())
        return [one for one in self._made[base] if one.id != task.id]

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Begin after a prefix of code, which follows the task's own; none from where all is won, or over."""
        if not prefix or not self._is_training(task):
            return None
        data = {**task.data, "prefix": [*task.data.get("prefix", ()), *prefix], "reference": []}
        made = Task(id=synthetic_id(task.id, "restart", data), kind=task.kind, data=data)
        played = self._replays.play(made, ())
        if played is None or played.is_complete:
            return None
        passed = checks.passed(data["tests"], played.before, checks.idle_end(played.start))
        return None if all(passed) else made

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Ask for what a trajectory that marked its task complete changed in the apps, where there are words for it."""
        task = trajectory.task
        if not any("complete_task" in turn.action for turn in trajectory.turns) or not self._is_training(task):
            return None
        played = self._replay(trajectory)
        if played is None or not _has_ended_well(played):
            return None
        draft = put_into_words(played.before, played.start, played.end)
        if draft is None or self._names_held_out(draft.instruction):
            return None
        actions = [turn.action for turn in trajectory.turns]
        said = f"{query}\n{draft.instruction}" if query else draft.instruction
        draft = replace(draft, instruction=said, reference=actions)
        return _make(task, "relabel", draft, task.data["rows"], prefix=task.data.get("prefix", ()))

    def place(self, task: Task) -> Task | None:
        """Return the state that a training task of ours begins in, with a supervisor who has no wishes."""
        is_ours = "rows" in task.data and "prefix" not in task.data
        return place_of(task) if is_ours and self._is_training(task) else None

    def explore(self, place: Task, turns: Sequence[Turn], observation: str, seed: int) -> str | None:
        """Do one or two things by chance, and end the episode."""
        return explored_action(place, len(turns), seed)

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Ask for a deed, and then for something else in the same scene.

        A second task that begins in another state is drawn anew from its template, into the scene of the first. A
        question comes last: a task has one answer.
        """
        tasks = (first.task, second.task)
        if any("prefix" in task.data or not self._is_training(task) for task in tasks):
            return None
        begun = without_completion(first.actions)
        if begun is None or first.task.data["instruction"] == second.task.data["instruction"]:
            return None
        if _start(first.task) == _start(second.task):
            rows, then, actions = first.task.data["rows"], second.task.data, second.actions
        else:
            drawn = self._draw_into(first.task, second.task)
            if drawn is None:
                return None
            rows, then, actions = drawn["rows"], drawn, drawn["reference"]
        if _aims(first.task.data["tests"]) & _aims(then["tests"]):
            return None  # the same would be asked for twice
        draft = Drafted(
            instruction=f"Two things, one after the other. First: {first.task.data['instruction']} "
            f"Then: {then['instruction']}",
            tests=_merge(first.task.data["tests"], then["tests"]),
            reference=[*begun, *actions],
        )
        made = _make(first.task, "chain", draft, rows)
        return Draft(task=made, actions=tuple(made.data["reference"]))

    def footprint(self, task: Task) -> dict[str, str]:
        """Return the instruction, the state it starts in, and that state with the tests; of an official task the first.

        Raises:
            DataError: an official task's instruction can't be read.
        """
        if task.kind == OFFICIAL_KIND:
            assert self._official is not None, "an official task has a data folder"
            return {"text": official_instruction(self._official, task.id)}
        start = _start(task)
        return {
            "text": task.data["instruction"],
            "scenario": _hash(start),
            "answer": _hash([start, [test for test in task.data["tests"] if test["check"] != "status"]]),
        }

    def pattern(self, action: str) -> str:
        """Return the APIs that code calls by their names: `todoist.show_tasks todoist.update_task`; empty: none."""
        called = {f"{app}.{api}" for app, api in CALL.findall(action)}
        return " ".join(sorted(called & self._apis)[:MAX_PATTERN])

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether the code changed anything in the apps, or answered a question."""
        played = self._replay(trajectory)
        if played is None:
            return False
        is_answered = checks.given_answer(played.end) not in (None, checks.given_answer(played.start))
        return is_answered or any(True for _ in checks.changes(played.start, played.end))

    def _replay(self, trajectory: Trajectory) -> Replay | None:
        return self._replays.play(trajectory.task, [turn.action for turn in trajectory.turns])

    def _is_training(self, task: Task) -> bool:
        found = find_template(task.id)
        return task.id.partition("+")[0] not in self._evaluated and (found is None or found[0] == "train")

    def _names_held_out(self, text: str) -> bool:
        """Whether a text has a name that belongs to an evaluation split; an agent may have invented it."""
        return any(re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) for name in self._held_out)

    def _draw_into(self, first: Task, second: Task) -> dict[str, Any] | None:
        """Draw the second task's template into the scene of the first; None: they can't be kept apart."""
        found = find_template(second.id)
        is_drawn = "+" not in second.id or "+variation-" in second.id
        if found is None or not is_drawn or find_template(first.id) is None:
            return None
        rows, now = first.data["rows"], first.data["moment"]
        for number in range(MAX_DRAWS):
            scene = Scene.of("train", rows, now, f"{first.id} {second.id} {number}")
            drafted = found[2](scene)
            made = make_task(id=second.id, kind=second.kind, rows=scene.rows, moment=now, draft=drafted)
            if _are_apart(first, made, scene):
                return dict(made.data)
        return None


def without_completion(actions: Sequence[str]) -> list[str] | None:
    """Cut the last line off that ends a task without an answer; None: the last line is another one.

    `["x = 1\\napis.supervisor.complete_task()"]` becomes `["x = 1"]`.
    """
    *others, last = actions or ("",)
    if not COMPLETION.search(last):
        return None
    rest = COMPLETION.sub("", last)
    kept = [*others, rest] if rest.strip() else others
    return None if any("complete_task" in code for code in kept) else kept


def _has_ended_well(played: Replay) -> bool:
    marks = [row["status"] for row in played.end.get(checks.TASK_TABLE, ())]
    return played.is_complete and marks == ["success"]


def _allowed(tests: Sequence[checks.Check]) -> list[dict[str, Any]]:
    """List the rules of what may change."""
    return [rule for test in tests if test["check"] == "changes" for rule in test["allowed"]]


def _aims(tests: Sequence[checks.Check]) -> set[str]:
    """Return what may change, as far as it is said which rows: what comes along with it may be the same for others."""
    return {json.dumps(rule, sort_keys=True) for rule in _allowed(tests) if rule["where"]}


def _merge(first: Sequence[checks.Check], second: Sequence[checks.Check]) -> list[checks.Check]:
    """Put the tests of two tasks together: what either may change may change."""
    tests = [*first, *second]
    rules = {json.dumps(rule, sort_keys=True): rule for rule in _allowed(tests)}
    kept = {json.dumps(test, sort_keys=True): test for test in tests if test["check"] not in ("changes", "status")}
    return [*kept.values(), only(*rules.values())]


def _are_apart(first: Task, second: Task, scene: Scene) -> bool:
    """Whether the second task, drawn into the scene of the first, leaves its entries and people alone."""
    old = first.data["rows"]
    for app, tables in second.data["rows"].items():
        for table, rows in tables.items():
            before = old.get(app, {}).get(table, ())
            if app == "supervisor" or not before or len(rows) == len(before):
                continue
            fields = LABELS.get(f"{app}.{table}")
            if fields is None or any(_values(before, one) & _values(rows[len(before) :], one) for one in fields):
                return False
    texts = (first.data["instruction"], second.data["instruction"])
    names = [word for person in scene.people[1:] for word in (person.first, person.last)]
    return not any(all(name in text for text in texts) for name in names)


def _values(rows: Sequence[Mapping[str, Any]], field: str) -> set[Any]:
    found = [row[field] for row in rows]
    return {value for one in found for value in (one if isinstance(one, list) else [one])}


def _make(base: Task, made_by: str, draft: Drafted, rows: Mapping[str, Any], *, prefix: Sequence[str] = ()) -> Task:
    made = make_task(id=base.id, kind=base.kind, rows=rows, moment=base.data["moment"], draft=draft)
    data = {**made.data, "prefix": list(prefix)} if prefix else made.data
    return Task(id=synthetic_id(base.id, made_by, data), kind=base.kind, data=data)


def _names_of(pools: Iterable[Names]) -> frozenset[str]:
    """List the names of people, projects, playlists and artists, and the mail domains, of some splits."""
    found: set[str] = set()
    for names in pools:
        found |= {*names.first, *names.last, *names.projects, *names.chores, *names.artists, *names.playlists}
        found.add(names.domain)
    return frozenset(found)


def _start(task: Task) -> list[Any]:
    """Return the state that a task begins in, without its own instruction."""
    rows = task.data["rows"]
    plain = {**rows, "supervisor": {name: found for name, found in rows["supervisor"].items() if name != "Task"}}
    return [task.data["moment"], plain, list(task.data.get("prefix", ()))]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
