"""A run's phases come in; rewards, candidates for the side-by-side view and a sample to browse go out, in one pass.

Trajectory files are read one after the other and only what is shown is kept, so a study of many seeds fits in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparring.core.filters import counted
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.records import read_trajectories
from sparring.core.types import Trajectory
from sparring.report.folder import PhaseFolder

EXPERTS = "experts.jsonl"
"""The experts' trajectories, in a run's folder."""
MAX_WATCHED = 6
"""Rounds whose rollouts are kept whole where asked for, the last ones: policy gradient has hundreds."""

SetKey = tuple[str, str, str, int]
"""(arm, kind, agent, round); the kind of phase is `evaluate`, `rollout`, `rollout-refreshed`, `branch`, …"""
WATCHED = ("rollout", "rollout-refreshed", "branch-script", "branch-script-refreshed")
"""Kinds of which an arm's episodes are kept whole where asked for."""
PLAYED = ("rollout", "branch", "evaluate")
"""Acts whose episodes the page shows."""
UNREAD = ("branch-scores",)
"""Kinds that are left out: these only tell what a step is worth, and there are ten of them for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledEpisode:
    """An episode in the list of trajectories, and where it comes from."""

    trajectory: Trajectory
    arms: tuple[str, ...]
    """All arms that share it."""
    seed: str
    kind: str
    agent: str
    round: int
    path: Path
    """The folder in which it lies."""
    name: str
    """Of its phase, for instance `round-1/rollout-target`; empty: an expert's."""


@dataclass(slots=True, kw_only=True)
class Episodes:
    """What is kept of a run's episodes."""

    rewards: dict[SetKey, dict[tuple[str, str], list[float]]] = field(default_factory=dict)
    """Set → (seed, task) → rewards, broken episodes left out."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Task id → task type."""
    sample: list[SampledEpisode] = field(default_factory=list)
    num_total: int = 0
    """Episodes in the run's files, of which `sample` is a part."""
    watched: dict[SetKey, list[Trajectory]] = field(default_factory=dict)
    """All usable episodes of the sets that the caller asked for, of the first seed and the last rounds."""
    found: dict[tuple[Path, str], Trajectory] = field(default_factory=dict)
    """Folder and id → episode, of those that the caller asked for."""

    def pooled(self, key: SetKey) -> list[float]:
        """Return all rewards of a set."""
        return [reward for rewards in self.rewards.get(key, {}).values() for reward in rewards]


def collect(
    phases: Sequence[PhaseFolder],
    *,
    max_bytes: int,
    watch: Sequence[str] = (),
    wanted: Sequence[Mapping[Path, Collection[str]]] = (),
    listed: Mapping[Path, Collection[str]] | None = None,
) -> Episodes:
    """Read every trajectory file once.

    Args:
        phases: of the run; those that play are read.
        max_bytes: size on disk of the sample, about; spread evenly over the files, and evenly inside each.
        wanted: folder of a phase → ids of episodes that are kept whole.
        listed: folder of a phase → ids of episodes that the sample must hold.
        watch: arms whose rollouts with the first seed are kept whole, those of the last `MAX_WATCHED` rounds.

    Raises:
        DataError: a file is not what its phase wrote.
    """
    episodes = Episodes()
    by_path: dict[Path, list[PhaseFolder]] = {}
    for phase in phases:
        if phase.act in PLAYED and phase.kind not in UNREAD and (phase.path / TRAJECTORIES).exists():
            by_path.setdefault(phase.path, []).append(phase)
    sizes = {path: (path / TRAJECTORIES).stat().st_size for path in by_path}
    shares = allot(sizes, max_bytes)
    first_seed = phases[0].seed if phases else ""
    last = {phase.arm: phase.round for phase in sorted(phases, key=lambda phase: phase.round)}
    for path, sharing in by_path.items():
        trajectories = Phase(path).trajectories()
        episodes.num_total += len(trajectories)
        episodes.kinds |= {t.task.id: t.task.kind for t in trajectories}
        usable = counted(trajectories)
        ids = {name for one in wanted for name in one.get(path, ())}
        episodes.found |= {(path, t.id): t for t in trajectories if t.id in ids}
        for phase in sharing:
            key = (phase.arm, phase.kind, phase.agent, phase.round)
            rewards = episodes.rewards.setdefault(key, {})
            rewards |= {(phase.seed, task): values for task, values in _by_task(usable).items()}
            is_late = phase.round > last[phase.arm] - MAX_WATCHED
            if phase.arm in watch and phase.kind in WATCHED and phase.seed == first_seed and is_late:
                episodes.watched[key] = usable
        arms = tuple(dict.fromkeys(phase.arm for phase in sharing))
        chosen = {t.id for t in evenly(trajectories, shares[path] / max(1, sizes[path]))}
        chosen |= set((listed or {}).get(path, ()))
        episodes.sample += [_sampled(t, sharing[0], arms) for t in trajectories if t.id in chosen]
    return episodes


def _sampled(trajectory: Trajectory, phase: PhaseFolder, arms: tuple[str, ...]) -> SampledEpisode:
    return SampledEpisode(
        trajectory=trajectory,
        arms=arms,
        seed=phase.seed,
        kind=phase.kind,
        agent=phase.agent,
        round=phase.round,
        path=phase.path,
        name=phase.name,
    )


def sample_experts(
    run_dir: Path, experts: Sequence[Trajectory], max_bytes: int, listed: Collection[str]
) -> list[SampledEpisode]:
    """Return experts' trajectories for the list: those that are named, and others, evenly spaced.

    Args:
        run_dir: the run's folder.
        experts: all that it has.
        max_bytes: size on disk of the others, about.
        listed: ids of those that must be there.
    """
    size = (run_dir / EXPERTS).stat().st_size if experts else 1
    chosen = {t.id for t in evenly(experts, min(1.0, max_bytes / size))} | set(listed) if experts else set()
    return [
        SampledEpisode(
            trajectory=t, arms=(), seed="", kind="expert", agent="expert", round=0, path=run_dir.resolve(), name=""
        )
        for t in experts
        if t.id in chosen
    ]


def read_experts(run_dir: Path) -> list[Trajectory]:
    """Read the experts' trajectories; a run may lack the file."""
    path = run_dir / EXPERTS
    return read_trajectories(path) if path.exists() else []


def allot(sizes: Mapping[Path, int], total: int) -> dict[Path, float]:
    """Share `total` out as evenly as the sizes allow: no file gets more than its size, and what it leaves goes on.

    Sizes 10, 100 and 200 with a total of 150 get 10, 70 and 70.
    """
    shares: dict[Path, float] = {}
    left, waiting = float(total), sorted(sizes, key=lambda path: sizes[path])
    for i, path in enumerate(waiting):
        shares[path] = min(float(sizes[path]), left / (len(waiting) - i))
        left -= shares[path]
    return shares


def evenly(trajectories: Sequence[Trajectory], share: float) -> Iterator[Trajectory]:
    """Yield a share of the trajectories, evenly spaced, and at least one."""
    num = min(len(trajectories), max(1, int(share * len(trajectories) + 1e-6)))
    return (trajectories[i * len(trajectories) // num] for i in range(num))


def _by_task(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    rewards: dict[str, list[float]] = {}
    for trajectory in trajectories:
        rewards.setdefault(trajectory.task.id, []).append(trajectory.reward)
    return rewards
