"""The curriculum of a CoEvolve run: its pool of tasks, its history and its open flags, folded over the steps.

    curriculum, events = begin(tasks)
    each step:  tasks = draw_tasks(curriculum, …);  rollouts and training;  curriculum, events = observe(curriculum, …)
    each F-th:  result = synthesise(curriculum, …), which acts in the world;  curriculum, events = extend(curriculum, …)

`observe` and `extend` are pure: a run that is resumed folds its recorded rollouts and syntheses again and stands where
it stood. `synthesise` alone acts; what it returns is plain data.

Source: arXiv 2604.15840 (the loop).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from sparring.core.convert import check_values
from sparring.core.errors import DataError
from sparring.core.ranges import Count, CountOrZero, PositiveWeight, Repeats, Weight
from sparring.core.types import Task, Trajectory
from sparring.synthesis import pool as pools
from sparring.synthesis.arena import Arena
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.novelty import Sketch, sketch_of
from sparring.synthesis.pool import PoolConfig, PoolEvent, Status, TaskPool
from sparring.synthesis.proposals import STRATEGY_NAMES, Findings, StrategyName, Synthesiser
from sparring.synthesis.signals import (
    Flag,
    History,
    Pattern,
    SignalConfig,
    Visit,
    find_flags,
    near_miss,
    remember,
    top_flags,
    unguided,
    visits_of,
)
from sparring.synthesis.validation import Ground, Verdict, probe_again, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisConfig:
    """How often, from what and by whom tasks are made."""

    preset: Literal["ours", "paper"] = "ours"
    """`paper`: what CoEvolve's paper does in the place of our additions, in this section and in `signals`, `validation`
    and `pool` (`sparring.synthesis.presets`). It lies beneath every key that a recipe or the command line gives."""
    kind: Literal["programmatic", "exploration", "language-model", "replay"] = "programmatic"
    """`programmatic`: by the world's own means. `exploration`: the world's own explorer plays without a goal where
    flagged tasks begin, and what it brings about becomes the goal. `language-model`: reflect, explore, abstract (the
    paper). `replay`: no new tasks, flagged ones are drawn more often (control arm)."""
    guidance: Literal["flags", "random"] = "flags"
    """`random`: new tasks begin at trajectories drawn by chance (the paper's ablation)."""
    every: Repeats = 10
    """Steps between two syntheses (paper: 10)."""
    warmup: CountOrZero = 0
    """No synthesis before this step."""
    until: Count | None = None
    """No synthesis after this step, so that new tasks are still played often enough; none: to the end (the paper)."""
    num_flags: Repeats = 32
    """Most flags that a synthesis starts from."""
    num_proposals: Repeats = 32
    """Most proposals of a synthesis."""
    max_episodes: CountOrZero | None = None
    """Most episodes that a synthesis may play, for exploring and validation together; none: as many as it takes."""
    replay_strength: Weight = 1.0
    """`replay`: a flagged task of priority 1 weighs one plus this."""
    fresh_weight: PositiveWeight = 4.0
    """How many times as likely a new task is drawn that has not been played yet (paper: 1)."""
    strategies: tuple[StrategyName, ...] = STRATEGY_NAMES
    """What the programmatic synthesiser may make of a flag. For `variation` the world says how the new task is solved;
    the others know it from what was played."""
    clone_solutions: bool = False
    """`coevolve`: a round that makes tasks ends with imitation in the place of the policy gradient. The base model is
    fine-tuned anew, on the experts and on how all new tasks were solved when they were validated, and becomes the
    target. (The paper learns by reward alone.)"""

    def __post_init__(self) -> None:
        """Refuse values out of range, and a synthesis that may do nothing."""
        check_values(self)
        if not self.strategies:
            raise ValueError("strategies: name at least one")

    def is_due(self, step: int) -> bool:
        """Say whether tasks are made after a step, counted from 1."""
        return step % self.every == 0 and self.warmup <= step <= (self.until or step)


class HasCoEvolveSections(Protocol):
    """A config that has these sections among others."""

    @property
    def synthesis(self) -> SynthesisConfig: ...
    @property
    def signals(self) -> SignalConfig: ...
    @property
    def pool(self) -> PoolConfig: ...
    @property
    def validation(self) -> ValidationConfig: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CoEvolveConfig:
    """All that a curriculum depends on."""

    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    signals: SignalConfig = field(default_factory=SignalConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    @classmethod
    def of(cls, config: HasCoEvolveSections) -> CoEvolveConfig:
        """Put together the sections of a larger config."""
        return cls(synthesis=config.synthesis, signals=config.signals, pool=config.pool, validation=config.validation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """Where a run stands."""

    pool: TaskPool
    step: int = 0
    """The last that was observed."""
    experts: tuple[Trajectory, ...] = ()
    """Solutions of initial tasks."""
    history: History = field(default_factory=History)
    flags: tuple[Flag, ...] = ()
    """Since the last synthesis."""
    visits: tuple[Visit, ...] = ()
    """Since the last synthesis."""
    sketches: Mapping[str, Sketch] = field(default_factory=dict)
    """Task id → what new tasks are compared with, where a solution is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisResult:
    """What a synthesis brought: plain data, to be recorded."""

    step: int
    verdicts: tuple[Verdict, ...] = ()
    released: tuple[str, ...] = ()
    """Quarantined tasks that the agent now solves sometimes."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The synthesiser's own."""
    episodes: Mapping[str, int] = field(default_factory=dict)
    """Purpose → episodes played: they count as rollouts of the run."""

    def refusals(self) -> dict[str, int]:
        """Count proposals by what became of them, `accepted` included."""
        return dict(Counter(one.refusal.reason.value if one.refusal else "accepted" for one in self.verdicts))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        return {
            "step": self.step,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "released": list(self.released),
            "counts": dict(self.counts),
            "episodes": dict(self.episodes),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SynthesisResult:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            return cls(
                step=record["step"],
                verdicts=tuple(Verdict.from_json(verdict) for verdict in record["verdicts"]),
                released=tuple(record["released"]),
                counts=dict(record["counts"]),
                episodes=dict(record["episodes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a synthesis: {type(error).__name__}: {error}.") from None


Step = tuple[Curriculum, list[PoolEvent]]
"""Where the run then stands, and what changed in the pool."""


def begin(tasks: Sequence[Task], experts: Sequence[Trajectory] = ()) -> Step:
    """Start with D_0; the experts' episodes say what its tasks look like and how they are solved."""
    pool, events = pools.start(tasks)
    sketches = {expert.task.id: sketch_of(expert) for expert in experts if expert.turns}
    return Curriculum(pool=pool, experts=tuple(experts), sketches=sketches), events


def draw_tasks(curriculum: Curriculum, num: int, seed: int, step: int, config: SynthesisConfig) -> list[Task]:
    """Draw a step's tasks from the pool: new ones that were never played, or in the control arm flagged ones, first."""
    if config.kind == "replay":
        weights = pools.replay_weights(curriculum.flags, config.replay_strength)
    else:
        weights = pools.fresh_weights(curriculum.pool, config.fresh_weight)
    return pools.sample(curriculum.pool, num, seed, step, weights)


def observe(
    curriculum: Curriculum, step: int, trajectories: Sequence[Trajectory], pattern: Pattern, config: CoEvolveConfig
) -> Step:
    """Take a step's rollouts in: flags, history, solutions, retirement."""
    visits = visits_of(step, trajectories)
    flags = find_flags(visits, curriculum.history, pattern, config.signals)
    pool, events = pools.record(curriculum.pool, visits, step, config.pool)
    if config.validation.probes_in_pool:
        pool, judged = pools.probe(pool, visits, step, config.validation, min_active=config.pool.min_active)
        events += judged
    eps = config.validation.success_eps
    solved = {one.task.id: sketch_of(one) for visit in visits for one in visit.rollouts if one.reward >= 1.0 - eps}
    observed = replace(
        curriculum,
        pool=pool,
        step=step,
        history=remember(curriculum.history, visits, pattern, config.signals.window),
        flags=(*curriculum.flags, *flags),
        visits=(*curriculum.visits, *visits),
        sketches={**solved, **curriculum.sketches},
    )
    return observed, events


def notice(curriculum: Curriculum, step: int, trajectories: Sequence[Trajectory], config: SignalConfig) -> Curriculum:
    """Take another agent's rollouts in: its near misses flag tasks, its episodes are solutions and starts.

    It says nothing of how the target does, so history and retirement are left alone.
    """
    visits = visits_of(step, trajectories)
    flags = [flag for visit in visits if (flag := near_miss(visit, config)) is not None]
    return replace(curriculum, flags=(*curriculum.flags, *flags), visits=(*curriculum.visits, *visits))


def synthesise(
    curriculum: Curriculum, synthesiser: Synthesiser, ground: Ground, arena: Arena, config: CoEvolveConfig, *, seed: int
) -> SynthesisResult:
    """Probe what is quarantined again, propose tasks where the agent is weak, and validate them. This acts.

    Args:
        curriculum: where the run stands.
        synthesiser: who proposes.
        ground: what proposals are checked against; its known tasks, sketches and vocabulary are the curriculum's, added
            here.
        arena: where all is played; its budget holds for all of it.
        config: of the run.
        seed: of this synthesis.
    """
    own = config.synthesis
    waiting = [one.task for one in curriculum.pool.members if one.status is Status.QUARANTINED]
    can_probe = "probe" in config.validation.checks
    released = probe_again(waiting, ground.agent, arena, config.validation, seed=seed) if can_probe else []
    flags = (
        unguided(curriculum.visits, own.num_flags, seed)
        if own.guidance == "random"
        else top_flags(curriculum.flags, own.num_flags)
    )
    findings = Findings(
        flags=flags,
        visits=curriculum.visits,
        experts=curriculum.experts,
        known_ids=frozenset(member.task.id for member in curriculum.pool.members),
    )
    proposed = synthesiser.propose(findings, arena, num=own.num_proposals, seed=seed)
    ground = replace(
        ground,
        known_tasks=[*ground.known_tasks, *(member.task for member in curriculum.pool.members)],
        known_sketches=[*ground.known_sketches, *curriculum.sketches.values()],
        vocabulary=sorted({*ground.vocabulary, *filter(ground.world.pattern, _actions(findings))}),
    )
    verdicts = validate(proposed.proposals, ground, arena, config.validation, seed=seed)
    return SynthesisResult(
        step=curriculum.step,
        verdicts=tuple(verdicts),
        released=tuple(released),
        counts=proposed.counts,
        episodes=arena.spent,
    )


def extend(curriculum: Curriculum, result: SynthesisResult, config: PoolConfig) -> Step:
    """Take a synthesis in: its tasks enter the pool, and the flags that led to it are done with."""
    pool, events = pools.release(curriculum.pool, result.released, result.step, config)
    accepted = [(one.proposal.task, one.proposal.origin) for one in result.verdicts if one.is_accepted]
    pool, added = pools.add(pool, accepted, result.step, config)
    waiting = [(one.proposal.task, one.proposal.origin) for one in result.verdicts if one.is_quarantined]
    pool, quarantined = pools.quarantine(pool, waiting, result.step)
    sketches = {
        one.proposal.task.id: one.sketch
        for one in result.verdicts
        if one.sketch is not None and (one.is_accepted or one.is_quarantined)
    }
    grown = replace(curriculum, pool=pool, flags=(), visits=(), sketches={**curriculum.sketches, **sketches})
    return grown, [*events, *added, *quarantined]


def _actions(findings: Findings) -> set[str]:
    played = [*findings.experts, *(rollout for visit in findings.visits for rollout in visit.rollouts)]
    return {turn.action for trajectory in played for turn in trajectory.turns}
