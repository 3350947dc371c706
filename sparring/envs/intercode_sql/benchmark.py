"""The InterCodeSQL benchmark: which questions over which databases, split how, answered on which backend.

Source: arXiv 2306.14898 (the world and its reward), arXiv 1809.08887 (Spider: databases and official questions),
arXiv 2406.11176 (IPR: ten turns, observations cut at 350 characters, no reward without `submit`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.intercode_sql import dump as dumps
from sparring.envs.intercode_sql import expert, official, questions, translator
from sparring.envs.intercode_sql.backend import Backend
from sparring.envs.intercode_sql.env import InterCodeSQLEnv
from sparring.envs.intercode_sql.mysql import Server
from sparring.envs.intercode_sql.sandbox import Sandbox, limit_heap
from sparring.envs.intercode_sql.synthesis import InterCodeSQLSynthesis
from sparring.envs.measures import Measures, Rewards, mean_points, solved_points
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 10
"""Most actions of an episode, `submit` included (IPR)."""

MAX_OBSERVATION = 350
"""Characters after which an observation is cut (IPR)."""

HEAP_MB = 128
"""SQLite's memory for all envs of the process: some hundred copies of the largest of the 20 databases."""


class Images:
    """The backend in this process: SQLite images, and a lock that lets one statement run at a time."""

    def __init__(self, images: Mapping[str, bytes], *, is_strict: bool = False) -> None:
        self.images, self._is_strict = images, is_strict
        self._lock = threading.Lock()

    def names(self) -> frozenset[str]:
        return frozenset(self.images)

    def open(self, database: str, *, for_gold: bool = False) -> Sandbox:
        is_strict = self._is_strict and not for_gold
        return Sandbox(database, self.images[database], lock=self._lock, is_strict=is_strict)


class InterCodeSQL:
    """The benchmark. Splits `train`, `dev` and `test`, of questions made here or read from files."""

    instruction = (
        "You are at the prompt of a MySQL database and have a question to answer. Send one SQL statement per turn; you "
        "get its rows, or an error. Start with SHOW TABLES and DESC TABLE where you don't know the tables. When the "
        "rows of your last statement are the answer, send: submit\n"
        f"Output beyond {MAX_OBSERVATION} characters is cut; the answer itself is not. You have {TURN_LIMIT} turns."
    )
    reward: RewardRule = "so_far"
    env_per_process = False

    def __init__(
        self,
        *,
        path: str | Mapping[str, str] | None = None,
        dump: str | None = None,
        databases: str | None = None,
        graded: bool = False,
        strict: bool = False,
        backend: str = "sqlite",
        mysql: Mapping[str, Any] | None = None,
    ) -> None:
        """Choose questions and databases.

        Args:
            path: a question file, or a folder with InterCode's, split here; or split → file. None: questions made here.
            dump: a MySQL dump instead of the one in the package `intercode-bench`.
            databases: or, a folder of SQLite files, as Spider comes: `NAME/NAME.sqlite`.
            graded: reward failures on all but dev and test tasks by how near they came (`reward.grade`); success stays
                what it is.
            strict: refuse agents' statements that MySQL refuses in its default mode and SQLite accepts (`strict.py`).
                Gold queries run all the same.
            backend: `sqlite`, or `mysql` for a server of yours, MySQL or MariaDB.
            mysql: how to reach it: host, port, user, unix_socket; the password is in SPARRING_MYSQL_PASSWORD.

        Raises:
            ConfigError: a package is missing, or options contradict each other.
            DataError: a file is missing or malformed.
        """
        if dump is not None and databases is not None:
            raise ConfigError("env.options: give dump or databases, not both.")
        if databases is None:
            images = dumps.load_images(dumps.find_dump(dump))
        else:
            images = dumps.read_databases(Path(databases).expanduser())
        self.graded, self.strict = graded, strict
        self.is_generated = path is None
        """Whether the questions are those made here."""
        self.images = images
        self._tasks = self._read(path)
        self._held_out = {task.id for split, tasks in self._tasks.items() if split != "train" for task in tasks}
        self.backend = self._open_backend(backend, mysql)

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self._tasks:
            raise ConfigError(f"split: InterCodeSQL has none called {split!r}. Splits: {', '.join(self._tasks)}.")
        return self._tasks[split]

    def turn_limit(self, task: Task) -> int:
        return TURN_LIMIT

    def make_env(self) -> InterCodeSQLEnv:
        return InterCodeSQLEnv(self.backend, max_observation=MAX_OBSERVATION, is_graded=self.is_graded)

    def is_graded(self, task: Task) -> bool:
        """Say whether a failure on this task is rewarded by how near it came: on held-out tasks it never is."""
        return self.graded and task.id not in self._held_out

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Measures:
        """Return a hundred times the mean reward, and the success rate."""
        return {"reward": mean_points(rewards.values()), "success rate": solved_points(rewards.values())}

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return for each task: a look at the tables, at the columns of those that the gold query reads, the query."""
        return expert.expert_actions(tasks, self.images, num_turns=TURN_LIMIT, max_text=MAX_OBSERVATION)

    @cached_property
    def synthesis(self) -> InterCodeSQLSynthesis:
        """What it offers to those who make new tasks (`sparring.envs.synthesis`)."""
        return InterCodeSQLSynthesis(self.images, self._tasks, is_generated=self.is_generated)

    def _read(self, path: str | Mapping[str, str] | None) -> dict[str, list[Task]]:
        if path is None:
            splits = questions.make_splits(self.images)
            if not all(splits.values()):
                raise ConfigError(
                    "env.options: there are no questions of ours over these databases. Name a file of questions: "
                    'path = "questions.json".'
                )
            return splits
        names, empty = self.images.keys(), dumps.EMPTY_DATABASES
        if isinstance(path, str):
            return official.split_by_gold(official.read_questions(Path(path).expanduser(), names, empty))
        if not isinstance(path, Mapping):
            raise ConfigError("env.options.path: give a file, a folder, or a table of split → file.")
        return {
            split: official.read_questions(Path(file).expanduser(), names, empty, prefix=f"{split}/")
            for split, file in path.items()
        }

    def _open_backend(self, backend: str, mysql: Mapping[str, Any] | None) -> Backend:
        if backend == "sqlite":
            if mysql is not None:
                raise ConfigError('env.options.mysql: is for backend = "mysql".')
            limit_heap(HEAP_MB << 20)
            translator.require()
            return Images(self.images, is_strict=self.strict)
        if backend == "mysql":
            used = {task.data["db"] for tasks in self._tasks.values() for task in tasks}
            return Server(mysql or {}, used, is_strict=self.strict)
        raise ConfigError(f"env.options.backend: {backend!r} is not one. Give sqlite or mysql.")
