"""Which episodes phases play comes in, with their folders; their trajectories go out, wave by wave, resumable.

A `Stage` knows the world and its live envs, and no method, model or order of phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from sparring.core.errors import DataError, EnvFault
from sparring.core.filters import is_broken
from sparring.core.journal import Journal
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.records import journaled, trajectory_to_json
from sparring.core.types import Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.rewards import odd_rewards
from sparring.policies.base import AnyPolicy, FreePolicy
from sparring.rollouts.episodes import EpisodeSpec, Pool
from sparring.rollouts.free import Joined
from sparring.rollouts.loop import count_lanes, cut_waves, rollout


@dataclass(frozen=True, kw_only=True)
class Part:
    """A phase's episodes, and who plays them."""

    make_policy: Callable[[], AnyPolicy]
    """Called only if there is something left to play."""
    specs: Sequence[EpisodeSpec]
    phase: Phase
    """Gets the trajectories."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where episodes are played, and how many of them at once."""

    benchmark: Benchmark
    pool: Pool
    num_slots: int
    """Envs that play at once."""
    wave_size: int | None
    """Most episodes that are played, saved and resumed together; none: as many as `cut_waves` likes."""
    max_broken: float
    """Largest share of a phase's episodes that infrastructure may break."""
    is_free: bool = False
    """Policies answer each episode by itself: then it is played, saved and resumed by itself, too."""

    def play_phases(self, parts: Sequence[Part], advance: Callable[[int], None]) -> None:
        """Play what is not yet written down, and finish the phases.

        Args:
            parts: more than one only where policies answer each episode by itself: then their episodes are in play at
                the same time.
            advance: told of how many episodes are there, as they come.

        Raises:
            EnvFault: every episode of a wave broke, or more of a phase's than `max_broken` allows.
        """
        ledgers = [self._open(part) for part in parts]
        advance(sum(len(ledger.written) for ledger in ledgers))
        due = [ledger for ledger in ledgers if ledger.rest]
        ledger_of = {spec.id: ledger for ledger in due for wave in ledger.rest for spec in wave}
        if due:
            policies = [ledger.part.make_policy() for ledger in due]
            waves = [wave for turn in zip_longest(*(ledger.rest for ledger in due)) for wave in turn if wave]
            policy = policies[0] if len(due) == 1 else _join(policies, due)
            self._rollout(policy, waves, lambda wave: ledger_of[wave[0].id].write(wave), advance)
        for ledger in ledgers:
            ledger.close()

    def play(
        self,
        policy: AnyPolicy,
        specs: Sequence[EpisodeSpec],
        journal: Journal,
        advance: Callable[[int], None],
    ) -> list[Trajectory]:
        """Play episodes from the first one on, and write them down."""
        waves = self._waves(specs, is_free=isinstance(policy, FreePolicy))
        return self._rollout(policy, waves, lambda wave: journal.append(map(trajectory_to_json, wave)), advance)

    def _open(self, part: Part) -> _Ledger:
        """Find out what of a phase is left to play."""
        journal = part.phase.journal(TRAJECTORIES)
        waves = self._waves(part.specs, is_free=self.is_free)
        rest, kept = _unfinished_waves(waves, {one.id: one for one in journaled(journal)})
        journal.replace(map(trajectory_to_json, kept))
        return _Ledger(part, journal, rest, kept, self.max_broken, self.is_free)

    def _waves(self, specs: Sequence[EpisodeSpec], *, is_free: bool) -> list[Sequence[EpisodeSpec]]:
        if is_free:
            return [[spec] for spec in specs]
        num_lanes = count_lanes(self.benchmark, self.num_slots)
        return cut_waves(specs, self.wave_size, num_slots=self.num_slots, num_lanes=num_lanes)

    def _rollout(
        self,
        policy: AnyPolicy,
        waves: Sequence[Sequence[EpisodeSpec]],
        finished: Callable[[list[Trajectory]], None],
        advance: Callable[[int], None],
    ) -> list[Trajectory]:
        return rollout(
            policy,
            self.pool,
            self.benchmark,
            waves,
            num_slots=self.num_slots,
            finished=finished,
            on_episode=lambda _: advance(1),
        )


