"""A run's folder comes in, its phases go out: which arm, seed, round and agent each belongs to, and what it cost.

Phases that arms share lie once in the seed's `shared` folder and are linked from each arm; a phase's real path tells
what is the same, so nothing is read twice and a cost can be given to every arm that needed it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.journal import read_journal
from sparring.core.phases import DONE, Phase

_PHASE = re.compile(
    r"(?:round-(?P<round>\d+)/)?(?:(?P<made>synthesis|preferences)|"
    r"(?P<act>sft|rollout|branch|score|evaluate|also|train|check|rejected|judge)-(?P<agent>[a-z_]+)(?:-(?P<part>.+))?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFolder:
    """One finished phase of one arm and seed."""

    seed: str
    arm: str
    name: str
    """For instance `round-1/rollout-target`."""
    round: int
    act: str
    """`sft`, `rollout`, `branch`, `score`, `evaluate`, `also` (on a further split), `train`, `check`, `rejected` (a
    training that was taken back), `judge` (likelihoods of held-out preferences), `synthesis` or `preferences`."""
    agent: str
    part: str
    """What sets it apart from the agent's other phases of this act in the round: `refreshed`; mostly empty."""
    path: Path
    """The real folder; the same for all arms that share the phase."""

    @property
    def kind(self) -> str:
        """Act and part: `rollout`, `rollout-refreshed`, `branch`."""
        return f"{self.act}-{self.part}" if self.part else self.act


def list_phases(run_dir: Path, seeds: Sequence[str], arms: Sequence[str]) -> list[PhaseFolder]:
    """List the finished phases, by seed and arm in the given order, then by round and name."""
    return [phase for seed in seeds for arm in arms for phase in _phases_of(run_dir, seed, arm)]


def agent_names(arm_folder: Path) -> list[str]:
    """List the agents that have phases in the folder of an arm with one seed, the target first."""
    names = {path.parent.relative_to(arm_folder).as_posix() for path in arm_folder.glob(f"round-*/*/{DONE}")}
    found = {match["agent"] for name in names if (match := _PHASE.fullmatch(name)) and match["agent"]}
    return sorted(found, key=lambda agent: (agent != "target", agent))


def _phases_of(run_dir: Path, seed: str, arm: str) -> Iterator[PhaseFolder]:
    folder = run_dir / f"seed-{seed}" / arm
    found = [path.parent for pattern in (f"*/{DONE}", f"round-*/*/{DONE}") for path in folder.glob(pattern)]
    parsed = [(path, _PHASE.fullmatch(path.relative_to(folder).as_posix())) for path in found]
    phases = [
        PhaseFolder(
            seed=seed,
            arm=arm,
            name=match[0],
            round=int(match["round"] or 0),
            act=match["act"] or match["made"],
            agent=match["agent"] or "target",
            part=match["part"] or "",
            path=_real_path(run_dir / f"seed-{seed}", arm, match[0]),
        )
        for path, match in parsed
        if match
    ]
    return iter(sorted(phases, key=lambda phase: (phase.round, phase.name)))


def _real_path(seed_folder: Path, arm: str, name: str) -> Path:
    """Return the one folder of a phase that arms share, be it linked or, in a copy that followed links, copied."""
    own = seed_folder / arm / name
    marker = own / DONE
    if marker.is_file() and not own.is_symlink():
        for shared in seed_folder.glob(f"shared/{name.replace('/', '-')}-*/{DONE}"):
            if shared.read_bytes() == marker.read_bytes():
                return shared.parent.resolve()
    return own.resolve()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What phases took, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0
    """CPU time of this process and of the envs' processes together."""
    num: int = 0
    """Phases."""

    def __add__(self, other: Cost) -> Cost:
        """Add up."""
        return Cost(wall=self.wall + other.wall, cpu=self.cpu + other.cpu, num=self.num + other.num)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a run took."""

    by_phase: Mapping[tuple[str, str], Cost]
    """(act, agent) → cost, each phase counted once however many arms share it."""
    by_arm: Mapping[tuple[str, str], Mapping[tuple[str, str], Cost]]
    """(seed, arm) → the same, with all that the arm needed, shared phases included."""

    def of(self, arm: str, *acts: str, agent: str = "") -> Cost | None:
        """Add up what an arm needed, on average over its seeds; None where nothing is known.

        Args:
            arm: whose costs.
            acts: of these acts only, for instance `train`; none given: of all.
            agent: of this agent only.
        """
        seeds = [phases for (_, name), phases in self.by_arm.items() if name == arm and phases]
        if not seeds:
            return None
        picked = [
            cost
            for phases in seeds
            for (its_act, its_agent), cost in phases.items()
            if (not acts or its_act in acts) and agent in ("", its_agent)
        ]
        total = sum(picked, Cost())
        return Cost(wall=total.wall / len(seeds), cpu=total.cpu / len(seeds), num=total.num)


def read_costs(run_dir: Path, phases: Sequence[PhaseFolder]) -> Costs:
    """Read `timings.jsonl` and attribute it; without the file, nothing is known."""
    path = run_dir / "timings.jsonl"
    by_path: dict[Path, Cost] = {}
    for number, record in enumerate(read_journal(path) if path.exists() else [], start=1):
        try:
            where = _real_path(run_dir / f"seed-{record['seed']}", record["arm"], record["phase"])
            cpu = float(record.get("cpu_s", 0.0)) + float(record.get("env_cpu_s", 0.0))
            cost = Cost(wall=float(record.get("wall_s", 0.0)), cpu=cpu, num=1)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: not a timing ({error}). Delete the line.") from None
        by_path[where] = by_path.get(where, Cost()) + cost
    by_phase: dict[tuple[str, str], Cost] = {}
    by_arm: dict[tuple[str, str], dict[tuple[str, str], Cost]] = {}
    counted: set[Path] = set()
    for phase in phases:
        cost = by_path.get(phase.path)
        if cost is None:
            continue
        key = (phase.act, phase.agent)
        own = by_arm.setdefault((phase.seed, phase.arm), {})
        own[key] = own.get(key, Cost()) + cost
        if phase.path not in counted:
            counted.add(phase.path)
            by_phase[key] = by_phase.get(key, Cost()) + cost
    return Costs(by_phase=by_phase, by_arm=by_arm)


def training_log(phase: PhaseFolder, is_wanted: Callable[[str], bool]) -> list[Mapping[str, Any]]:
    """Read a training phase's steps, those that have a metric of a wanted name."""
    path = phase.path / "log.jsonl"
    if not path.exists():
        return []
    lines = read_journal(path)
    Phase(phase.path).check(path.name)
    return [line for line in lines if any(map(is_wanted, line))]
