"""What an agent's calls brought about, user turn by user turn, and how a user asks for it.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.envs.bfcl.calls import Call, read_calls
from sparring.envs.bfcl.played import play
from sparring.envs.bfcl.scenario import Scenario
from sparring.envs.bfcl.wording import CHANGING, LOOKING, ask_for


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done in one user turn, and how a user asks for it."""

    calls: tuple[Call, ...]
    request: str
    is_change: bool
    """Whether the state is another one after it."""


def achieved(scenario: Scenario, actions: Sequence[str]) -> list[Deed]:
    """List what answers did in each user turn that they ended, up to the first in which they did nothing.

    Of a turn that changed something, the calls that did, and the ways between directories that led there; of another
    one, the calls that found something out.
    """
    turns: list[list[Call]] = [[]]
    for action in actions:
        calls = read_calls(action)
        turns[-1] += calls
        if not calls:
            turns.append([])
    played = iter(play(scenario, [call for turn in turns for call in turn]))
    deeds: list[Deed] = []
    for turn in turns[:-1][: len(scenario.requests)]:
        done = [one for one in (next(played) for _ in turn) if not one.is_refused]
        changing = [one for one in done if one.has_changed and one.call.name in CHANGING]
        is_change = any(one.call.name != "cd" for one in changing)
        looking = [one for one in done if one.call.name in LOOKING or one in changing]
        kept = tuple(one.call for one in (changing if is_change else looking))
        request = ask_for(kept, scenario.apis)
        if not request:
            break
        deeds.append(Deed(calls=kept, request=request, is_change=is_change))
    return deeds
