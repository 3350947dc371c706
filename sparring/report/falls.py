"""Results → rounds after which a target agent does worse on held-out tasks than before, beyond chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sparring.analysis.statistics import Interval, SeedRewards, paired_difference
from sparring.report.text import between, reward
from sparring.report.view import ArmResults, Results, results_from_json

SMALLEST_FALL = 0.02
"""Mean loss of reward from which a round is named, where its whole 95 % interval lies below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """One round of an arm that lost held-out reward."""

    arm: ArmResults
    round: int
    since: str
    """What it is compared with: `round 1`, `its start`, `SFT`."""
    gap: Interval
    """Paired difference, over the seeds and tasks that both played."""

    @property
    def words(self) -> str:
        """Say it in a sentence."""
        interval = between(self.gap.low, self.gap.high, signed=True)
        lost = reward(-self.gap.mean)
        return (
            f"{self.arm.label}: held-out reward fell by {lost} in round {self.round} against {self.since} {interval}."
        )


def falls(results: Results, *, at_least: float = SMALLEST_FALL) -> list[Fall]:
    """Compare each round with the one evaluated before it and with SFT, and return those that fell.

    From 0.6 to 0.5 with an interval of [−0.15, −0.05] is a fall; with [−0.25, +0.05] it is none.

    Args:
        results: of a run.
        at_least: smallest mean loss that counts.
    """
    return [fall for arm in results.arms.values() for fall in _of_arm(results, arm, at_least)]


def fall_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Name each fall in a line; nothing where there is none."""
    view = results if isinstance(results, Results) else results_from_json(results)
    return [f"Warning: {fall.words}" for fall in falls(view)]


def _of_arm(results: Results, arm: ArmResults, at_least: float) -> Iterator[Fall]:
    rounds, sft = arm.rounds(), results.sft_of(arm)
    for before, number in pairwise(rounds):
        now = arm.rewards("target", number)
        earlier = [(f"round {before}" if before else "its start", arm.rewards("target", before))]
        if sft is not None and sft is not arm and before:
            earlier.append((sft.label, sft.final()))
        for since, rewards in earlier:
            gap = _gap(results, now, rewards)
            if gap.num and gap.mean <= -at_least and gap.high < 0:
                yield Fall(arm=arm, round=number, since=since, gap=gap)


def _gap(results: Results, now: SeedRewards, before: SeedRewards) -> Interval:
    return paired_difference(now, before, num_resamples=results.num_resamples)
