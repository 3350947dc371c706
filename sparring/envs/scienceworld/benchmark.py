"""ScienceWorld: 30 kinds of elementary-school science experiments in a text world; needs the `scienceworld` package.

Comes in: the simulator's own split, or a split from files such as ETO's. Goes out: tasks, live worlds, gold paths.
Source: arXiv 2203.07540 (the world), 2403.02502 (ETO's split, turn limits and reward: the best score over the turns).

Deviates: the simulator is called directly: the package's own `step` lists every valid action after every turn, which no
agent here reads and which costs more than the turn itself. Scores and endings are computed as it does. That listing
also draws from the simulator's random numbers, so where chance acts (the bees of grow-fruit and mendelian-*) episodes
equal each other, and not those of the package's `step`.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.base import EnvStep, num_cores
from sparring.envs.measures import Measures, Rewards, mean_points
from sparring.envs.rewards import RewardRule
from sparring.envs.scienceworld.jvm import Simulator, find_jar, find_java
from sparring.envs.scienceworld.synthesis import Scene, ScienceWorldSynthesis, is_synthetic

NUM_VARIATIONS: Mapping[str, int] = {
    "boil": 30,
    "change-the-state-of-matter-of": 30,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "find-animal": 300,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "freeze": 30,
    "grow-fruit": 126,
    "grow-plant": 126,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "lifespan-longest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "lifespan-shortest-lived": 125,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "melt": 30,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "use-thermometer": 540,
}
"""Variations of each task type in scienceworld 1.2. Kept here so that listing tasks starts no JVM; a test compares."""

TURN_LIMITS: Mapping[str, int] = {
    "boil": 100,
    "change-the-state-of-matter-of": 80,
    "chemistry-mix": 60,
    "chemistry-mix-paint-secondary-color": 15,
    "chemistry-mix-paint-tertiary-color": 30,
    "find-animal": 15,
    "find-living-thing": 15,
    "find-non-living-thing": 15,
    "find-plant": 15,
    "freeze": 80,
    "grow-fruit": 60,
    "grow-plant": 30,
    "identify-life-stages-1": 30,
    "identify-life-stages-2": 30,
    "inclined-plane-determine-angle": 226,
    "inclined-plane-friction-named-surfaces": 330,
    "inclined-plane-friction-unnamed-surfaces": 284,
    "lifespan-longest-lived": 10,
    "lifespan-longest-lived-then-shortest-lived": 12,
    "lifespan-shortest-lived": 10,
    "measure-melting-point-known-substance": 120,
    "measure-melting-point-unknown-substance": 140,
    "melt": 80,
    "mendelian-genetics-known-plant": 259,
    "mendelian-genetics-unknown-plant": 262,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 30,
    "test-conductivity": 30,
    "test-conductivity-of-unknown-substances": 30,
    "use-thermometer": 30,
}
"""Most turns per task type: ETO's limits where it has one. The six types that it leaves out (inclined planes, Mendelian
genetics, melting point of an unknown substance) get twice the mean length of 40 gold paths (Mendelian: 8) of their
training split."""

SPLIT_FILES: Mapping[str, str] = {split: f"eto_{split}_indices.json" for split in ("train", "dev", "test")}
"""What the files of `path` are called."""

MOST_SEARCHES = 4
"""Most simulators that look for gold paths side by side; never more than there are cores."""

TASKS_PER_SEARCH = 8
"""Fewer tasks than this are not worth another simulator: it needs seconds to start and to warm up."""

SEARCH_ATTEMPTS = 2
"""How often a gold path is asked for before a simulator that dies over it counts as a fault."""

GOLD_PATHS = Path(__file__).with_name("gold.json")
"""Gold paths of training variations as the simulator gave them once, in its "easy" form (recipes/gold/record.py): it
takes a second of CPU over each."""

LOOK = "look around"


class ScienceWorld:
    """The benchmark. Splits `train`, `dev`, `test`, and with split files `dev-clean` (dev without what is in train)."""

    instruction = (
        "You are in a text world with rooms, things, living things and instruments, and have a science task to do. "
        "Do one action per turn. Actions (OBJ is a thing, LOC a place):\n"
        "look around, inventory, task, look at OBJ, look in OBJ, examine OBJ, read OBJ, open OBJ, close OBJ, "
        "go to LOC, teleport to LOC, pick up OBJ, put down OBJ, move OBJ to OBJ, pour OBJ in OBJ, dunk OBJ in OBJ, "
        "mix OBJ, activate OBJ, deactivate OBJ, use OBJ on OBJ, connect OBJ to OBJ, disconnect OBJ, eat OBJ, "
        "flush OBJ, wait, wait1, focus on OBJ.\n"
        "Focus only on what the task asks for: a wrong focus ends it. If an action is ambiguous, answer with the "
        "number of the one you mean."
    )
    reward: RewardRule = "so_far"
    env_per_process = True  # each env has a JVM: the simulator's state is global

    def __init__(
        self,
        *,
        path: str | None = None,
        splits: Mapping[str, str] | None = None,
        simplification: str = "easy",
    ) -> None:
        """Choose the split; starts nothing.

        Args:
            path: a folder with ETO's files (see `SPLIT_FILES`).
            splits: or, split → file, each a JSON list of [task, variation]; tasks as ETO or the simulator names them.
            simplification: passed to the simulator.

        Raises:
            ConfigError: both kinds of split are given, or a package or Java is missing.
            DataError: a split file is missing, malformed or names an unknown task.
        """
        find_jar()
        find_java()
        if path is not None and splits is not None:
            raise ConfigError("env: give env.path or the option splits, not both.")
        if path is not None:
            splits = {split: str(Path(path) / name) for split, name in SPLIT_FILES.items()}
        self.simplification = simplification
        self._tasks = own_splits() if splits is None else {s: read_split(Path(file)) for s, file in splits.items()}
        if splits is not None and {"train", "dev"} <= self._tasks.keys():
            seen = {task.id for task in self._tasks["train"]}
            self._tasks["dev-clean"] = [task for task in self._tasks["dev"] if task.id not in seen]
        held_out = {task.id for split, tasks in self._tasks.items() if split != "train" for task in tasks}
        self.synthesis = ScienceWorldSynthesis(self._tasks.get("train", ()), held_out)

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks: type by type, or in its file's order.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self._tasks:
            raise ConfigError(f"split: ScienceWorld has none called {split!r}. Splits: {', '.join(self._tasks)}.")
        return self._tasks[split]

    def turn_limit(self, task: Task) -> int:
        return TURN_LIMITS[task.kind]

    def make_env(self) -> ScienceWorldEnv:
        return ScienceWorldEnv(self.simplification)

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Measures:
        """Return the mean score, out of 100."""
        return {"score": mean_points(rewards.values())}

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return gold paths: recorded ones where they ship with the package, else found on the spot by the simulator.

        A leading `look around` is left out, since the first observation shows the same. A synthetic task has none.

        Raises:
            EnvFault: a simulator died twice over one task.
        """
        tasks = [task for task in tasks if not is_synthetic(task)]
        recorded = recorded_gold_paths() if self.simplification == "easy" else {}
        paths = {task.id: recorded[task.id] for task in tasks if task.id in recorded}
        unknown = [task for task in tasks if task.id not in recorded]
        num = min(MOST_SEARCHES, num_cores(), math.ceil(len(unknown) / TASKS_PER_SEARCH))
        is_over = threading.Event()
        with ThreadPoolExecutor(max(1, num)) as threads:
            try:
                for found in threads.map(lambda i: self._search(unknown[i::num], is_over), range(num)):
                    paths |= found
            except BaseException:  # Ctrl-C too: the other threads must not go on
                is_over.set()
                raise
        return {task.id: _without_first_look(paths[task.id]) for task in tasks if task.id in paths}

    def _search(self, tasks: Sequence[Task], is_over: threading.Event) -> dict[str, list[str]]:
        """Ask one simulator for one gold path after another, until there are no more tasks or it is over."""
        paths: dict[str, list[str]] = {}
        env = self.make_env()
        try:
            for task in tasks:
                for attempt in range(1, SEARCH_ATTEMPTS + 1):
                    if is_over.is_set():
                        return paths
                    try:
                        paths[task.id] = env.gold_path(task)
                        break
                    except EnvFault:
                        env.close()
                        if attempt == SEARCH_ATTEMPTS:
                            raise
                        env = self.make_env()
        finally:
            env.close()
        return paths


