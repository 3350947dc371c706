"""Visits of tasks and the history before them come in, flags go out: where the agent forgets, wavers, does rare things.

A *visit* is the K rollouts of one task in one step; its mean reward is one *attempt* of the task. All functions are
pure; the history is a value that is folded over the steps.

Source: arXiv 2604.15840. Deviates: an attempt is a visit's mean, since ten single rollouts would be hardly more than
one visit of eight and forgetting would repeat the boundary signal; and `boundary` has a graded form beside the paper's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal

from sparring.core.convert import check_values
from sparring.core.errors import DataError
from sparring.core.filters import by_task, usable
from sparring.core.ranges import PositiveShare, Repeats
from sparring.core.types import StopReason, Task, Trajectory

Pattern = Callable[[str], str]
"""Maps an action to its kind, and text that is no action to an empty one: a world's `Synthesis.pattern`."""

SUCCESS_EPS = 1e-6
"""A reward of at least one minus this is a success."""
ROUNDING = 1e-9
"""Slack when rewards are compared with a bound: 4·0.2·0.8 is 0.64, whatever its last bit says."""


class Signal(StrEnum):
    """Why a trajectory was flagged."""

    FORGETTING = "forgetting"
    """The task went well within the last visits, and does not now."""
    BOUNDARY = "boundary"
    """The rollouts of one visit end on both sides of the cut (the paper's uncertainty)."""
    RARE = "rare"
    """An action of a kind that is seldom seen."""
    NEAR_MISS = "near-miss"
    """A failure that came close, whoever played it (ours: where this method and Co-Evolving Agents meet)."""
    UNGUIDED = "unguided"
    """None: drawn by chance, for the control arm of random synthesis; or explored before there was a task, for D_0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConfig:
    """When a visit is flagged."""

    kinds: tuple[Literal["forgetting", "boundary", "rare", "near-miss"], ...] = ("forgetting", "boundary", "rare")
    """Signals that are used; leaving one out is an ablation of the paper's. `near-miss` is not the paper's."""
    cut: PositiveShare = 0.5
    """Rewards from here on count as done (paper: 0.5)."""
    window: Repeats = 10
    """Last attempts of a task that forgetting looks back on (paper: 10)."""
    boundary: Literal["cut", "graded"] = "cut"
    """`cut`: rollouts on both sides of the cut (the paper). `graded`: 4·r̄·(1−r̄) of the visit's mean r̄, for worlds with
    partial rewards."""
    graded_min: PositiveShare = 0.64
    """The graded boundary flags from this value on; 0.64 is a mean from 0.2 to 0.8."""
    rare_share: PositiveShare = 0.05
    """An action pattern is rare with a share of all seen below this (paper: 5 %)."""
    near_miss_from: PositiveShare = 0.6
    """A failure from this reward on is a near miss (Co-Evolving Agents: 0.6)."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """The K rollouts of one task in one step. Broken episodes are left out when it is made (`visits_of`)."""

    step: int
    task: Task
    rollouts: tuple[Trajectory, ...]
    """At least one."""

    @property
    def mean(self) -> float:
        """Mean reward: one attempt of the task."""
        return fmean(rollout.reward for rollout in self.rollouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A trajectory where new tasks should begin, and why."""

    signal: Signal
    step: int
    trajectory: Trajectory
    turn: int
    """Turns of the trajectory that are kept when a task starts from it: what comes after went wrong, or was rare."""
    priority: float
    """How much it calls for new tasks, in [0,1]."""
    detail: str = ""
    """What was seen, in words, for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What signals remember of earlier visits."""

    attempts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Task id → its last attempts, oldest first."""
    patterns: Mapping[str, int] = field(default_factory=dict)
    """Action pattern → how often it was seen."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        return {"attempts": {key: list(found) for key, found in self.attempts.items()}, "patterns": dict(self.patterns)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> History:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or has another type.
        """
        try:
            attempts = {str(key): tuple(float(one) for one in found) for key, found in record["attempts"].items()}
            return cls(attempts=attempts, patterns={str(key): int(num) for key, num in record["patterns"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a history of visits: {type(error).__name__}: {error}.") from None


def visits_of(step: int, trajectories: Iterable[Trajectory]) -> list[Visit]:
    """Group a step's rollouts by task, tasks in order of first appearance; broken and empty episodes are left out."""
    found = by_task(usable(trajectories)).values()
    return [Visit(step=step, task=rollouts[0].task, rollouts=tuple(rollouts)) for rollouts in found]