@dataclass(slots=True)
class _Ledger:
    """What a phase has played so far."""

    part: Part
    journal: Journal
    rest: Sequence[Sequence[EpisodeSpec]]
    """Waves that are left to play."""
    written: list[Trajectory]
    max_broken: float
    is_free: bool
    broken: list[Trajectory] = field(default_factory=list)

    def write(self, wave: Sequence[Trajectory]) -> None:
        """Write a wave down.

        Raises:
            EnvFault: too many of its episodes are broken.
        """
        self.journal.append([trajectory_to_json(trajectory) for trajectory in wave])
        lost = [trajectory for trajectory in wave if is_broken(trajectory)]
        self.written.extend(wave)
        self.broken.extend(lost)
        num = len(self.part.specs)
        if (len(lost) == len(wave) and not self.is_free) or len(self.broken) > self.max_broken * num:
            raise _too_many(self.broken, num, self.part.phase, self.max_broken)

    def close(self) -> None:
        """Bring the trajectories into the order of the specs, and finish the phase."""
        specs, by_id = self.part.specs, {trajectory.id: trajectory for trajectory in self.written}
        if list(by_id) != [spec.id for spec in specs]:  # lanes and agents finish their waves in an order of their own
            self.journal.replace(trajectory_to_json(by_id[spec.id]) for spec in specs)
        odd = odd_rewards(self.written)
        self.part.phase.finish({"num": len(specs), "broken": len(self.broken), **({"odd_rewards": odd} if odd else {})})


def _join(policies: Sequence[AnyPolicy], ledgers: Sequence[_Ledger]) -> Joined:
    policy_of = dict[str, FreePolicy]()
    for policy, ledger in zip(policies, ledgers, strict=True):
        assert isinstance(policy, FreePolicy)
        policy_of |= {spec.id: policy for spec in chain.from_iterable(ledger.rest)}
    return Joined(policy_of)


def played(phase: Phase, specs: Sequence[EpisodeSpec]) -> list[Trajectory]:
    """Read a finished phase's trajectories, in the order of its specs.

    Raises:
        DataError: they are not what the phase wrote, or not what the specs ask for.
    """
    found = phase.trajectories()
    for trajectory, spec in zip_longest(found, specs):
        if trajectory is None or spec is None or not _is_asked(trajectory, spec):
            raise DataError(
                f"{phase.path / TRAJECTORIES}: holds other episodes than this run's config asks for. {phase.remedy}"
            )
    return found


def num_broken(trajectories: Iterable[Trajectory]) -> int:
    """Count the episodes that infrastructure broke."""
    return sum(map(is_broken, trajectories))


def _is_asked(trajectory: Trajectory, spec: EpisodeSpec) -> bool:
    asked = (spec.id, spec.task.id, spec.agent, spec.seed)
    return (trajectory.id, trajectory.task.id, trajectory.agent, trajectory.seed) == asked


def _too_many(broken: Sequence[Trajectory], num: int, phase: Phase, bound: float) -> EnvFault:
    return EnvFault(
        f"{phase.path}: infrastructure broke {len(broken)} of {num} episodes, {broken[0].id} first "
        f"({broken[0].error}): a whole wave, or more than env.max_broken = {bound:g} allows. `sparring envs` says "
        "whether the world runs here. What was played whole is kept: the same command plays the broken ones again, and "
        "may allow more of them."
    )


def _unfinished_waves(
    waves: Sequence[Sequence[EpisodeSpec]], known: Mapping[str, Trajectory]
) -> tuple[list[Sequence[EpisodeSpec]], list[Trajectory]]:
    """Split into waves still to be played and trajectories to keep: a wave counts only as a whole, none of it broken.

    A wave's batches depend on all of its episodes, so half of one can't be gone on with bit for bit.
    """
    rest: list[Sequence[EpisodeSpec]] = []
    kept: list[Trajectory] = []
    for wave in waves:
        own = [known.get(spec.id) for spec in wave]
        whole = [one for one, spec in zip(own, wave, strict=True) if one and _is_asked(one, spec)]
        if len(whole) == len(wave) and not num_broken(whole):
            kept += whole
        else:
            rest.append(wave)
    return rest, kept
