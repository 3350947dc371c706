"""A world's own experts or a JSONL file of demonstrations come in, expert trajectories go out.

What a world calls a solution is played before it is believed. A file of demonstrations has one JSON object a line, a
finished episode each (docs/your-environment.md has the schema):

    {"task_id": "walk/7", "reward": 1.0, "turns": [{"observation": "…", "thought": "…", "action": "…"}, …],
     "final_observation": "…"}

or a conversation, as `sparring export` writes it (docs/data.md); of several of one task the first of highest reward
counts. A file whose name ends in `.gz` is packed with gzip, and `.parquet` is Parquet.

Every line is checked before anything is trained. A thought that is not there is never invented.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparring.core.bundled import locate
from sparring.core.convert import check_values, suggest
from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.filters import is_broken
from sparring.core.ranges import Count, Place, Share
from sparring.core.text import encodable
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.action_formats import ActionFormat, FormatName
from sparring.data.conversations import demonstration_record, is_conversation, reward_of
from sparring.data.tables import read_rows
from sparring.envs.base import Benchmark
from sparring.envs.faults import told
from sparring.envs.rewards import ADDED_UP, ADDS_UP
from sparring.policies.scripted import ReplayPolicy
from sparring.rollouts.episodes import EpisodeSpec, Pool
from sparring.rollouts.loop import count_lanes, cut_waves, rollout

RECORD_FIELDS = {"task_id": True, "reward": True, "turns": True, "final_observation": False}
"""Fields of a demonstration → whether they are needed."""
TURN_FIELDS = {"observation": True, "action": True, "thought": False, "reward": False}
"""Fields of a turn → whether they are needed. `reward` is the best reward so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """Where the expert trajectories come from."""

    path: Place | None = None
    """File of demonstrations, JSONL or Parquet (docs/your-environment.md, docs/data.md); none: the world's experts. A
    path that begins with `recipes/` and is not there leads to the experts that come with Sparring."""
    num_tasks: Count | None = None
    """Training tasks whose expert trajectory is used, spread evenly over the types; none: all that have one."""
    num_cloned: Count | None = None
    """Experts that imitation learns from, spread evenly over the types; the others serve in pairs alone, on tasks that
    the agent has not learnt by heart. None: all."""
    min_reward: Share = 1.0
    """The world's own experts are played first; one that comes to less within the turn limit is left out."""

    def __post_init__(self) -> None:
        check_values(self)


