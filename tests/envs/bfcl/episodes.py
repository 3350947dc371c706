"""Agents for the BFCL tests: references played well and badly, and what an episode looks like from outside."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from sparring.core.types import Task
from sparring.envs.bfcl import BFCLEnv, Call, Reference, reference_of, write_calls

Answers = list[list[list[Call]]]
"""For each user turn its answers with calls."""


def spoilt(task: Task, draw: random.Random) -> Answers:
    """Play a task's reference with a few random mistakes, or none."""
    turns = [[[call] for call in calls] for calls in reference_of(task)]
    for _ in range(draw.choice((0, 1, 1, 2))):
        _spoil(turns, draw)
    return turns


def actions_of(turns: Sequence[Sequence[Sequence[Call]]]) -> list[str]:
    """Write answers as an agent would."""
    return [action for answers in turns for action in (*(write_calls(list(calls)) for calls in answers), "done")]


def transcript(env: BFCLEnv, task: Task, actions: Sequence[str]) -> Iterator[tuple[str, float, bool]]:
    """Play actions one by one and give all that can be seen of the world after each."""
    yield env.reset(task, 0), 0.0, False
    for action in actions:
        answer = env.step(action)
        yield answer.observation, answer.reward, answer.is_done


def named(reference: Reference) -> bool:
    """Whether all arguments have names: the benchmark's reader of answers drops the others."""
    return all(not call.args for calls in reference for call in calls)


def _spoil(turns: Answers, draw: random.Random) -> None:
    answers = draw.choice(turns)
    at = draw.randrange(len(answers)) if answers else 0
    match draw.choice(("drop", "repeat", "swap", "change", "merge", "skip", "early", "unknown", "extra")):
        case "drop" if answers:
            del answers[at]
        case "repeat" if answers:
            answers.append(answers[at])
        case "swap":
            answers.reverse()
        case "change" if answers:
            (call, *rest) = answers[at]
            answers[at] = [Call(call.name, call.args, {name: _other(call.kwargs[name]) for name in call.kwargs}), *rest]
        case "merge":
            answers[:] = [[call for calls in answers for call in calls]] if answers else []
        case "skip":
            answers.clear()
        case "early":
            turns[0] += answers
        case "unknown":
            answers.append([Call("no_such_function", (), {"a": 1})])
        case _:
            answers.append([Call("pwd"), Call("get_current_time"), Call("trading_logout"), Call("logout")])


def _other(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
    return value
