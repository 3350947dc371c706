"""How the rewards of an env's steps become its episode's reward in [0,1], and what of them looks like a mistake.

This is the one place where that happens: whoever plays, rollouts, experts or the check of a world, asks a `Score`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from sparring.core.errors import ConfigError, quote
from sparring.core.types import Trajectory

log = logging.getLogger(__name__)

RewardRule = Literal["so_far", "sum", "last"]
"""The highest step reward of the episode; their sum; or the last one."""
OUTSIDE, FELL, ADDS_UP = "outside", "fell", "adds_up"
"""What may be odd about an episode's rewards: they left their range; under an unsaid `so_far` one was lower than one
before it; or, there too, they add up to 1 while none of them is 1, as rewards per step do."""
TOLERANCE = 1e-6
"""Differences of rewards that are rounding."""


@dataclass(kw_only=True)
class Rewards:
    """How a world's step rewards are read. It warns of each oddity once."""

    world: str
    """For messages."""
    rule: RewardRule = "so_far"
    is_said: bool = False
    """Whether the recipe or the world chose the rule."""
    low: float = 0.0
    """What becomes 0."""
    high: float = 1.0
    """What becomes 1."""
    is_silent: bool = False
    """Whether oddities are noted in `told` alone."""
    told: dict[str, str] = field(default_factory=dict, repr=False)
    """What was said of each oddity, the first time."""

    @classmethod
    def of(cls, world: str, benchmark: object) -> Rewards:
        """Return how a world says that its rewards are read, in its attribute `reward`; else they are so far.

        Raises:
            ConfigError: it says something else than a rule.
        """
        rule = getattr(benchmark, "reward", None)
        if rule is None:
            return cls(world=world)
        if rule not in get_args(RewardRule):
            rules = ", ".join(get_args(RewardRule))
            raise ConfigError(f"env.id: the world's attribute `reward` is {quote(rule)}; it may be one of {rules}.")
        return cls(world=world, rule=rule, is_said=True)

    def chosen(self, rule: RewardRule | None, bounds: Sequence[float]) -> Rewards:
        """Return them as a recipe wants them; no rule: the world's."""
        low, high = bounds
        return replace(self, rule=rule or self.rule, is_said=self.is_said or rule is not None, low=low, high=high)

    def share(self, value: float) -> float:
        """Return where a value lies between low and high: 0 to 1, or beyond."""
        return (value - self.low) / (self.high - self.low)

    def warn(self, oddity: str, message: str) -> None:
        """Warn of an oddity, the first time."""
        if oddity not in self.told:
            self.told[oddity] = message
            if not self.is_silent:
                log.warning("%s: %s", self.world, message)


@dataclass(slots=True)
class Score:
    """The rewards of one episode, as they come."""

    rewards: Rewards
    value: float = 0.0
    """The episode's reward so far, in [0,1]."""
    oddities: tuple[str, ...] = ()
    total: float = 0.0
    best: float | None = None
    last: float | None = None

    def add(self, reward: float, where: str) -> float:
        """Take a step's reward, and return the episode's so far.

        Args:
            reward: any finite number.
            where: the task and the turn, for a warning.
        """
        rewards, reward = self.rewards, float(reward)
        before, self.last = self.last, reward
        self.total += reward
        self.best = reward if self.best is None else max(self.best, reward)
        if rewards.rule == "so_far" and not rewards.is_said and before is not None and reward < before - TOLERANCE:
            self._note(FELL, fell(where, before, reward))
        if rewards.rule == "so_far":
            self._check_range(reward, where)
        counted = {"so_far": self.best, "sum": self.total, "last": reward}[rewards.rule]
        self.value = min(max(rewards.share(counted), 0.0), 1.0)
        return self.value

    def end(self, where: str) -> tuple[str, ...]:
        """Return what was odd about the episode's rewards, now that it is over."""
        rewards = self.rewards
        if self.last is not None and rewards.rule != "so_far":
            self._check_range(self.total if rewards.rule == "sum" else self.last, where)
        if rewards.rule == "so_far" and not rewards.is_said and self.best is not None:
            is_whole = abs(rewards.share(self.total) - 1) <= TOLERANCE
            if is_whole and rewards.share(self.best) < 1 - TOLERANCE and ADDS_UP not in self.oddities:
                self.oddities = (*self.oddities, ADDS_UP)  # no warning: an agent's may do so by chance, an expert's not
        return self.oddities

    def _check_range(self, value: float, where: str) -> None:
        if not -TOLERANCE <= self.rewards.share(value) <= 1 + TOLERANCE:
            self._note(OUTSIDE, outside(where, value, self.rewards))

    def _note(self, oddity: str, message: str) -> None:
        if oddity not in self.oddities:
            self.oddities = (*self.oddities, oddity)
        self.rewards.warn(oddity, message)


def fell(where: str, before: float, after: float) -> str:
    """Say that a reward fell, and what to do about it."""
    return (
        f"the reward fell from {before:g} to {after:g} ({where}), and the highest counts. {PER_STEP} Where the last "
        'one counts, set env.reward = "last"; env.reward = "so_far" says that the highest is meant.'
    )


def outside(where: str, value: float, rewards: Rewards) -> str:
    """Say that a reward left its range, and what to do about it."""
    what = "rewards add up to" if rewards.rule == "sum" else "step gave the reward"
    return (
        f"{what} {value:g} ({where}), outside of {rewards.low:g} to {rewards.high:g}, and it was clamped. Scale the "
        f"world's rewards, or say with env.reward_range = [low, high] what is 0 and what is 1."
    )


PER_STEP = 'If the world gives rewards per step, set env.reward = "sum".'
ADDED_UP = (
    f"the experts' rewards stay below 1, but those of their steps add up to 1: rewards per step. {PER_STEP} "
    'env.reward = "so_far" says that the highest is meant.'
)
"""What is said of experts whose rewards add up."""


def odd_rewards(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Count episodes by what was odd about their rewards, where that changes what they are worth."""
    found = Counter(oddity for one in trajectories for oddity in one.odd_rewards if oddity in (OUTSIDE, FELL))
    return dict(sorted(found.items()))


def describe_odd_rewards(counts: Mapping[str, int], world: str, num: int) -> list[str]:
    """Say how many of `num` episodes have odd rewards, a line for each oddity."""
    said = {
        OUTSIDE: "left their range and were clamped: scale them, or set env.reward_range",
        FELL: 'fell, and the highest counts: env.reward = "sum" adds them up, "so_far" says that the highest is meant',
    }
    return [
        f"{world}: the rewards of {counts[one]} of {num} episodes {text}."
        for one, text in said.items()
        if counts.get(one)
    ]