class ScienceWorldEnv:
    """One live world, on a JVM of its own."""

    def __init__(self, simplification: str = "easy") -> None:
        self.simplification = simplification
        self.simulator = Simulator()
        self._scene: Scene | None = None

    def reset(self, task: Task, seed: int) -> str:
        """Start a task. Its chance is part of it and the same each time: `seed` changes nothing."""
        self.simulator.call("load", task.kind, task.data["variation"], self.simplification, False)
        description = self.simulator.call("getTaskDescription")
        first = f"{description}\n\n{self.simulator.call('step', LOOK)}"
        self._scene = Scene(self.simulator, task.data, description) if is_synthetic(task) else None
        return self._scene.first if self._scene else first

    def step(self, action: str) -> EnvStep:
        """Play one action. The world ends at the full score and, as in the package's own `step`, below zero."""
        observation = self.simulator.call("step", action.encode("utf-8", "replace").decode())
        if self._scene is not None:
            return self._scene.judge(observation)
        score = round(100 * self.simulator.call("getScore"))
        is_done = bool(self.simulator.call("getCompleted")) or score < 0
        return EnvStep(observation=observation, reward=max(score, 0) / 100, is_done=is_done)

    def gold_path(self, task: Task) -> list[str]:
        """Let the simulator solve a task; the world is left somewhere inside it."""
        self.simulator.call("load", task.kind, task.data["variation"], self.simplification, True)
        return self.simulator.call("getGoldActionSequence")

    def close(self) -> None:
        self.simulator.close()


