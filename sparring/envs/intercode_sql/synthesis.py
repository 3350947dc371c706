"""InterCodeSQL's part in making tasks: more questions from the training side's templates, and questions in hindsight.

A synthetic task is a question, its database and its gold query, as all tasks are. Queries leave no state that a task
could begin in, and an answer is given once, so that there are neither restarts nor chains.

Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from random import Random

from sparring.core.types import Task, Trajectory
from sparring.envs.intercode_sql import lexicon
from sparring.envs.intercode_sql.drafts import Draft as Question
from sparring.envs.intercode_sql.env import is_submission, statement_of
from sparring.envs.intercode_sql.grammar import Scope
from sparring.envs.intercode_sql.official import normal_form
from sparring.envs.intercode_sql.questions import DRAWS, FAMILIES, is_good, skeleton
from sparring.envs.intercode_sql.sandbox import Sandbox
from sparring.envs.intercode_sql.wording import put_into_words
from sparring.envs.synthesis import Draft, synthetic_id

NEW_DRAWS = 160
"""Draws from each template for each database, after those that the benchmark's own questions came from."""

NUM_VARIATIONS = 8
"""Most variations of a task."""

VERBS = ("select", "show", "desc", "describe", "explain", "use", "with", "insert", "update", "delete", "create", "drop")
CLAUSES = ("join", "where", "group by", "having", "order by", "limit", "intersect", "except", "union")
LOOKS = re.compile(
    r"\s*(?:show|desc|describe|explain|use|pragma)\b|.*\b(?:information_schema|sqlite_master)\b", re.I | re.S
)
"""Statements that look at what tables there are, and not at what is in them."""


class InterCodeSQLSynthesis:
    """What InterCodeSQL offers (`Synthesis`)."""

    def __init__(
        self, images: Mapping[str, bytes], splits: Mapping[str, Sequence[Task]], *, is_generated: bool
    ) -> None:
        """Args:
        images: database → its image.
        splits: split → tasks; all but `train` are kept for evaluation.
        is_generated: whether these are questions of ours, split by pairs of skeleton and database.
        """
        self._images = images
        self._is_generated = is_generated
        self._training = {_pair(task) for task in splits.get("train", ())} if is_generated else set()
        held_out = [task for split, tasks in splits.items() if split != "train" for task in tasks]
        self._held_out = {_pair(task) for task in held_out} if is_generated else set()
        self._given = {_gold(task) for tasks in splits.values() for task in tasks}
        self._evaluated = {task.id for task in held_out}
        self._made: dict[tuple[str, str], list[Question]] = {}

    def variations(self, task: Task) -> list[Task]:
        """Ask about other columns and values with the same skeleton; one of the training side's, over that database."""
        if task.id in self._evaluated or task.kind not in FAMILIES or _pair(task) not in self._training:
            return []
        alike = [one for one in self._questions(task.kind, task.data["db"]) if skeleton(one.query) == _pair(task)[0]]
        made = [_make(task, "variation", one) for one in alike if normal_form(one.query) != _gold(task)[1]]
        return made[:NUM_VARIATIONS]

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Return none: queries leave no state behind."""
        return None

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Ask for what the submitted query gave, where our grammar has words for that query."""
        task = trajectory.task
        actions = [statement_of(turn.action) for turn in trajectory.turns]
        submitted = next((place for place, action in enumerate(actions) if is_submission(action)), 0)
        if task.id in self._evaluated or not submitted or LOOKS.match(actions[submitted - 1]):
            return None
        database = task.data["db"]
        if database not in lexicon.LEXICON or database not in self._images:
            return None
        with closing(Scope(database, self._images[database], lexicon.LEXICON[database])) as scope:
            question = put_into_words(actions[submitted - 1], scope)
            if question is None or not is_good(scope, question):
                return None
        made = _make(task, "relabel", question, query)
        if _gold(made) in self._given or _pair(made) in self._held_out:
            return None
        theirs, ours = self._last(database, actions[:submitted]), self._last(database, [question.query])
        return made if theirs is not None and theirs == ours else None

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Return none: a task has one answer."""
        return None

    def footprint(self, task: Task) -> dict[str, str]:
        """Return the question, the gold query, and of our questions the pair of skeleton and database.

        Results identify nothing: our own splits share 188 of them between questions about the same database.
        """
        aspects = {
            "text": f"{task.data['db']}: {task.data['question']}",
            "query": "/".join(_gold(task)),
        }
        return aspects | ({"scenario": "/".join(_pair(task))} if self._is_generated else {})

    def pattern(self, action: str) -> str:
        """Return the verb, and of a query its clauses, too: `select where order by`."""
        if is_submission(statement_of(action)):
            return "submit"
        words = re.findall(r"[a-z_]+", re.sub(r"'[^']*'", "", statement_of(action).lower()))
        if not words or words[0] not in VERBS:
            return ""
        text = f" {' '.join(words)} "
        return " ".join([words[0], *(clause for clause in CLAUSES if f" {clause} " in text)])

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether the data was asked anything: queries change none of it, and a look at columns answers nothing."""
        answers = [*(turn.observation for turn in trajectory.turns[1:]), trajectory.final_observation]
        return any(
            self.pattern(turn.action) not in ("", "submit")
            and not LOOKS.match(statement_of(turn.action))
            and not answer.startswith("Error")
            for turn, answer in zip(trajectory.turns, answers, strict=True)
        )

    def _questions(self, kind: str, database: str) -> list[Question]:
        """Draw questions of a kind about a database, none that a split has, all of the training side."""
        key = (kind, database)
        if key in self._made or database not in lexicon.LEXICON:
            return self._made.get(key, [])
        found: dict[str, Question] = {}
        with closing(Scope(database, self._images[database], lexicon.LEXICON[database])) as scope:
            for template in FAMILIES[kind]:
                for number in range(DRAWS, DRAWS + NEW_DRAWS):
                    one = template(Random(f"{database}/{template.__name__}/{number}"), scope)
                    if one is None or (skeleton(one.query), database) not in self._training:
                        continue
                    if (database, normal_form(one.query)) not in self._given and is_good(scope, one):
                        found.setdefault(normal_form(one.query), one)
        self._made[key] = list(found.values())
        return self._made[key]

    def _last(self, database: str, statements: Sequence[str]) -> Sequence[object] | None:
        """Return the rows of the last of some statements on a fresh copy; None where it has none."""
        with closing(Sandbox(database, self._images[database])) as sandbox:
            rows = None
            for statement in statements:
                rows = sandbox.run(statement).rows
        return rows


def _make(base: Task, made_by: str, question: Question, query: str = "") -> Task:
    said = f"{query}\n{question.question}" if query else question.question
    data = {"db": base.data["db"], "question": said, "gold": question.query}
    return Task(id=synthetic_id(base.id, made_by, data), kind=base.kind, data=data)


def _pair(task: Task) -> tuple[str, str]:
    return skeleton(task.data["gold"]), task.data["db"]


def _gold(task: Task) -> tuple[str, str]:
    return task.data["db"], normal_form(task.data["gold"])
