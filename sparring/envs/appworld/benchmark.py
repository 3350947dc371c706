"""AppWorld: an assistant that acts by writing Python code against the APIs of nine everyday apps.

Comes in: our own tasks, generated from a seed, or the official ones from AppWorld's data folder. Goes out: tasks, live
worlds on AppWorld's real engine, reference code.
Source: arXiv 2407.18901 (the world, its engine and the official tasks).

Deviates: reward is graded, in the way of the official tests: the share of tests passed beyond those that an agent
passes which only ends its task. What an agent may import is narrower than in AppWorld, and its code is shut in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, DataError, quote
from sparring.core.types import Task
from sparring.envs.appworld import checks
from sparring.envs.appworld.generate import OwnTasks
from sparring.envs.appworld.install import find_engine
from sparring.envs.appworld.official import OFFICIAL_KIND, OFFICIAL_SPLITS, REMEDY, official_tasks
from sparring.envs.appworld.process import EngineProcess, EpisodeEnded, Limits, Rows
from sparring.envs.appworld.replays import Replays, clean
from sparring.envs.appworld.scenarios import goal_completion
from sparring.envs.appworld.synthesis import AppWorldSynthesis
from sparring.envs.appworld.tasks import engine_task
from sparring.envs.base import EnvStep
from sparring.envs.measures import Measures, Rewards
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 20
"""Most actions of an episode, unless the option `turn_limit` says otherwise (CoEvolve's paper: 30)."""
MAX_TURNS = 1000
"""AppWorld's own limit."""

GUIDE = (
    "I am {first_name} {last_name} (email {email}, phone number {phone_number}), your supervisor. "
    "Do this task for me, with no further questions:\n\n{instruction}\n\n"
    "Your Python code finds an object `apis`. My passwords: apis.supervisor.show_account_passwords(). "
    "To see what there is: apis.api_docs.show_app_descriptions(), "
    "apis.api_docs.show_api_descriptions(app_name='…'), apis.api_docs.show_api_doc(app_name='…', api_name='…'). "
    "When you are done: apis.supervisor.complete_task(), and if I asked a question, "
    "apis.supervisor.complete_task(answer=…), with the bare answer."
)
"""The first observation."""

SO_FAR = "Done so far, in the same interpreter, which has kept its variables:"
MAX_SO_FAR = 500
"""Most characters of what each piece of code printed that the start of a task with a prefix tells."""

BROKEN = "The code has ended the Python interpreter it ran in. The task is over."


class AppWorld:
    """The benchmark. Splits `train`, `dev`, `test`; with official data `test_challenge` too.

    In parity mode `test` and `test_challenge` are the official tasks, as in published figures; `train` and `dev` ours.
    """

    instruction = (
        "You are an assistant that acts in everyday apps by writing Python code. Each turn your code is run in one "
        "interpreter: variables are kept. You see what it prints, or its error; the value of a last expression is not "
        "shown: print it. Apps: supervisor, api_docs, simple_note, todoist, phone, venmo, spotify, file_system, gmail, "
        "splitwise, amazon. Call apis.APP.API(name=value, …). Most APIs need access_token=…, which "
        "apis.APP.login(username=…, password=…)['access_token'] gives; the username is the supervisor's email address, "
        "in phone the phone number. Lists come in pages: page_index=0, 1, …, page_limit up to 20."
    )
    reward: RewardRule = "so_far"
    env_per_process = True  # the engine keeps global state, and freezes time

    def __init__(
        self,
        *,
        path: str | None = None,
        turn_limit: int = TURN_LIMIT,
        parity: bool = False,
        limits: Mapping[str, float] | None = None,
        unconfined: bool = False,
        **ours: Any,
    ) -> None:
        """Choose the tasks; starts nothing.

        Args:
            path: AppWorld's data folder, for its official tasks (`appworld download data` fetches it).
            turn_limit: most actions of an episode.
            parity: evaluate on the official tasks of `path`, and train on ours.
            limits: what an agent's code may use, see `Limits`.
            unconfined: run agents' code even where the machine can't shut it in.
            ours: `seed`, `num_per_template` and `shared_templates` of our own tasks, see `OwnTasks`.

        Raises:
            ConfigError: the engine is not installed, or an option is unknown or senseless.
            DataError: `path` is no such folder.
        """
        self.engine = find_engine()
        self.unconfined = unconfined
        try:
            self.limits = Limits(**(limits or {}))  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise ConfigError(f"env.options.limits: {error}.") from None
        self.data = Path(path).expanduser().absolute() if path is not None else self.engine.data
        self._is_official = path is not None and not parity
        drawn = OwnTasks(**ours)
        self._seed = drawn.seed
        self._turn_limit = _checked(turn_limit)
        self._tasks: dict[str, list[Task]] = {}
        if not self._is_official:
            self._tasks = drawn.draw()
        if path is not None:
            self._tasks |= _for_parity(self.data) if parity else official_tasks(self.data)
        elif parity:
            raise ConfigError(
                "env.options: parity evaluates on AppWorld's official tasks; name their folder: env.path."
            )

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks, app by app. Raises ConfigError: there is no such split."""
        if split not in self._tasks:
            raise ConfigError(f"split: AppWorld has none called {split!r}. Splits: {', '.join(self._tasks)}.")
        return self._tasks[split]

    def turn_limit(self, task: Task) -> int:
        return self._turn_limit

    def make_env(self) -> AppWorldEnv:
        return AppWorldEnv(self._make_engine(), self._turn_limit)

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return the reference code of our own tasks, an action a step.

        Official tasks have none here, and neither has a task that begins where somebody's code left off.
        """
        return {task.id: list(task.data["reference"]) for task in tasks if task.data.get("reference")}

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Measures:
        """Return task and scenario goal completion (TGC, SGC)."""
        return goal_completion([task for split in self._tasks.values() for task in split], tasks, rewards)

    @cached_property
    def synthesis(self) -> AppWorldSynthesis:
        """What it offers to those who make new tasks (`sparring.envs.synthesis`).

        Raises:
            ConfigError: the tasks are the official ones.
        """
        if self._is_official:
            raise ConfigError(
                "AppWorld's official tasks are not ours to vary: their texts and their tests are code and prose of "
                "their authors, and can't be stated anew. Make tasks from ours (`parity = true` under [env.options], "
                'or no `path`), or use the control arm: synthesis.kind = "replay".'
            )
        api_docs = sorted((self.data / "api_docs" / "standard").glob("*.json"))
        apis = {f"{file.stem}.{name}" for file in api_docs for name in json.loads(file.read_text(encoding="utf-8"))}
        return AppWorldSynthesis(self._tasks, self._seed, apis, Replays(self._make_engine), self.data)

    def _make_engine(self) -> EngineProcess:
        return EngineProcess(self.engine, self.data, self.limits, unconfined=self.unconfined)


class AppWorldEnv:
    """One live world. The reward is told when the task is marked complete or the last turn is over; before it is 0."""

    def __init__(self, engine: EngineProcess, turn_limit: int = TURN_LIMIT) -> None:
        self.engine = engine
        self.turn_limit = turn_limit
        self.task: Task | None = None
        self.before: Rows = {}
        self.start: Rows = {}
        self.num_turns = 0

    def reset(self, task: Task, seed: int) -> str:
        """Start a task. The world has no chance in it: `seed` changes nothing."""
        self.task, self.num_turns = task, 0
        if task.kind == OFFICIAL_KIND:
            start = self.engine.open(official=task.id)
            return GUIDE.format(**start["supervisor"], instruction=start["instruction"])
        self.before = self.start = self.engine.open(task=engine_task(task))["rows"]
        first = GUIDE.format(**task.data["supervisor"], instruction=task.data["instruction"])
        prefix = task.data.get("prefix")
        return f"{first}\n\n{SO_FAR}\n{self._begin(prefix)}" if prefix else first

    def _begin(self, prefix: Sequence[str]) -> str:
        """Run what lies before the start of the task, and tell it."""
        told = []
        try:
            for code in prefix:
                output, _ = self.engine.execute(clean(code))
                told.append(f"{code}\n→ {output[:MAX_SO_FAR]}{'…' if len(output) > MAX_SO_FAR else ''}")
            self.start = self.engine.rows()
        except EpisodeEnded:  # the next action finds it out
            told.append(BROKEN)
        return "\n".join(told)

    def step(self, action: str) -> EnvStep:
        """Run code. Code that ends its interpreter ends the episode, without a reward."""
        assert self.task is not None
        self.num_turns += 1
        try:
            output, is_complete = self.engine.execute(clean(action))
            is_last = is_complete or self.num_turns >= self.turn_limit
            return EnvStep(observation=output, reward=self._reward() if is_last else 0.0, is_done=is_complete)
        except EpisodeEnded:
            return EnvStep(observation=BROKEN, reward=0.0, is_done=True)

    def close(self) -> None:
        self.engine.close()

    def _reward(self) -> float:
        assert self.task is not None
        if self.task.kind != OFFICIAL_KIND:
            return checks.reward(self.task.data["tests"], self.before, self.engine.rows(), self.start)
        tests = self.engine.grade_official(self.task.id)
        return checks.beyond_idle(
            sum(test["is_passed"] for test in tests), sum(test["passes_idle"] for test in tests), len(tests)
        )


def _checked(turn_limit: int) -> int:
    """Raises ConfigError: no number of turns."""
    if type(turn_limit) is not int or not 1 <= turn_limit <= MAX_TURNS:
        raise ConfigError(f"env.options: turn_limit is {quote(turn_limit)}. Give a whole number from 1 to {MAX_TURNS}.")
    return turn_limit


def _for_parity(data: Path) -> dict[str, list[Task]]:
    """List the official tasks that figures are published on.

    Raises:
        DataError: there are none.
    """
    found = {split: tasks for split, tasks in official_tasks(data).items() if split.startswith("test")}
    if "test" not in found:
        raise DataError(f"{data}: has no datasets/{OFFICIAL_SPLITS['test']}.txt, which parity evaluates on. {REMEDY}")
    return found
