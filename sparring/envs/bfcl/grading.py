"""An agent's calls and the reference's in, a graded reward out.

After each user turn the benchmark's own two checks are made on the agent's APIs and on those of the reference, which is
played alongside: the public state of every API is equal, and all that the reference's calls of this turn returned is
among what the agent's calls have returned so far. A turn in which the reference calls something and the agent nothing
is failed too; one in which the reference calls nothing is not checked. The first failed turn fails the task.

Reward: of the turns that are checked, the share before the first failure; the last of them counts only once the whole
conversation is over. So 1 means that the benchmark's checker passes, and a silent agent gets 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.scenario import Reference, Scenario
from sparring.envs.bfcl.wheel import checkers


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far an agent has come."""

    reward: float
    num_met: int
    """User turns that were checked and passed, up to the first failure."""
    num_checked: int
    """User turns that are checked in this task."""
    failed_turn: int | None = None
    """The first failed user turn, counted from 0."""
    failure: str = ""
    """Why it failed: `no calls`, `wrong state: API (what differs)`, `missing results` or `too many steps`."""

    @property
    def is_success(self) -> bool:
        return self.reward == 1.0


class Grader:
    """Grades one episode, user turn by user turn."""

    def __init__(self, scenario: Scenario, reference: Reference) -> None:
        self.scenario, self.reference = scenario, reference
        self.num_checked = sum(map(bool, reference))
        self.num_met = self.turn = 0
        self.failed_turn: int | None = None
        self.failure = ""
        self._live: LiveApis | None = None

    @property
    def score(self) -> Score:
        """How far the agent has come."""
        is_over = self.failed_turn is None and self.turn == len(self.reference)
        counted = self.num_met if is_over else min(self.num_met, self.num_checked - 1)
        return Score(
            reward=counted / self.num_checked if self.num_checked else 0.0,  # where nothing is asked, nothing is earned
            num_met=self.num_met,
            num_checked=self.num_checked,
            failed_turn=self.failed_turn,
            failure=self.failure,
        )

    def end_turn(self, agent: LiveApis, results: Sequence[str], *, has_called: bool) -> None:
        """Check a user turn that the agent has ended.

        Args:
            agent: the agent's APIs.
            results: what all of its calls so far have returned.
            has_called: whether it called anything in this turn.
        """
        if self.failed_turn is None:
            self._live = self._live or LiveApis(self.scenario)
            calls = self.reference[self.turn]
            expected = [self._live.call(call) for call in calls]
            if calls:
                self._check(agent, results, expected, has_called)
        self.turn += 1

    def give_up(self, failure: str) -> None:
        """Fail the turn that is being played."""
        if self.failed_turn is None:
            self.failed_turn, self.failure = self.turn, failure

    def _check(self, agent: LiveApis, results: Sequence[str], expected: list[str], has_called: bool) -> None:
        assert self._live is not None
        check_state, check_results = checkers()
        if not has_called:
            self.give_up("no calls")
            return
        try:
            state = check_state(agent.instances, self._live.instances)
        except RecursionError:  # a directory inside itself
            state = {"valid": False, "details": {}}
        if not state["valid"]:
            self.give_up(f"wrong state: {_differences(agent, self._live)}")
        elif not check_results(list(results), expected, self.turn)["valid"]:
            self.give_up("missing results")
        else:
            self.num_met += 1


def _differences(agent: LiveApis, reference: LiveApis) -> str:
    """Name the APIs and their attributes that differ, without their values."""
    named = []
    for api, right in reference.instances.items():
        mine = vars(agent.instances[api])
        names = [name for name, value in vars(right).items() if not name.startswith("_") and _differ(mine[name], value)]
        if names:
            named.append(f"{api} ({', '.join(names)})")
    return "; ".join(named)


def _differ(one: object, other: object) -> bool:
    try:
        return one != other
    except RecursionError:
        return True
