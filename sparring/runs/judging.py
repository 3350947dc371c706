"""What a run without a world keeps of its files of preferences, and how likely agents find what was held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.analysis.preferences import summarise
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.records import pair_to_json, pairs_from_json, trajectory_to_json
from sparring.core.types import PreferencePair, Trajectory
from sparring.data.preferences import PLACE, Preferences, read_preferences
from sparring.learning.advantages import score
from sparring.learning.phase import SCORES, Encoder, drop_state
from sparring.learning.trainer import compute_of
from sparring.methods.base import Agent
from sparring.methods.table import find_method
from sparring.runs.phase_runner import PhaseRunner
from sparring.runs.seeds import digest

if TYPE_CHECKING:
    from sparring.methods.prefer import PreferConfig
    from sparring.runs.config import Recipe

JUDGEMENTS = "judgements.jsonl"
"""In the folder of a judging: a line for each held-out pair or conversation, with summed log-probabilities."""


def check_files(recipe: Recipe) -> None:
    """Read the files of preferences that arms name, before anything is written.

    Raises:
        DataError: one is missing or malformed; the message names path, line and field.
    """
    for config in {arm.config.prefer: None for arm in recipe.arms.values() if not find_method(arm.method).needs_world}:
        _read(config)


class Judging:
    """The preferences of one arm with one seed; each call is a resumable phase."""

    def __init__(self, runner: PhaseRunner) -> None:
        self._runner, self._config = runner, runner.config.prefer
        self._known: Preferences | None = None
        self._start: list[dict[str, Any]] = []
        """The first judgements, which trackers compare with."""

    def preferences(self) -> Preferences:
        """Return what the files held when the run first read them: arms that name the same files share that phase."""
        if self._known is None:
            phase = self._runner.phase(PLACE, shared_key=digest(self._config))
            with self._runner.claim([phase]):
                if not phase.is_done:
                    self._read(phase)
            self._known = _kept(phase)
        return self._known

    def _read(self, phase: Phase) -> None:
        found = _read(self._config)
        phase.journal(TRAJECTORIES).replace(map(trajectory_to_json, found.trajectories))
        for name in ("pairs", "held_out"):
            phase.journal(f"{name}.jsonl").replace(map(pair_to_json, getattr(found, name)))
        for name in ("conversations", "held_out_conversations"):
            phase.journal(f"{name}.jsonl").replace({"id": one.id} for one in getattr(found, name))
        phase.finish({"num": len(found.trajectories), "pairs": len(found.pairs), "held_out": len(found.held_out)})

    def judge(self, agent: Agent, name: str) -> None:
        """Write down how likely an agent finds what was held out; nothing where nothing was."""
        data, phase = self.preferences(), self._runner.phase(name)
        sides = {side.id: side for pair in data.held_out for side in (pair.chosen, pair.rejected)}
        sides |= {one.id: one for one in data.held_out_conversations}
        if not phase.is_done and sides:
            with self._runner.timed(name), self._runner.progress.phase(self._runner.title(name)):
                logprobs = self._score(agent, list(sides.values()), phase)
                pairs = [line for pair in data.held_out if (line := _line(pair, logprobs))]
                talks = [one for one in data.held_out_conversations if one.id in logprobs]
                records = [*pairs, *({"id": one.id, "said": logprobs[one.id]} for one in talks)]
                phase.journal(JUDGEMENTS).replace(records)
                left_out = len(data.held_out) + len(data.held_out_conversations) - len(records)
                phase.finish({"pairs": len(pairs), "conversations": len(talks), "overflows": left_out})
                self._start = self._start or records
                self._runner.tracking.judged(agent.name, name, summarise(records, self._start)["means"])
        elif sides:
            self._start = self._start or phase.journal(JUDGEMENTS).read()
        drop_state(phase)

    def _score(self, agent: Agent, sides: Sequence[Trajectory], phase: Phase) -> dict[str, list[float]]:
        """Return the summed log-probability of each side's answers, and their tokens."""
        learner, chat = self._runner.learner(agent)
        compute = compute_of(self._runner.config.dpo, temperature=1.0)
        scores = score(learner, sides, Encoder(chat), phase.path / SCORES / "agent.safetensors", compute)
        return {one: [row.double().sum().item(), float(len(row))] for one, row in scores.logprobs.items()}


def _read(config: PreferConfig) -> Preferences:
    path, messages, judged = (
        Path(one) if one else None for one in (config.path, config.messages, config.held_out_path)
    )
    return read_preferences(path, messages, held_out=config.held_out, held_out_path=judged)


def _line(pair: PreferencePair, logprobs: dict[str, list[float]]) -> dict[str, Any] | None:
    """Return a judgement on a pair; none where a side exceeds the context."""
    if pair.chosen.id not in logprobs or pair.rejected.id not in logprobs:
        return None
    sides = {"chosen": logprobs[pair.chosen.id], "rejected": logprobs[pair.rejected.id]}
    return {"task": pair.chosen.task.id, **sides}


def _kept(phase: Phase) -> Preferences:
    by_id = {one.id: one for one in phase.trajectories()}

    def read(name: str) -> list[dict[str, Any]]:
        phase.check(f"{name}.jsonl")
        return phase.journal(f"{name}.jsonl").read()

    return Preferences(
        pairs=pairs_from_json(read("pairs"), by_id),
        held_out=pairs_from_json(read("held_out"), by_id),
        conversations=[by_id[one["id"]] for one in read("conversations")],
        held_out_conversations=[by_id[one["id"]] for one in read("held_out_conversations")],
    )
