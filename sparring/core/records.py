"""Trajectories and preference pairs as JSON values, and back: what a run's journals hold, one record a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sparring.core.errors import DataError
from sparring.core.journal import Journal, read_journal
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

T = TypeVar("T")


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """Return the trajectory as JSON values; `trajectory_from_json` gives back an equal one."""
    return {
        "id": trajectory.id,
        "task": {"id": trajectory.task.id, "kind": trajectory.task.kind, "data": dict(trajectory.task.data)},
        "agent": trajectory.agent,
        "reward": trajectory.reward,
        "stop": trajectory.stop.value,
        **({"num_given": trajectory.num_given} if trajectory.num_given else {}),
        "seed": trajectory.seed,
        "num_retries": trajectory.num_retries,
        "error": trajectory.error,
        **({"odd_rewards": list(trajectory.odd_rewards)} if trajectory.odd_rewards else {}),
        "turns": [
            {
                "observation": turn.observation,
                "text": turn.text,
                "action": turn.action,
                "reward": turn.reward,
                "token_ids": list(turn.token_ids),
                **({"logprobs": list(turn.logprobs)} if turn.logprobs else {}),
            }
            for turn in trajectory.turns
        ],
        "final_observation": trajectory.final_observation,
    }


def trajectory_from_json(record: Mapping[str, Any]) -> Trajectory:
    """Build a trajectory from what `trajectory_to_json` returned.

    Raises:
        DataError: a field is missing or has another type.
    """
    try:
        task = _typed(record, "task", dict)
        turns = tuple(map(_turn_from_json, _typed(record, "turns", list)))
        return Trajectory(
            id=_typed(record, "id", str),
            task=Task(id=_typed(task, "id", str), kind=_typed(task, "kind", str), data=_typed(task, "data", dict)),
            agent=_typed(record, "agent", str),
            turns=turns,
            final_observation=_typed(record, "final_observation", str),
            reward=_reward(record),
            stop=StopReason(_typed(record, "stop", str)),
            num_given=_num_given(record, len(turns)),
            seed=_typed(record, "seed", int),
            num_retries=_typed(record, "num_retries", int),
            error=_typed(record, "error", str),
            odd_rewards=_words(record.get("odd_rewards", [])),
        )
    except KeyError as error:
        raise DataError(f"not a trajectory: no field {error}.") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"not a trajectory: {error}.") from None


def _turn_from_json(turn: Mapping[str, Any]) -> Turn:
    if not isinstance(turn, dict):
        raise TypeError(f"a turn is {turn!r:.80}")
    return Turn(
        observation=_typed(turn, "observation", str),
        text=_typed(turn, "text", str),
        action=_typed(turn, "action", str),
        reward=_reward(turn),
        token_ids=_numbers(turn["token_ids"], int),
        logprobs=_numbers(turn.get("logprobs", []), (int, float)),
    )


def _typed(record: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = record[key]
    if type(value) is not kind:
        raise TypeError(f"{key} is {value!r:.80}, not of type {kind.__name__}")
    return value


def _reward(record: Mapping[str, Any]) -> float:
    value = record["reward"]
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"reward is {value!r:.80}, not a number from 0 to 1")
    return float(value)


def _num_given(record: Mapping[str, Any], num_turns: int) -> int:
    num = _typed(record, "num_given", int) if "num_given" in record else 0
    if not 0 <= num <= num_turns:
        raise ValueError(f"num_given is {num}, and there are {num_turns} turns")
    return num


def _numbers(values: Any, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    if not isinstance(values, list) or not all(isinstance(value, kind) and math.isfinite(value) for value in values):
        raise TypeError(f"expected a list of numbers, found {values!r:.80}")
    return tuple(values)


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of words, found {values!r:.80}")
    return tuple(values)


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read the trajectories of a JSONL file, without changing it.

    Raises:
        DataError: the file is missing, a line is no trajectory, or two have one id; the message names the line.
    """
    return _trajectories(path, read_journal(path))


def journaled(journal: Journal) -> list[Trajectory]:
    """Read the trajectories of a phase that may be unfinished; a torn last line is dropped.

    Raises:
        DataError: as for `read_trajectories`.
    """
    records = journal.read()
    try:
        return _trajectories(journal.path, records)
    except DataError as error:
        raise DataError(f"{error} Delete the line and run the same command again.") from None


def _trajectories(path: Path, records: Iterable[Mapping[str, Any]]) -> list[Trajectory]:
    found: list[Trajectory] = []
    lines: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        try:
            found.append(trajectory_from_json(record))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        if (first := lines.setdefault(found[-1].id, number)) != number:
            raise DataError(f"{path}:{number}: {found[-1].id!r} stands in line {first}, too.")
    return found


def pair_to_json(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as JSON values; the two trajectories are named by their ids."""
    return {
        "kind": pair.kind.value,
        "chosen": pair.chosen.id,
        "rejected": pair.rejected.id,
        "chosen_turns": pair.chosen_turns,
        "rejected_turns": pair.rejected_turns,
        **({"weight": pair.weight} if pair.weight != 1 else {}),
    }


def pairs_from_json(records: Sequence[Mapping[str, Any]], by_id: Mapping[str, Trajectory]) -> list[PreferencePair]:
    """Build pairs from what `pair_to_json` returned; `by_id` holds the trajectories that they name.

    Raises:
        DataError: a field is missing or wrong, or no such trajectory is known; the message names the record's line.
    """
    pairs = []
    for number, record in enumerate(records, start=1):
        try:
            pair = PreferencePair(
                kind=PairKind(record["kind"]),
                chosen=_named(record["chosen"], by_id),
                rejected=_named(record["rejected"], by_id),
                chosen_turns=record["chosen_turns"],
                rejected_turns=record["rejected_turns"],
                weight=float(record.get("weight", 1.0)),
            )
        except KeyError as error:
            raise DataError(f"line {number}: not a pair: no field or trajectory {error}.") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"line {number}: not a pair: {error}.") from None
        pairs.append(pair)
    return pairs


def _named(name: object, by_id: Mapping[str, Trajectory]) -> Trajectory:
    """Return the trajectory of an id; `ID@3` is that of ID, with its first three turns as context."""
    if not isinstance(name, str):
        raise KeyError(name)
    if name in by_id:
        return by_id[name]
    own, _, num = name.rpartition("@")
    if own not in by_id or not num.isdecimal() or int(num) > len(by_id[own].turns):
        raise KeyError(name)
    return replace(by_id[own], id=name, num_given=int(num))
