"""Proposals come in, verdicts go out, by acting in real worlds: nothing enters the pool because somebody says so.

The checks are made in the order of `checks.py`, the cheap ones first; each plays all that is still in the running at
once, and what it refuses is played no further.

Source: arXiv 2604.15840 (validation by acting).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

from sparring.core.errors import DataError
from sparring.core.filters import counted
from sparring.core.types import Task, Trajectory
from sparring.envs.synthesis import Synthesis
from sparring.policies.base import AnyPolicy
from sparring.policies.scripted import RandomPolicy
from sparring.synthesis.arena import Arena, Purpose, empty_policy, reference_policy
from sparring.synthesis.checks import (
    QUARANTINED,
    Reason,
    Refusal,
    ValidationConfig,
    check_change,
    check_form,
    check_goal,
    check_known,
    check_null,
    check_probe,
    check_query,
    check_replays,
)
from sparring.synthesis.novelty import EvaluationGate, Sketch, find_duplicate, sketch
from sparring.synthesis.proposals import Proposal
from sparring.synthesis.signals import draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a proposal."""

    proposal: Proposal
    refusal: Refusal | None
    """None: it may enter the pool."""
    reference: tuple[str, ...] = ()
    """The actions that reached the goal, where they were played."""
    start: str | None = None
    """The task's first observation, where it was played."""
    probe: float | None = None
    """Mean reward of the probes, or of the tries of the query where there were none."""

    @property
    def sketch(self) -> Sketch | None:
        """What later proposals are compared with."""
        return None if self.start is None else sketch(self.proposal.task.id, self.start, self.reference)

    @property
    def is_accepted(self) -> bool:
        """May it enter the pool?"""
        return self.refusal is None

    @property
    def is_quarantined(self) -> bool:
        """Is it sound, but not for this agent now?"""
        return self.refusal is not None and self.refusal.reason in QUARANTINED

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        return {
            "proposal": self.proposal.to_json(),
            "reason": self.refusal.reason.value if self.refusal else None,
            "detail": self.refusal.detail if self.refusal else "",
            "reference": list(self.reference),
            "start": self.start,
            "probe": self.probe,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Verdict:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            reason = record["reason"]
            return cls(
                proposal=Proposal.from_json(record["proposal"]),
                refusal=None if reason is None else Refusal(reason=Reason(reason), detail=record["detail"]),
                reference=tuple(map(str, record["reference"])),
                start=record["start"],
                probe=record["probe"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a verdict: {type(error).__name__}: {error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What proposals are checked against."""

    world: Synthesis
    gate: EvaluationGate
    turn_limit: Callable[[Task], int]
    """The benchmark's."""
    agent: AnyPolicy
    """Who probes, and tries queries."""
    explorer: AnyPolicy | None = None
    """Who tries queries with `query_agent = "explorer"`."""
    vocabulary: Sequence[str] = ()
    """Actions that the chance policy draws from; none: it does not play."""
    known_tasks: Sequence[Task] = ()
    """All tasks that ever were in the pool."""
    known_sketches: Sequence[Sketch] = ()
    """Of those tasks, as far as a solution is known; and of those that were accepted before."""


@dataclass(slots=True)
class _Candidate:
    """A proposal on its way through the checks."""

    proposal: Proposal
    refusal: Refusal | None = None
    reference: tuple[str, ...] = ()
    replays: list[Trajectory] = field(default_factory=list)
    start: str | None = None
    tries: list[Trajectory] = field(default_factory=list)
    """Of its query."""
    probes: list[Trajectory] = field(default_factory=list)

    @property
    def probe(self) -> float | None:
        """Mean reward of the probes, or else of the tries."""
        rewards = [one.reward for one in counted(self.probes or self.tries)]
        return fmean(rewards) if rewards else None

    @property
    def task(self) -> Task:
        return self.proposal.task

    def refuse(self, refusal: Refusal | None) -> None:
        self.refusal = self.refusal or refusal


def validate(
    proposals: Sequence[Proposal], ground: Ground, arena: Arena, config: ValidationConfig, *, seed: int = 0
) -> list[Verdict]:
    """Check proposals and return their verdicts, in their order.

    A check plays all that is still in the running at once. What the budget can't pay to the end is not begun.

    Args:
        proposals: the most promising first.
        ground: what they are checked against.
        arena: where they are played; its budget holds.
        config: which checks are made.
        seed: of the chance policy.
    """
    candidates = [_Candidate(proposal) for proposal in proposals]
    _check_on_paper(candidates, ground)
    _keep_to_budget(candidates, arena, config)
    if "replay" in config.checks:
        _replay(candidates, ground, arena, config)
        _check_novelty(candidates, ground, config)
        _spot_check(partial(_replay_again, arena=arena, config=config), "replay", _open(candidates), config, seed)
    else:
        for candidate in _open(candidates):
            candidate.reference = candidate.proposal.references[0]
    if "empty" in config.checks:
        silence = partial(_play_null, purpose=Purpose.EMPTY, policy=empty_policy(), num=1, arena=arena, config=config)
        _spot_check(silence, "empty", _open(candidates), config, seed)
    if "random" in config.checks and ground.vocabulary:
        policy, num = RandomPolicy(seed, sorted(set(ground.vocabulary))), config.num_random
        chance = partial(_play_null, purpose=Purpose.RANDOM, policy=policy, num=num, arena=arena, config=config)
        _spot_check(chance, "random", _open(candidates), config, seed)
    _try(candidates, ground, arena, config)
    return [
        Verdict(proposal=one.proposal, refusal=one.refusal, reference=one.reference, start=one.start, probe=one.probe)
        for one in candidates
    ]


def probe_again(
    tasks: Sequence[Task], agent: AnyPolicy, arena: Arena, config: ValidationConfig, *, seed: int = 0
) -> list[str]:
    """Probe some quarantined tasks once more; return the ids of those that may enter the pool now.

    As many are drawn as the config says and the budget pays for. Where rollouts are probes, all that are drawn come in
    again, for another first visit.
    """
    drawn = sorted(tasks, key=lambda task: draw(seed, "probe again", task.id))[: config.num_again]
    if config.probes_in_pool:
        return [task.id for task in drawn]
    affordable = [task for place, task in enumerate(drawn, start=1) if arena.affords(place * config.num_probes)]
    if not affordable:
        return []
    played = arena.play(Purpose.PROBE, agent, affordable, num=config.num_probes)
    return [task.id for task, probes in zip(affordable, played, strict=True) if check_probe(probes, config) is None]


def _open(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    return [candidate for candidate in candidates if candidate.refusal is None]


def _spot_check(
    check: Callable[[Sequence[_Candidate]], None],
    name: str,
    candidates: Sequence[_Candidate],
    config: ValidationConfig,
    seed: int,
) -> None:
    """Make a check of the first candidates and of a share of the others; of all, as soon as it refuses one."""
    first, others = candidates[: config.num_in_full], candidates[config.num_in_full :]
    drawn = {one.task.id for one in others if draw(seed, "spot", name, one.task.id) < config.spot_share}
    spots = [one for one in others if one.task.id in drawn]
    left = [one for one in others if one.task.id not in drawn]
    for part, rest in ((first, others), (spots, left)):
        check(part)
        if any(one.refusal for one in part):
            check(rest)
            return


def _check_on_paper(candidates: Sequence[_Candidate], ground: Ground) -> None:
    """Make the checks that play nothing."""
    known = list(ground.known_tasks)
    for candidate in candidates:
        candidate.refuse(check_form(candidate.proposal, ground.turn_limit(candidate.task)))
        if candidate.refusal is None:
            candidate.refuse(check_known(candidate.proposal, known))
        if candidate.refusal is None:
            _pass_gate(candidate, ground, None, None)
        if candidate.refusal is None:
            known.append(candidate.task)


def _pass_gate(candidate: _Candidate, ground: Ground, start: str | None, actions: Sequence[str] | None) -> None:
    if found := ground.gate.check(candidate.task, start, actions):
        candidate.refuse(Refusal(reason=Reason.OVERLAP, detail=f"{found.evaluation_id} ({found.aspect})"))


def _keep_to_budget(candidates: Sequence[_Candidate], arena: Arena, config: ValidationConfig) -> None:
    cost = 0
    for candidate in _open(candidates):
        own = config.cost(len(candidate.proposal.references))
        if arena.affords(cost + own):
            cost += own
        else:
            candidate.refuse(Refusal(reason=Reason.BUDGET, detail=f"it takes up to {own} episodes"))


def _replay(candidates: Sequence[_Candidate], ground: Ground, arena: Arena, config: ValidationConfig) -> None:
    """Find each task's first reference that reaches the goal."""
    trying = _open(candidates)
    for place in range(max((len(one.proposal.references) for one in trying), default=0)):
        turn = [one for one in trying if not one.reference and place < len(one.proposal.references)]
        for candidate, played in _play_references(turn, arena, lambda one, i=place: one.proposal.references[i]):
            if check_goal(played, config) is None:
                candidate.reference, candidate.replays = candidate.proposal.references[place], [played]
            else:
                candidate.replays = candidate.replays or [played]
    for candidate in trying:
        if not candidate.reference:
            candidate.refuse(check_goal(candidate.replays[0], config))
        elif "change" in config.checks:
            candidate.refuse(check_change(candidate.replays[0], ground.world))


def _replay_again(candidates: Sequence[_Candidate], *, arena: Arena, config: ValidationConfig) -> None:
    """Play the references that reached the goal again, and compare."""
    for _ in range(config.num_replays - 1):
        for candidate, played in _play_references(_open(candidates), arena, lambda one: one.reference):
            candidate.replays.append(played)
    for candidate in _open(candidates):
        candidate.refuse(check_replays(candidate.replays, config))


def _play_references(
    candidates: Sequence[_Candidate], arena: Arena, actions: Callable[[_Candidate], tuple[str, ...]]
) -> list[tuple[_Candidate, Trajectory]]:
    policy = reference_policy({one.task.id: actions(one) for one in candidates})
    played = arena.play(Purpose.REPLAY, policy, [one.task for one in candidates])
    return [(candidate, episodes[0]) for candidate, episodes in zip(candidates, played, strict=True)]


def _check_novelty(candidates: Sequence[_Candidate], ground: Ground, config: ValidationConfig) -> None:
    """Compare what the replays showed: with evaluation tasks, known tasks and the proposals before."""
    known = list(ground.known_sketches)
    for candidate in _open(candidates):
        candidate.start = candidate.replays[0].turns[0].observation
        _pass_gate(candidate, ground, candidate.start, candidate.reference)
        own = sketch(candidate.task.id, candidate.start, candidate.reference)
        if candidate.refusal is None and "duplicate" in config.checks:
            twin = find_duplicate(own, known, config.max_similarity)
            if twin is not None:
                candidate.refuse(Refusal(reason=Reason.DUPLICATE, detail=f"nearly the same as {twin}"))
        if candidate.refusal is None:
            known.append(own)


def _play_null(
    candidates: Sequence[_Candidate],
    *,
    purpose: Purpose,
    policy: AnyPolicy,
    num: int,
    arena: Arena,
    config: ValidationConfig,
) -> None:
    reason = Reason.EMPTY_SOLVES if purpose is Purpose.EMPTY else Reason.RANDOM_SOLVES
    played = arena.play(purpose, policy, [one.task for one in candidates], num=num)
    for candidate, episodes in zip(candidates, played, strict=True):
        candidate.refuse(check_null(episodes, reason, config))


def _try(candidates: Sequence[_Candidate], ground: Ground, arena: Arena, config: ValidationConfig) -> None:
    """Let agents play what is left, without the solution. Two rules judge it: a query that nobody solves is refused;
    what the agent solves always or never is quarantined. The agent's probes are its tries of the query, too."""
    if config.asks_explorer:
        assert ground.explorer is not None, "an explorer is wanted, and none was given"
        _try_queries(candidates, Purpose.QUERY, ground.explorer, ground, arena, config)
    if config.probes_apart:
        trying = _open(candidates)
        played = arena.play(Purpose.PROBE, ground.agent, [one.task for one in trying], num=config.num_probes)
        for candidate, episodes in zip(trying, played, strict=True):
            candidate.probes = episodes
    if "query" in config.checks and not config.asks_explorer:
        _try_queries(candidates, Purpose.PROBE, ground.agent, ground, arena, config)
    if config.probes_apart:
        for candidate in _open(candidates):
            candidate.refuse(check_probe(candidate.probes, config))


def _try_queries(
    candidates: Sequence[_Candidate],
    purpose: Purpose,
    player: AnyPolicy,
    ground: Ground,
    arena: Arena,
    config: ValidationConfig,
) -> None:
    """Let a player try each query until it is solved, or all tries are used up."""
    trying = _open(candidates)
    for candidate in trying:
        candidate.tries = candidate.probes[: config.num_query_tries]
    for number in range(config.num_query_tries):
        unsolved = [one for one in trying if len(one.tries) <= number and check_query(one.tries, config)]
        played = arena.play(purpose, player, [one.task for one in unsolved]) if unsolved else []
        for candidate, episodes in zip(unsolved, played, strict=True):
            candidate.tries += episodes
    for candidate in trying:
        candidate.refuse(check_query(candidate.tries, config))
        turns = candidate.tries[0].turns
        if candidate.start is None and turns:  # no replay has shown it
            candidate.start = turns[0].observation
            _pass_gate(candidate, ground, candidate.start, candidate.reference)