def remember(history: History, visits: Sequence[Visit], pattern: Pattern, window: int = 10) -> History:
    """Return the history with a step's visits in it.

    The attempts (0.2, 0.9) and a visit with the rewards 0 and 0.5, at a window of 2, leave (0.9, 0.25).
    """
    attempts, patterns = dict(history.attempts), Counter(history.patterns)
    for visit in visits:
        attempts[visit.task.id] = (*attempts.get(visit.task.id, ()), visit.mean)[-window:]
        patterns.update(_patterns(visit, pattern))
    return History(attempts=attempts, patterns=dict(patterns))


def find_flags(
    visits: Sequence[Visit], history: History, pattern: Pattern, config: SignalConfig | None = None
) -> list[Flag]:
    """Return the flags of a step's visits, visit by visit.

    Args:
        visits: this step's.
        history: what `remember` returned for the steps before. Rare patterns are counted with this step's included,
            so that the first step has something to compare with.
        pattern: maps an action to its kind.
        config: the paper's values where not given.

    Source: arXiv 2604.15840.
    """
    config = config or SignalConfig()
    seen = Counter(history.patterns)
    for visit in visits:
        seen.update(_patterns(visit, pattern))
    flags: list[Flag | None] = []
    for visit in visits:
        if "forgetting" in config.kinds:
            flags.append(forgetting(visit, history.attempts.get(visit.task.id, ()), config))
        if "boundary" in config.kinds:
            flags.append(boundary(visit, config))
        if "rare" in config.kinds:
            flags.append(rare(visit, seen, pattern, config))
        if "near-miss" in config.kinds:
            flags.append(near_miss(visit, config))
    return [flag for flag in flags if flag is not None]


def forgetting(visit: Visit, attempts: Sequence[float], config: SignalConfig) -> Flag | None:
    """Flag a visit below the cut whose task was at or above it within the window. Priority: the fall from the best.

    Attempts (0.1, 0.75, 0.3) and a visit with the mean 0.25: one of them was ≥ 0.5 and this one is below, so it is
    flagged, with the priority 0.75 − 0.25 = 0.5.

    Source: arXiv 2604.15840. Deviates: an attempt is a visit's mean.
    """
    best = max(attempts[-config.window :], default=0.0)
    if best < config.cut or visit.mean >= config.cut:
        return None
    detail = f"mean reward {visit.mean:.2f}; it was {best:.2f} within the last {config.window} visits"
    return _near_miss_flag(Signal.FORGETTING, visit, best - visit.mean, detail)


def boundary(visit: Visit, config: SignalConfig) -> Flag | None:
    """Flag a visit that is neither done nor lost. Priority: 4·p·(1−p), p the share at or above the cut, or the mean.

    Rewards (1, 0, 0, 0): with `cut` p = 1/4 and the priority is 0.75; (0.4, 0.4, 0.4, 0.4) is not flagged. With
    `graded` both have a value: 4·0.25·0.75 = 0.75 and 4·0.4·0.6 = 0.96.

    Source: arXiv 2604.15840 (`cut`). `graded` is ours: near misses waver without ever crossing the cut.
    """
    if config.boundary == "cut":
        share = fmean(rollout.reward >= config.cut for rollout in visit.rollouts)
        priority, detail = 4 * share * (1 - share), f"{share:.0%} of {len(visit.rollouts)} rollouts reach {config.cut}"
        is_flagged = 0.0 < share < 1.0
    else:
        priority, detail = 4 * visit.mean * (1 - visit.mean), f"mean reward {visit.mean:.2f}"
        is_flagged = priority >= config.graded_min - ROUNDING
    return _near_miss_flag(Signal.BOUNDARY, visit, priority, detail) if is_flagged else None


def rare(visit: Visit, seen: Mapping[str, int], pattern: Pattern, config: SignalConfig) -> Flag | None:
    """Flag the rarest action pattern of a visit, where its share of all seen is above 0 and below `rare_share`.

    Of 100 patterns seen, `pour` twice: a rollout that pours is flagged with the priority 1 − 0.02/0.05 = 0.6, and the
    flag's turns end with the pouring. Of several rollouts the one with the highest reward is taken.

    Source: arXiv 2604.15840. One flag a visit is ours: a long episode would else raise a dozen.
    """
    total = sum(seen.values())
    found = [
        (seen[name], name, -rollout.reward, index, turn)
        for index, rollout in enumerate(visit.rollouts)
        for turn, name in enumerate(pattern(one.action) for one in rollout.turns)
        if name and seen.get(name, 0) < config.rare_share * total
    ]
    if not found:
        return None
    num, name, _, index, turn = min(found)
    return Flag(
        signal=Signal.RARE,
        step=visit.step,
        trajectory=visit.rollouts[index],
        turn=turn + 1,
        priority=1 - num / total / config.rare_share,
        detail=f"{name!r} is {num} of {total} actions seen",
    )


