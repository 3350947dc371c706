"""BFCL over invented conversations: chance and words in, JSONL walks on the benchmark's real APIs out.

A user asks, in two to five messages, for calls that were tried by chance in an invented state, each with names, texts
and numbers of its own; what is right is what was done. Values have to be copied from what the user says, from what
calls returned, and from earlier messages. No task, request or reference of the benchmark is read; its functions, their
docs and what its APIs answer are.

    python recipes/pretrain/invented_conversations.py --out runs/pretrain/invented_bfcl --num-walks 12000 --seed 0
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from gather_worlds import play, write_invented
from invented_calls import single
from invented_errands import ERRANDS
from invented_talk import Refused, Speech, Talk, invented_state

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.bfcl import BFCLEnv, LiveApis, Scenario, expert, functions_of, make_task, reference_of, score
from sparring.envs.bfcl.functions import Style

SHARE_ERRANDS = 0.3
"""Share of wishes that take several calls, or speak of what was done before; none in the library's words."""
WEIGHTS = {
    **{"GorillaFileSystem": 3, "TradingBot": 2, "TravelAPI": 2, "VehicleControlAPI": 2, "TwitterAPI": 2},
    **{"TicketAPI": 1.5, "MessageAPI": 1.5, "MathAPI": 1.2},
}
"""API → how often it is drawn: those with more to do in more often."""
MOST_WISHES = 4
"""Most wishes of a message."""
DOCS: tuple[Style, ...] = ("short", "short", "signatures")
"""How functions are shown, drawn for each walk."""
ATTEMPTS = 12
"""Most tries at a wish."""
AFTER = 99
"""A user turn that no conversation has."""
SHARE_FEW = 0.6
"""Share of walks that show the functions which are called and a few others, instead of all: most tokens of a short
conversation are docs, which never differ."""
MOST_OTHERS = 12
"""Most other functions that are shown then."""


def conversation(id: str, seed: str) -> Task | None:
    """Make one conversation that its reference solves; none where chance led to nothing."""
    draw = Random(seed)
    apis = draw_apis(draw)
    start = Scenario(apis=apis, initial_config=invented_state(apis, draw), requests=())
    try:
        live = LiveApis(start)
        talk, speech = Talk(start, draw, live), Speech.of(draw)
        turns = [turn for _ in range(draw.randint(2, 5)) if (turn := user_turn(talk, speech))]
    except (Refused, DataError, KeyError, IndexError):
        return None
    if not turns:
        return None
    told = Scenario(
        apis=apis,
        initial_config=start.initial_config,
        requests=tuple(request for request, _ in turns),
        held_back=few_functions(apis, {text.partition("(")[0] for _, calls in turns for text in calls}, draw),
    )
    task = make_task(id, told, [calls for _, calls in turns])
    return task if score(task, expert(reference_of(task))).is_success else None


def user_turn(talk: Talk, speech: Speech) -> tuple[str, list[str]] | None:
    """Let a user wish for one to four things."""
    talk.calls.clear()
    wishes: list[str] = []
    num = talk.draw.choice((1, 1, 1, 2, 2, 3, 3, MOST_WISHES))
    for _ in range(num * ATTEMPTS):
        if len(wishes) == num:
            break
        api = talk.draw.choice(talk.scenario.apis)
        if not speech.is_plain and talk.draw.random() < SHARE_ERRANDS:
            said = talk.draw.choice(ERRANDS[api])(talk, speech)
        else:
            said = single(talk, speech, api)
        wishes += [said] if said else []
    return (speech.request(wishes), list(map(str, talk.calls))) if wishes else None


def few_functions(apis: tuple[str, ...], called: set[str], draw: Random) -> dict[int, tuple[str, ...]]:
    """Hold functions back till after the last turn, mostly all but those that are called and a few others."""
    others = [one.name for one in functions_of(apis) if one.name not in called]
    if draw.random() > SHARE_FEW:
        return {}
    shown = draw.sample(others, min(len(others), draw.randrange(MOST_OTHERS + 1)))
    return {AFTER: tuple(name for name in others if name not in shown)}


def draw_apis(draw: Random) -> tuple[str, ...]:
    """Draw one or two APIs."""
    drawn = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=draw.choice((1, 2, 2)))
    return tuple(dict.fromkeys(drawn))


def walks(seed: int, num: int) -> Iterator[dict[str, Any]]:
    """Yield walks, each as a line of the corpus."""
    kept = index = 0
    while kept < num:
        task = conversation(f"invented/{seed}/{index}", f"{seed}/{index}")
        index += 1
        if task is not None:
            kept += 1
            env = BFCLEnv(docs=DOCS[index % len(DOCS)])
            turns = play(env, task, expert(reference_of(task)))
            yield {"task": f"bfcl/{task.id}", "walk": "conversation", "turns": turns}


if __name__ == "__main__":
    write_invented(__doc__, walks, 12_000)
