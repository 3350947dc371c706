"""Which episodes a phase plays comes in, with its folder; their trajectories go out, wave by wave, resumable.

A `Stage` knows the world and its live envs, and no method, model or order of phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.envs.base import Benchmark
from sparring.errors import EnvFault
from sparring.journal import Journal
from sparring.policies.base import Policy
from sparring.rollout import EpisodeSpec, Pool, count_lanes, cut_waves, rollout
from sparring.run import TRAJECTORIES, Phase, read_trajectories, trajectory_to_json
from sparring.types import StopReason, Trajectory


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where episodes are played, and how many of them at once."""

    benchmark: Benchmark
    pool: Pool
    num_slots: int
    """Envs that play at once."""
    wave_size: int | None
    """Most episodes that are played, saved and resumed together; none: as many as `cut_waves` likes."""

    def play_phase(
        self,
        make_policy: Callable[[], Policy],
        specs: Sequence[EpisodeSpec],
        phase: Phase,
        advance: Callable[[int], None],
    ) -> None:
        """Play what is not yet written down, and finish the phase.

        Args:
            make_policy: called only if there is something left to play.
            specs: all of the phase's episodes.
            phase: gets the trajectories.
            advance: told of how many episodes are there, as they come.

        Raises:
            EnvFault: every episode of a wave broke.
        """
        journal = phase.journal(TRAJECTORIES)
        rest, kept = _unfinished_waves(self._waves(specs), journal.read())
        journal.replace(kept)
        advance(len(kept))

        def finished(wave: Sequence[Trajectory]) -> None:
            if all(trajectory.stop is StopReason.ENV_FAULT for trajectory in wave):
                raise EnvFault(
                    f"{phase.path}: every episode of a wave broke ({wave[0].error}). `sparring envs` "
                    "says whether the world runs here; fewer env.num_envs need less memory."
                )
            journal.append([trajectory_to_json(trajectory) for trajectory in wave])

        if rest:
            self._rollout(make_policy(), rest, finished, advance)
        phase.finish({"num": len(specs)})

    def play(
        self, policy: Policy, specs: Sequence[EpisodeSpec], journal: Journal, advance: Callable[[int], None]
    ) -> list[Trajectory]:
        """Play episodes from the first one on, and write them down."""
        return self._rollout(
            policy, self._waves(specs), lambda wave: journal.append(map(trajectory_to_json, wave)), advance
        )

    def _waves(self, specs: Sequence[EpisodeSpec]) -> list[Sequence[EpisodeSpec]]:
        num_lanes = count_lanes(self.benchmark, self.num_slots)
        return cut_waves(specs, self.wave_size, num_slots=self.num_slots, num_lanes=num_lanes)

    def _rollout(
        self,
        policy: Policy,
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


def played(phase: Phase, specs: Sequence[EpisodeSpec]) -> list[Trajectory]:
    """Read a finished phase's trajectories, in the order of its specs."""
    by_id = {trajectory.id: trajectory for trajectory in read_trajectories(phase.path / TRAJECTORIES)}
    return [by_id[spec.id] for spec in specs]


def _unfinished_waves(
    waves: Sequence[Sequence[EpisodeSpec]], records: Sequence[dict[str, Any]]
) -> tuple[list[Sequence[EpisodeSpec]], list[dict[str, Any]]]:
    """Split into waves still to be played and records to keep: a wave counts only as a whole.

    A wave's batches depend on all of its episodes, so half of one can't be gone on with bit for bit.
    """
    by_id = {record["id"]: record for record in records}
    rest: list[Sequence[EpisodeSpec]] = []
    kept: list[dict[str, Any]] = []
    for wave in waves:
        if all(spec.id in by_id for spec in wave):
            kept += [by_id[spec.id] for spec in wave]
        else:
            rest.append(wave)
    return rest, kept