def near_miss(visit: Visit, config: SignalConfig) -> Flag | None:
    """Flag the best failure of a visit where its reward reaches `near_miss_from`. Priority: that reward.

    Rewards (1, 0.7, 0.6): the 0.7, with the priority 0.7; (1, 0.5) is not flagged.

    Source: arXiv 2511.22254 (hard negatives, from 0.6 on). That they begin new tasks is ours.
    """
    best = max((one.reward for one in visit.rollouts if one.reward < 1.0 - SUCCESS_EPS), default=0.0)
    if best < config.near_miss_from - ROUNDING:
        return None
    return _near_miss_flag(Signal.NEAR_MISS, visit, best, f"a failure with the reward {best:.2f}")


def went_wrong(trajectory: Trajectory) -> int:
    """Return how many turns of a failure were well played: a task that starts after them starts before the mistake.

    An episode that the world ended was lost by its last action: all turns but that one. One that ran out of turns or of
    context went nowhere after its last gain: the turns up to that gain. Rewards so far (0, 0.5, 0.5), lost: 2; out of
    turns: 2; rewards (0.5, 0.5, 0.5) out of turns: 1; rewards (0, 0, 0) out of turns: 0.
    """
    if trajectory.stop is StopReason.DONE:
        return max(0, len(trajectory.turns) - 1)
    kept, best = 0, 0.0
    for number, turn in enumerate(trajectory.turns, start=1):
        if turn.reward > best:
            kept, best = number, turn.reward
    return kept


def unguided(visits: Sequence[Visit], num: int, seed: int) -> list[Flag]:
    """Draw flags by chance: `num` trajectories, at a chance turn of each. The arm of random synthesis.

    Source: arXiv 2604.15840 (the ablation with unguided exploration).
    """
    rollouts = [(visit, rollout) for visit in visits for rollout in visit.rollouts]
    drawn = sorted(rollouts, key=lambda found: draw(seed, found[1].id))[:num]
    return [
        Flag(
            signal=Signal.UNGUIDED,
            step=visit.step,
            trajectory=rollout,
            turn=int(draw(seed, rollout.id, "turn") * (len(rollout.turns) + 1)),
            priority=0.0,
            detail="drawn by chance",
        )
        for visit, rollout in drawn
    ]


def top_flags(flags: Sequence[Flag], num: int) -> list[Flag]:
    """Return the `num` flags with the highest priority, the latest of each task and signal alone.

    Equal priorities go by the order of `Signal`, then by the task's id, so that nothing depends on the order of visits.
    """
    latest = {(flag.trajectory.task.id, flag.signal): flag for flag in sorted(flags, key=lambda flag: flag.step)}
    order = {signal: place for place, signal in enumerate(Signal)}
    ranked = sorted(latest.values(), key=lambda f: (-f.priority, order[f.signal], f.trajectory.task.id))
    return ranked[:num]


def draw(seed: int, *names: object) -> float:
    """Return a number in [0,1) that depends on the seed and on what it is for, and on nothing else."""
    key = "\0".join(map(str, (seed, *names))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


def _near_miss_flag(signal: Signal, visit: Visit, priority: float, detail: str) -> Flag:
    """Flag the visit's nearest miss: the failure with the highest reward, or the lowest reward where none failed."""
    failed = [rollout for rollout in visit.rollouts if rollout.reward < 1.0 - SUCCESS_EPS]
    chosen = max(failed, key=lambda rollout: rollout.reward) if failed else visit.rollouts[0]
    turn = went_wrong(chosen)
    return Flag(
        signal=signal, step=visit.step, trajectory=chosen, turn=turn, priority=min(1.0, priority), detail=detail
    )


def _patterns(visit: Visit, pattern: Pattern) -> Iterable[str]:
    names = (pattern(turn.action) for rollout in visit.rollouts for turn in rollout.turns)
    return (name for name in names if name)