def expert_trajectories(
    config: ExpertConfig,
    benchmark: Benchmark,
    pool: Pool,
    tasks: Sequence[Task],
    *,
    format: FormatName,
    num_slots: int,
    on_episode: Callable[[Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Return the experts' trajectories of `tasks`, in their order: demonstrations, or the world's own experts played.

    Raises:
        ConfigError: thoughts are wanted, and the world's own experts have none.
        DataError: the file of demonstrations is missing or malformed.
        EnvFault: an episode could not be played for faults of infrastructure.
    """
    if config.path is not None:
        return read_demonstrations(locate(config.path), tasks, format, known=benchmark.tasks("train"))
    actions = told("expert_actions", lambda: benchmark.expert_actions(tasks))
    if format == "react" and actions:
        raise ConfigError(
            "chat.format: the world's own experts have no thoughts, and none are invented. Use "
            'chat.format = "action", or name demonstrations with thoughts in expert.path.'
        )
    solved = [task for task in tasks if task.id in actions]
    specs = [EpisodeSpec(id=f"expert/{task.id}", task=task, agent="expert", seed=0) for task in solved]
    waves = cut_waves(specs, num_lanes=count_lanes(benchmark, num_slots))
    played = rollout(ReplayPolicy(actions), pool, benchmark, waves, num_slots=num_slots, on_episode=on_episode)
    broken = [trajectory for trajectory in played if is_broken(trajectory)]
    if broken:
        raise EnvFault(f"{len(broken)} of {len(played)} experts' episodes broke: {broken[0].error}")
    if any(ADDS_UP in one.odd_rewards and one.reward < config.min_reward for one in played):
        pool.rewards.warn(ADDS_UP, ADDED_UP)
    trimmed = [_without_rest(trajectory, len(actions[trajectory.task.id])) for trajectory in played]
    return [trajectory for trajectory in trimmed if trajectory.turns and trajectory.reward >= config.min_reward]


def expert_actions(config: ExpertConfig, benchmark: Benchmark, tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Return what the experts do, task id → actions, without playing it.

    Raises:
        DataError: the file of demonstrations is missing or malformed.
    """
    if config.path is None:
        known = told("expert_actions", lambda: benchmark.expert_actions(tasks))
        return {task_id: list(actions) for task_id, actions in known.items()}
    found = read_demonstrations(locate(config.path), tasks, "code", known=benchmark.tasks("train"))  # takes them all
    return {trajectory.task.id: [turn.action for turn in trajectory.turns] for trajectory in found}


def _without_rest(trajectory: Trajectory, num_turns: int) -> Trajectory:
    """Drop the empty actions that follow an expert's last one, where the world did not end with that."""
    if len(trajectory.turns) <= num_turns:
        return trajectory
    kept, after = trajectory.turns[:num_turns], trajectory.turns[num_turns]
    reward = kept[-1].reward if kept else 0.0
    return replace(trajectory, turns=kept, final_observation=after.observation, reward=reward)


def read_demonstrations(
    path: Path,
    tasks: Sequence[Task],
    format: FormatName,
    *,
    known: Sequence[Task] | None = None,
) -> list[Trajectory]:
    """Read the demonstrations of `tasks`, in the order of `tasks`.

    Args:
        path: the file.
        tasks: those whose demonstrations are wanted; a task without one is left out.
        format: how the agent will write. `react` needs a thought in every turn; `action` leaves thoughts out.
        known: all tasks that the file may speak of, for instance the whole training split; none: `tasks`.

    Raises:
        DataError: the file is missing or empty, or a line is malformed, speaks of another task, demonstrates a task
            twice, or lacks what the format needs. The message names path, line and field.
        ConfigError: the file is Parquet, and pyarrow is missing.
    """
    known_by_id = {task.id: task for task in (*tasks, *(known or ()))}
    found: dict[str, Trajectory] = {}
    lines: dict[str, int] = {}
    written = ActionFormat(name=format)
    for number, row in _best_of_each(read_rows(path)):
        where = f"{path}:{number}"
        record = demonstration_record(row, written, where) if is_conversation(row) else row
        trajectory = _trajectory(record, known_by_id, written, where)
        task_id = trajectory.task.id
        if task_id in found:
            raise DataError(
                f"{where}: task_id: a second demonstration of {task_id!r}; the first is in line {lines[task_id]}."
            )
        found[task_id], lines[task_id] = trajectory, number
    if not found:
        raise DataError(f"{path}: holds no demonstration.")
    return [found[task.id] for task in tasks if task.id in found]


def _best_of_each(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers from 1; of a task's conversations only the first of highest reward."""
    best: dict[str, tuple[float, int]] = {}
    for number, row in enumerate(rows, start=1):
        if is_conversation(row):
            reward = reward_of(row)
            known = best.setdefault(str(row.get("task_id")), (reward, number))
            if reward > known[0]:
                best[str(row.get("task_id"))] = (reward, number)
    kept = {number for _, number in best.values()}
    return ((n, row) for n, row in enumerate(rows, start=1) if n in kept or not is_conversation(row))


def demonstration(trajectory: Trajectory) -> dict[str, Any]:
    """Return a finished episode as a line of such a file has it; texts are what was done, without thoughts."""
    turns = [{"observation": t.observation, "action": t.action, "reward": t.reward} for t in trajectory.turns]
    return {
        "task_id": trajectory.task.id,
        "reward": trajectory.reward,
        "turns": turns,
        "final_observation": trajectory.final_observation,
    }


def _trajectory(record: Mapping[str, Any], tasks: Mapping[str, Task], format: ActionFormat, where: str) -> Trajectory:
    _check_fields(record, RECORD_FIELDS, where)
    task_id = _text(record["task_id"], f"{where}: task_id")
    if task_id not in tasks:
        raise DataError(f"{where}: task_id: no training task is called {task_id!r}. {suggest(task_id, tasks)}")
    reward = _reward(record["reward"], f"{where}: reward")
    raw_turns = record["turns"]
    if not isinstance(raw_turns, list) or not raw_turns:
        raise DataError(f"{where}: turns: expected a list of at least one turn.")
    turns, best = [], 0.0
    for i, raw in enumerate(raw_turns):
        is_last = i == len(raw_turns) - 1
        turn = _turn(raw, format, best, f"{where}: turns[{i}]", reward if is_last else None)
        best = turn.reward
        turns.append(turn)
    if best != reward:
        raise DataError(f"{where}: reward: is {reward}, but the turns reach {best}; it must be their highest.")
    return Trajectory(
        id=f"expert/{task_id}",
        task=tasks[task_id],
        agent="expert",
        turns=tuple(turns),
        final_observation=_text(record.get("final_observation", ""), f"{where}: final_observation"),
        reward=reward,
        stop=StopReason.DONE,
    )


def _turn(raw: Any, format: ActionFormat, best: float, where: str, final_reward: float | None) -> Turn:
    """Read a turn; `best` is the reward before it, `final_reward` the episode's where this is the last turn."""
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected an object, found {raw!r}.")
    _check_fields(raw, TURN_FIELDS, where)
    observation = _text(raw["observation"], f"{where}.observation")
    action = _text(raw["action"], f"{where}.action").strip()
    if not action or ("\n" in action and format.name not in ("code", "tools")):
        raise DataError(f"{where}.action: must be one line (or code) that is not empty, not {action!r}.")
    thought = _text(raw.get("thought") or "", f"{where}.thought").strip()
    if format.name == "react" and not thought:
        raise DataError(
            f"{where}.thought: missing. The ReAct format needs a thought in every turn, and none are invented: add "
            'them, or set chat.format = "action".'
        )
    text = format.render(thought, action)
    if format.parse(text) != action:
        raise DataError(f"{where}: would be read back as {format.parse(text)!r}. Take `Action:` out of the thought.")
    given = raw.get("reward", final_reward)
    reward = best if given is None else _reward(given, f"{where}.reward")
    return Turn(observation=observation, text=text, action=action, reward=max(best, reward))


def _check_fields(record: Mapping[str, Any], fields: Mapping[str, bool], where: str) -> None:
    for field in record:
        if field not in fields:
            raise DataError(f"{where}: unknown field {field!r}. {suggest(field, fields)}")
    for field, is_needed in fields.items():
        if is_needed and field not in record:
            raise DataError(f"{where}: no field {field!r}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, found {value!r}.")
    return encodable(value)


def _reward(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= 1:
        raise DataError(f"{where}: expected a number from 0 to 1, found {value!r}.")
    return float(value)
