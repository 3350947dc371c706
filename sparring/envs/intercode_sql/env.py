"""One live world: SQL statements in, rows or errors as text out, until `submit`."""

from __future__ import annotations

import re
from collections.abc import Callable

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.base import EnvStep
from sparring.envs.intercode_sql.backend import Backend, Result, Session
from sparring.envs.intercode_sql.reward import grade, reward

_FENCE = re.compile(r"```(?:sql\b|\w+(?=\s*\n))?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_EXECUTE = re.compile(r"execute\s*\[(.*)\]", re.DOTALL | re.IGNORECASE)
_SUBMIT = re.compile(r"submit\b", re.IGNORECASE)


def statement_of(action: str) -> str:
    """Take a statement out of its wrapping: a Markdown fence, or InterCode's `execute[…]`; nothing else is."""
    action = action.strip()
    for wrapping in (_FENCE, _EXECUTE):
        if match := wrapping.fullmatch(action):
            action = match[1].strip()
    return action


def is_submission(statement: str) -> bool:
    """Say whether a statement, taken out of its wrapping, ends the episode."""
    return _SUBMIT.match(statement) is not None


class InterCodeSQLEnv:
    """Plays questions, each on a fresh copy of its database."""

    def __init__(self, backend: Backend, *, max_observation: int, is_graded: Callable[[Task], bool]) -> None:
        """Play over `backend`; where `is_graded(task)`, failures are rewarded by how near they came."""
        self._backend, self._max_observation, self._is_graded = backend, max_observation, is_graded
        self._session: Session | None = None
        self._task: Task | None = None
        self._gold: Result | None = None
        self._last: Result | None = None
        self._reward, self._is_done = 0.0, True

    def reset(self, task: Task, seed: int) -> str:
        """Start a question. There is no chance in it: `seed` changes nothing."""
        self.close()
        self._session = self._backend.open(task.data["db"])
        self._task, self._gold, self._last = task, None, None
        self._reward, self._is_done = 0.0, False
        return f"Database: {task.data['db']}\nQuestion: {task.data['question']}"

    def step(self, action: str) -> EnvStep:
        """Run a statement, or end the episode with `submit`: the last statement's result is then the answer."""
        if self._session is None or self._task is None or self._is_done:
            return self._answer("The episode is over.")
        statement = statement_of(action)
        if is_submission(statement):
            self._is_done = True
            self._reward = max(self._reward, reward(self._last, self._gold_result()))
            return self._answer("Submitted." if self._last else "Submitted without an answer: no statement was run.")
        self._last = self._session.run(statement)
        if self._last.rows is not None and self._is_graded(self._task):
            self._reward = max(self._reward, grade(self._last, self._gold_result()))
        return self._answer(self._render(self._last))

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _answer(self, observation: str) -> EnvStep:
        return EnvStep(observation=observation, reward=self._reward, is_done=self._is_done)

    def _gold_result(self) -> Result:
        """Run the gold query on a copy of its own: what the agent has written changes nothing about it."""
        if self._gold is None:
            assert self._task is not None
            session = self._backend.open(self._task.data["db"], for_gold=True)
            try:
                self._gold = session.run(self._task.data["gold"])
            finally:
                session.close()
            if self._gold.rows is None:
                what = self._gold.error or "it gives no rows"
                raise DataError(f"{self._task.id}: its gold query fails ({what}): {self._task.data['gold']}")
        return self._gold

    def _render(self, result: Result) -> str:
        """Give rows as InterCode does, as a Python list of tuples; say so where the text is cut."""
        if result.error:
            text, total = f"Error executing query: {result.error}", ""
        elif result.rows is None:
            return "Executed, no output."
        else:
            text, total = str(list(result.rows)), f", {len(result.rows):,} rows"
        if len(text) <= self._max_observation:
            return text
        return f"{text[: self._max_observation]}… (cut; {len(text):,} characters{total})"