@cache
def recorded_gold_paths() -> dict[str, list[str]]:
    """Return the gold paths that ship with the package: task id → actions."""
    return json.loads(GOLD_PATHS.read_text(encoding="utf-8")) if GOLD_PATHS.exists() else {}


def _without_first_look(actions: Sequence[str]) -> list[str]:
    return list(actions[1:] if actions and actions[0] == LOOK else actions)


def own_splits() -> dict[str, list[Task]]:
    """Split each task type as the simulator does: of n variations the first 2⌊n/4⌋, the next ⌊n/4⌋, and the rest."""
    splits: dict[str, list[Task]] = {"train": [], "dev": [], "test": []}
    for kind, num in NUM_VARIATIONS.items():
        quarter = num // 4
        bounds = {"train": range(2 * quarter), "dev": range(2 * quarter, 3 * quarter), "test": range(3 * quarter, num)}
        for split, variations in bounds.items():
            splits[split] += [make_task(kind, variation) for variation in variations]
    return splits


def read_split(file: Path) -> list[Task]:
    """Read a JSON list of [task, variation], in the file's order, repeated entries once.

    Raises:
        DataError: the file is missing or malformed, or an entry is no task of the simulator's.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file}: can't be read ({error.strerror}). `sparring envs` says where it comes from."
        ) from None
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error}). Fetch it again.") from None
    if not isinstance(entries, list):
        raise DataError(f"{file}: must be a list of [task, variation].")
    tasks = {}
    for i, entry in enumerate(entries):
        task = _parse_entry(entry, f"{file}: entry {i + 1}, {json.dumps(entry)}")
        tasks[task.id] = task
    return list(tasks.values())


def _parse_entry(entry: Any, where: str) -> Task:
    match entry:
        case [str(name), int(variation)] if not isinstance(variation, bool):
            kind = simulator_name(name)
        case _:
            raise DataError(f"{where}, is not of the form [task, variation].")
    if kind not in NUM_VARIATIONS:
        raise DataError(f"{where}: no such task. Tasks: {', '.join(NUM_VARIATIONS)}.")
    if not 0 <= variation < NUM_VARIATIONS[kind]:
        raise DataError(f"{where}: {kind} has the variations 0 to {NUM_VARIATIONS[kind] - 1}.")
    return make_task(kind, variation)


def simulator_name(name: str) -> str:
    """Turn ETO's name of a task type, such as `task-6-lifespan-(longest-lived)`, into the simulator's."""
    prefix, _, rest = name.partition("-")
    if prefix == "task":
        name = rest.partition("-")[2]
    return name.replace("(", "").replace(")", "").replace("mendellian", "mendelian")


def make_task(kind: str, variation: int) -> Task:
    return Task(id=f"{kind}/{variation}", kind=kind, data={"variation": variation})
