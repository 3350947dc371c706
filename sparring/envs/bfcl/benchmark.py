"""BFCL v3 multi-turn as a benchmark: 800 tasks in four variants, their splits and their experts.

Source: the Berkeley Function Calling Leaderboard, `bfcl-eval` 2026.3.23 (Apache-2.0).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import get_args

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.bfcl.calls import write_calls
from sparring.envs.bfcl.env import DONE, STEPS_PER_TURN, BFCLEnv
from sparring.envs.bfcl.exploration import explored_tasks
from sparring.envs.bfcl.functions import Style
from sparring.envs.bfcl.scenario import Reference, Scenario, benchmark_task, reference_of, scenario_of
from sparring.envs.bfcl.synthesis import BFCLSynthesis
from sparring.envs.bfcl.wheel import VARIANTS, entries, find_wheel
from sparring.envs.measures import Measures, Rewards, solved_points
from sparring.envs.rewards import RewardRule

SIDES = ("train", "train", "train", "dev", "test")
"""The side of a scenario whose number is 0, 1, 2, 3 or 4 modulo 5."""
ALL = "all"
"""The split with all 800 tasks, as the benchmark itself evaluates."""
NUM_EXPLORED = 400
"""Training tasks of the parity mode."""
DEV_SHARE = 5
"""One dev task of the parity mode for so many training tasks."""


class BFCL:
    """The benchmark. Splits `train`, `dev`, `test` by scenario, and `all`; task types are the four variants.

    In parity mode `test` is all 800 tasks, as in published figures; `train` and `dev` are made by exploration alone.
    """

    reward: RewardRule = "so_far"
    env_per_process = False  # each episode has its own instances; nothing that they share is left changed

    def __init__(
        self,
        *,
        docs: Style = "short",
        steps_per_turn: int = STEPS_PER_TURN,
        turn_limit: int | None = None,
        parity: bool = False,
        num_explored: int = NUM_EXPLORED,
        seed: int = 0,
    ) -> None:
        """Look the wheel up; reads nothing yet.

        Args:
            docs: `short` shows each function's signature and a sentence, `signatures` the former, `full` the
                benchmark's JSON docs.
            steps_per_turn: answers with calls that an agent may give in one user turn.
            turn_limit: most answers of a conversation (CoEvolve's paper: 30); none: as many as its steps allow.
            parity: evaluate on all 800 tasks and train on explored ones.
            num_explored: how many of these, in parity mode; `dev` has a fifth as many others.
            seed: of the exploration, in parity mode.

        Raises:
            ConfigError: the wheel or mpmath is not installed, or an option makes no sense.
        """
        if docs not in get_args(Style):
            raise ConfigError(f"env.options: docs is {docs!r}. Give one of: {', '.join(get_args(Style))}.")
        counts = {"steps_per_turn": steps_per_turn, "num_explored": num_explored}
        for name, value in (counts if turn_limit is None else {**counts, "turn_limit": turn_limit}).items():
            if type(value) is not int or value < 1:
                raise ConfigError(f"env.options: {name} is {value!r}. Give a whole number from 1.")
        if type(parity) is not bool or type(seed) is not int:
            raise ConfigError(
                f"env.options: parity is {parity!r} and seed is {seed!r}. Give true or false, and a number."
            )
        if not parity and (num_explored, seed) != (NUM_EXPLORED, 0):
            raise ConfigError("env.options: num_explored and seed are for the parity mode. Give parity = true too.")
        find_wheel()
        self.parity = parity
        self._num_explored = num_explored
        self._seed = seed
        self.docs: Style = docs
        self.steps_per_turn = steps_per_turn
        self._turn_limit = turn_limit
        self.instruction = (
            "You serve a user by calling functions. Answer with calls on one line, in the form "
            "[function(name=value), function(name=value)]. Values are literals: text in quotes, numbers, True, False, "
            "None, lists, dictionaries. You see what the calls return and may call again, up to "
            f"{steps_per_turn} times for one message. Do what the user asks and nothing else. When it is done, or when "
            f"a function or a detail that it needs is missing, answer {DONE}; then the user goes on."
        )

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks, variant by variant.

        Raises:
            ConfigError: there is no such split.
        """
        known = (*dict.fromkeys(SIDES), ALL)
        if split not in known:
            raise ConfigError(f"split: BFCL has none called {split!r}. Splits: {', '.join(known)}.")
        if self.parity and split in ("train", "dev"):
            num = self._num_explored if split == "train" else math.ceil(self._num_explored / DEV_SHARE)
            return explored_tasks(split, num, self._seed)
        split = ALL if self.parity else split
        numbers = [number for number, side in enumerate(scenario_sides()) if split in (side, ALL)]
        return [benchmark_task(variant, number) for variant in VARIANTS for number in numbers]

    def turn_limit(self, task: Task) -> int:
        """Return as many actions as the world allows: for each user turn its steps and the answer that ends it."""
        most = len(scenario_of(task).requests) * (self.steps_per_turn + 1)
        return most if self._turn_limit is None else min(most, self._turn_limit)

    def make_env(self) -> BFCLEnv:
        return BFCLEnv(docs=self.docs, steps_per_turn=self.steps_per_turn)

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Measures:
        """Return the accuracy, the share of conversations that pass the benchmark's checker, in all and by variant."""
        kinds = sorted({task.kind for task in tasks})
        of = {kind: [rewards[task.id] for task in tasks if task.kind == kind and task.id in rewards] for kind in kinds}
        by_kind = {f"accuracy, {kind}": solved_points(found) for kind, found in of.items()}
        return {"accuracy": solved_points(rewards.values()), **(by_kind if len(kinds) > 1 else {})}

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return the reference's calls, one an answer where the steps allow it, and `done` after each user turn.

        A conversation that begins in the middle has none: how to go on depends on how it began.
        """
        whole = [task for task in tasks if "prefix" not in task.data]
        return {task.id: expert(reference_of(task), self.steps_per_turn) for task in whole}

    @cached_property
    def synthesis(self) -> BFCLSynthesis:
        """What it offers to those who make new tasks (`sparring.envs.synthesis`)."""
        return BFCLSynthesis(self.tasks("train"))

    def training_scenario(self, task: Task) -> Scenario:
        """Return a training task's scenario, for making other tasks from it.

        Raises:
            ConfigError: the task is one of the benchmark's that is kept for evaluation.
        """
        scenario = scenario_of(task)
        if "entry" in task.data and (
            self.parity or scenario_sides()[int(task.data["entry"].rpartition("_")[2])] != "train"
        ):
            raise ConfigError(f"BFCL task {task.id} is kept for evaluation: tasks are made from the split train alone.")
        return scenario


def expert(reference: Reference, steps_per_turn: int = STEPS_PER_TURN) -> list[str]:
    """Write a reference as an agent's answers."""
    actions = []
    for calls in reference:
        size = max(1, math.ceil(len(calls) / steps_per_turn))
        actions += [write_calls(list(calls[i : i + size])) for i in range(0, len(calls), size)]
        actions.append(DONE)
    return actions


@cache
def scenario_sides() -> Sequence[str]:
    """Return each scenario's side by its number. Scenarios that start in the same state go with the first of them."""
    first: dict[str, int] = {}
    base = entries("base")
    sides = []
    for number in range(len(base)):
        state = json.dumps(base[f"multi_turn_base_{number}"]["initial_config"], sort_keys=True)
        sides.append(SIDES[first.setdefault(state, number) % len(SIDES)])
    return sides
