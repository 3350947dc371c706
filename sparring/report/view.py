"""`results.json` comes in, a typed view of it goes out: arms, their seeds, and rewards by agent and round.

The compact files under `docs/results/` unfold to the same shape, so tables and figures read both through this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.analysis.statistics import Rewards, SeedRewards
from sparring.core.errors import DataError, quote
from sparring.core.journal import read_object
from sparring.core.references import short_name
from sparring.core.text import printable
from sparring.report.played import Played, mean_over

PARTNER_NAMES: Mapping[str, str] = {
    "failure": "failure agent",
    "frozen": "frozen partner",
    "positive": "positive partner",
    "scripted": "scripted partner",
}
"""What readers call the second agent, by `partner.kind`."""

SETS: Mapping[str, tuple[str, str]] = {
    "rollouts": ("rollout", ""),
    "refreshed": ("rollout-refreshed", "second rollout"),
    "branches": ("branch", "branches"),
}
"""Section of `results.json` with episodes on training tasks → kind of phase, and what sets them apart for readers."""

PARTS: Mapping[str, str] = {
    "script": "scripted mistakes",
    "script-refreshed": "scripted mistakes, second time",
    "late": "late starts",
    "steps": "at an expert’s step",
    "scores": "after a step, to weigh it",
}
"""Part of a kind of phase with branches → what readers call these."""


SECTIONS = ("rollouts", "refreshed", "branches", "pairs", "training", "pool", "synthesis", "preferences")
"""Sections whose records are kept as they are, each of an agent and a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One agent on the held-out tasks after one round; round 0 is its start."""

    round: int
    agent: str
    rewards: Rewards
    faults: int = 0
    measures: Mapping[str, float | str] = field(default_factory=dict)
    """The world's own: name → points out of 100, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResults:
    """What one arm did with one seed. The records keep the fields of `results.json`."""

    evaluations: Sequence[Evaluation]
    rollouts: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    training: Sequence[Mapping[str, Any]]
    refreshed: Sequence[Mapping[str, Any]] = ()
    """Rollouts that an agent played again in a round, after its own training was due."""
    branches: Sequence[Mapping[str, Any]] = ()
    """Episodes that began inside others; `part` sets an agent's purposes in a round apart."""
    pool: Sequence[Mapping[str, Any]] = ()
    """CoEvolve: the pool of tasks after each round."""
    synthesis: Sequence[Mapping[str, Any]] = ()
    """CoEvolve: what each synthesis of tasks brought."""
    checks: Sequence[Mapping[str, Any]] = ()
    """What the guard of `loop.accept_tasks` measured, and which attempt it kept."""
    notices: Sequence[Mapping[str, Any]] = ()
    """Signs that an agent's behaviour has broken."""
    preferences: Sequence[Mapping[str, Any]] = ()
    """What agents made of held-out preferences, by prompt."""
    also: Sequence[Mapping[str, Any]] = ()
    """The last agent on further splits: `split`, `measures` and what an evaluation has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResults:
    """One arm: a method under a name."""

    name: str
    method: str
    label: str
    """Unique among the arms."""
    partner: str
    """`partner.kind`; empty where there is no second agent."""
    digest: str = ""
    """Of the method and of every setting that decides numbers; empty: older versions did not write it."""
    seeds: Mapping[str, SeedResults]

    @property
    def has_pool(self) -> bool:
        """Was it trained on a pool of tasks that may grow?"""
        return any(seed.pool for seed in self.seeds.values())

    @property
    def is_guided(self) -> bool:
        """Were tasks made where it is weak, and not by chance?"""
        kinds = (kind for seed in self.seeds.values() for one in seed.synthesis for kind in one.get("kinds", ()))
        return any(not kind.endswith("/unguided") for kind in kinds)

    @property
    def agents(self) -> list[str]:
        """The arm's agents, the target first."""
        records = [one for seed in self.seeds.values() for one in (*seed.evaluations, *seed.rollouts)]
        others = {one["agent"] if isinstance(one, Mapping) else one.agent for one in records} - {"target", "partner"}
        return ["target", *(["partner"] if self.partner else []), *sorted(others)]

    def agent_name(self, agent: str) -> str:
        """Return what readers call the agent."""
        own = printable(f"{short_name(self.partner)} partner".strip())
        return {"target": "target agent", "partner": PARTNER_NAMES.get(self.partner, own)}.get(agent, agent)

    def rounds(self, agent: str = "target") -> list[int]:
        """List the rounds after which the agent was evaluated."""
        return sorted({e.round for seed in self.seeds.values() for e in seed.evaluations if e.agent == agent})

    def rewards(self, agent: str, number: int) -> SeedRewards:
        """Return seed → task → held-out reward after a round."""
        return {
            seed: evaluation.rewards
            for seed, results in self.seeds.items()
            for evaluation in results.evaluations
            if (evaluation.agent, evaluation.round) == (agent, number)
        }

    def final(self, agent: str = "target") -> SeedRewards:
        """Return seed → task → held-out reward after the last round."""
        rounds = self.rounds(agent)
        return self.rewards(agent, rounds[-1]) if rounds else {}

    def records(self, section: str, agent: str, number: int) -> list[Mapping[str, Any]]:
        """Return the records of a section (`rollouts`, `pairs`, …) for an agent and round, one a seed."""
        return [
            record
            for seed in self.seeds.values()
            for record in getattr(seed, section)
            if (record["agent"], record["round"]) == (agent, number)
        ]

    def record_rounds(self, section: str, agent: str) -> list[int]:
        """List the rounds that a section has records of, for an agent."""
        records = [record for seed in self.seeds.values() for record in getattr(seed, section)]
        return sorted({record["round"] for record in records if record["agent"] == agent})

    def mean_of(self, section: str, agent: str, number: int, *path: str) -> float | None:
        """Average a value of those records over the seeds, None where no seed has it."""
        return mean_over(self.records(section, agent, number), *path)

    @property
    def played(self) -> list[Played]:
        """List what the arm's agents played on the training tasks: by agent, and of each agent by purpose."""
        found: dict[tuple[str, str, str], dict[int, list[Mapping[str, Any]]]] = {}
        for seed in self.seeds.values():
            for section in SETS:
                for record in getattr(seed, section):
                    key = (record["agent"], section, str(record.get("part", "")))
                    found.setdefault(key, {}).setdefault(record["round"], []).append(record)
        agents = {agent: place for place, agent in enumerate(self.agents)}
        keys = sorted(found, key=lambda key: (agents.get(key[0], len(agents)), [*SETS].index(key[1]), key[2]))
        return [self._played(*key, found[key]) for key in keys]

    def _played(
        self, agent: str, section: str, part: str, records: Mapping[int, Sequence[Mapping[str, Any]]]
    ) -> Played:
        kind, words = SETS[section]
        name = ", ".join(filter(None, (self.agent_name(agent), PARTS.get(part, part) or words)))
        return Played(agent=agent, kind=f"{kind}-{part}" if part else kind, name=printable(name), records=records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A whole run's results."""

    name: str
    split: str
    success_eps: float
    num_demonstrations: int | None = None
    """Training tasks with an expert trajectory."""
    num_resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    broken: Mapping[str, Any] = field(default_factory=dict)
    """Episodes that infrastructure broke: `num` of `episodes`, and `phases`; empty where nothing is known."""
    odd_rewards: Mapping[str, Any] = field(default_factory=dict)
    """Of `episodes`, how many have rewards that look like a mistake of the `world`; empty: none."""
    arms: Mapping[str, ArmResults]
    held_out: Mapping[str, str] = field(default_factory=dict)
    """Arm → world and split that it was measured on, where several runs are compared; empty: all on the same."""

    def are_alike(self, one: ArmResults, other: ArmResults) -> bool:
        """Say whether two arms were measured on the same world and split, so that their tasks can be paired."""
        return self.held_out.get(one.name) == self.held_out.get(other.name)

    def first(self, method: str) -> ArmResults | None:
        """Return the first arm of a method."""
        return next((arm for arm in self.arms.values() if arm.method == method), None)

    def sft_of(self, arm: ArmResults) -> ArmResults | None:
        """Return the first SFT of the arm's own run."""
        run = arm.name.rpartition("/")[0]
        own = (one for one in self.arms.values() if one.name.rpartition("/")[0] == run)
        return next((one for one in own if one.method == "sft"), None)

    @property
    def featured(self) -> ArmResults:
        """The arm that the report follows closest.

        With a failure agent, else with any partner, else the first that made tasks where it is weak, else the last.
        """
        arms = list(self.arms.values())
        ranked = sorted(arms, key=lambda arm: (arm.partner == "failure", bool(arm.partner)), reverse=True)
        if ranked[0].partner:
            return ranked[0]
        return next((arm for arm in arms if arm.is_guided), arms[-1])

    @property
    def references(self) -> list[ArmResults]:
        """The arms that the others are compared with: the first SFT, each ETO, each GRPO beside CoEvolve.

        Where both papers meet, each paper alone is one as well.
        """
        sft = self.first("sft")
        baselines = ("eto", "grpo") if self.first("coevolve") else ("eto",)
        if self.first("coevolving_agents_and_tasks"):
            baselines = (*baselines, "coevolving_agents", "coevolve")
        return ([sft] if sft else []) + [arm for arm in self.arms.values() if arm.method in baselines]

    def compares(self, arm: ArmResults, reference: ArmResults) -> bool:
        """Say whether an arm is set beside a reference: what imitates or less is with none.

        A reference is set beside those before it.
        """
        if arm is reference or arm.method in ("zero_shot", "sft"):
            return False
        order = list(self.arms)
        return arm not in self.references or order.index(reference.name) < order.index(arm.name)

    @property
    def num_seeds(self) -> int:
        """Seeds of the arm that has most."""
        return max(len(arm.seeds) for arm in self.arms.values())

    @property
    def num_tasks(self) -> int:
        """Distinct held-out tasks."""
        return len({task for arm in self.arms.values() for rewards in arm.final().values() for task in rewards})


def results_from_json(record: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Results:
    """Build the view from the content of `results.json`; names and labels are made fit to be shown.

    Args:
        record: the content.
        config: the content of `config.json`, which knows the kind of partner.

    Raises:
        DataError: a field is missing, or there is no arm.
    """
    try:
        taken = Counter(arm["label"] for arm in record["arms"].values())
        arms = {
            name: ArmResults(
                name=name,
                method=arm["method"],
                label=printable(arm["label"] if taken[arm["label"]] == 1 else f"{arm['label']} ({name})"),
                partner=_partner(name, arm, config or {}),
                digest=str(arm.get("digest", "")),
                seeds={str(seed): _seed(content) for seed, content in arm["seeds"].items()},
            )
            for name, arm in record["arms"].items()
        }
        results = Results(
            name=printable(record["name"]),
            split=printable(record["split"]),
            success_eps=record["success_eps"],
            num_demonstrations=record.get("num_demonstrations"),
            num_resamples=_num_resamples(record),
            broken=record.get("broken", {}),
            odd_rewards=record.get("odd_rewards", {}),
            arms=arms,
        )
    except KeyError as error:
        raise DataError(f"results: no field {error}.") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(f"results: not what a run writes there ({type(error).__name__}: {error}).") from None
    if not arms:
        raise DataError("results: no arm in it.")
    return results


def read_results(run_dir: Path) -> Results:
    """Read a finished run's results.

    Raises:
        DataError: the run is not finished, or a file can't be read.
    """
    path = run_dir / "results.json"
    if not path.exists():
        if not (run_dir / "config.json").exists():
            raise DataError(f"{run_dir}: not a run folder: it holds no config.json.")
        raise DataError(f"{run_dir}: the run is not finished: it holds no results.json. Run the same recipe to go on.")
    record, config = read_object(path), read_object(run_dir / "config.json")
    try:
        return results_from_json(record, config)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _seed(content: Mapping[str, Any]) -> SeedResults:
    return SeedResults(
        evaluations=[
            Evaluation(
                round=e["round"],
                agent=e["agent"],
                rewards=_rewards(e["rewards"]),
                faults=e.get("faults", 0),
                measures=_measures(e),
            )
            for e in _records(content, "evaluations")
        ],
        **{section: _records(content, section) for section in SECTIONS},
        checks=content.get("checks", []),
        notices=content.get("notices", []),
        also=[{**one, "measures": _measures(one)} for one in content.get("also", [])],
    )


def _records(content: Mapping[str, Any], section: str) -> list[Mapping[str, Any]]:
    """Return a section's records: objects, each of an agent and a round."""
    records = content.get(section, [])
    for record in records:
        if not isinstance(record["agent"], str) or not isinstance(record["round"], int):
            raise ValueError(f"a record of {section!r} is not of an agent and a round")
    return records


def _measures(record: Mapping[str, Any]) -> dict[str, float | str]:
    found: dict[str, float | str] = dict(record.get("measures", {}))
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"the measure {quote(name)} is {quote(value)}, neither a number nor words")
    return found


def _rewards(by_task: Mapping[str, Any]) -> Rewards:
    known = {task: reward for task, reward in by_task.items() if reward is not None}
    for task, reward in known.items():
        if not 0 <= reward <= 1:
            raise ValueError(f"the reward of {task!r} is {quote(reward)}, not a number from 0 to 1")
    return known


def _num_resamples(record: Mapping[str, Any]) -> int:
    configs = (arm.get("config", {}).get("eval", {}) for arm in record["arms"].values())
    own = record.get("num_resamples") or next(configs, {}).get("num_resamples")
    return own or Results.__dataclass_fields__["num_resamples"].default


def _partner(name: str, arm: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    sections = ("evaluations", *SETS, "pairs")
    has_one = any(
        record["agent"] == "partner"
        for seed in arm["seeds"].values()
        for section in sections
        for record in seed.get(section, [])
    )
    if not has_one:
        return ""
    own = arm.get("config") or config.get("arms", {}).get(name, {})
    return arm.get("partner") or own.get("partner", {}).get("kind") or "failure"
