"""Two trajectories of one task come in; what they share and where they part goes out, for the page's template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from typing import TypeVar

from sparring.core.types import Task, Trajectory
from sparring.report.view import ArmResults

T = TypeVar("T")
Piece = tuple[str, bool]
"""A piece of text, and whether the text that it is compared with lacks it."""

_TOKEN = re.compile(r"\s+|\w+|[^\s\w]")
"""Words, white space and single signs: what a difference is made of."""

_PLACE = re.compile(r"round-(?P<round>\d+)/(?P<act>[a-z]+)-[a-z_]+(?:-(?P<part>[^/]+))?/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two."""

    title: str
    """`Chosen`, or a method's name."""
    who: str
    """Who played it: `target agent, round 2`."""
    agent: str
    """Its colour."""
    trajectory: Trajectory
    num_counted: int | None = None
    """Turns up to which it counts in the loss; none: there is no loss."""

    @property
    def is_cut(self) -> bool:
        """Are there last turns that do not count in the loss?"""
        return self.num_counted is not None and self.num_counted < len(self.trajectory.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Two trajectories of a task, side by side from the turn where they part."""

    place: str
    """Where they are from: `round 2`, `seed 1`."""
    sides: tuple[Side, Side]

    @property
    def task(self) -> Task:
        """The task that both played."""
        return self.beginning.task

    @property
    def beginning(self) -> Trajectory:
        """The side of which the shared beginning is shown."""
        return self.sides[0].trajectory

    @property
    def num_shared(self) -> int:
        """Turns at the beginning in which both saw the same and did the same."""
        return num_alike(*(side.trajectory for side in self.sides))

    @property
    def reward(self) -> float:
        """What the shared beginning earned."""
        return self.beginning.turns[self.num_shared - 1].reward if self.num_shared else 0.0

    @property
    def seen(self) -> str:
        """What both saw before they parted; empty where they saw different things."""
        one, other = (seen_after(side.trajectory, self.num_shared) for side in self.sides)
        return one if one == other else ""

    @property
    def goal(self) -> str:
        """The first paragraph of what both saw first, where that is not what they saw last: what the task says."""
        return seen_after(self.beginning, 0).strip().partition("\n\n")[0] if self.num_shared else ""

    @property
    def actions(self) -> tuple[Sequence[Piece], Sequence[Piece]]:
        """What both do where they part, in pieces; empty where one of them ended."""
        turns = [side.trajectory.turns[self.num_shared : self.num_shared + 1] for side in self.sides]
        if not all(turns):
            return (), ()
        return word_difference(turns[0][0].action, turns[1][0].action)

    @property
    def num_turns(self) -> int:
        """Turns of the longer side."""
        return max(len(side.trajectory.turns) for side in self.sides)


def word_difference(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces, each with whether it is in this text alone; the page's script does the same.

    `go to kitchen` and `go to hallway` differ in their last word. Texts that share no word differ as a whole.
    """
    a, b = (_TOKEN.findall(text) for text in (one, other))
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    if not any(token.strip() for block in blocks for token in a[block.a : block.a + block.size]):
        return [(one, True)], [(other, True)]
    return _pieces(a, [(block.a, block.size) for block in blocks]), _pieces(b, [(x.b, x.size) for x in blocks])


def _pieces(tokens: Sequence[str], alike: Sequence[tuple[int, int]]) -> list[Piece]:
    found, at = [], 0
    for start, size in alike:
        found += [("".join(tokens[at:start]), True), ("".join(tokens[start : start + size]), False)]
        at = start + size
    return [(text, is_own) for text, is_own in found if text]


def seen_after(trajectory: Trajectory, num_turns: int) -> str:
    """Return what the agent saw after a number of turns."""
    turns = trajectory.turns
    return turns[num_turns].observation if num_turns < len(turns) else trajectory.final_observation


def num_alike(one: Trajectory, other: Trajectory) -> int:
    """Count the first turns in which two agents saw the same and did the same."""
    ours, theirs = ([(turn.observation, turn.action) for turn in side.turns] for side in (one, other))
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(ours, theirs, strict=False)))


def who_played(arm: ArmResults, trajectory: Trajectory) -> str:
    """Say who played a trajectory and when: `expert`, `failure agent, round 2, second rollout`."""
    place = _PLACE.match(trajectory.id)
    if place is None:
        return arm.agent_name(trajectory.agent)
    words = [arm.agent_name(trajectory.agent), f"round {place['round']}"]
    if place["act"] == "branch" and trajectory.num_given:
        words.append(f"playing on after turn {trajectory.num_given}")
    elif place["part"] == "refreshed":
        words.append("second rollout")
    return ", ".join(words)


def evenly_spaced(items: Sequence[T], num: int) -> list[T]:
    """Return at most `num` items, the first and the last among them, the others evenly between: of 9, 3 are 0, 4, 8."""
    if len(items) <= num:
        return list(items)
    return [items[place * (len(items) - 1) // max(1, num - 1)] for place in range(num)]
