"""A run's folder comes in; its preference pairs or trajectories go out as rows that other libraries read.

Episodes on held-out tasks are left out unless they are asked for: whoever trains on an export should not train on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparring.core.convert import suggest
from sparring.core.errors import ConfigError, DataError, quote
from sparring.core.filters import usable
from sparring.core.journal import read_journal, read_json
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.types import Trajectory
from sparring.data.chat import Dialogue
from sparring.data.conversations import completion_row, conversation_row, preference_row
from sparring.data.tables import PARQUET, check_writable, write_rows
from sparring.report.collect import read_experts
from sparring.report.folder import PhaseFolder, list_phases
from sparring.report.kept_pairs import PAIRS, KeptPairs, pairs_of, wanted_of
from sparring.runs.config import Arm
from sparring.runs.recipe_files import recipe_from_dict

FormatName = Literal["trl-preference", "trl-sft", "messages", "parquet"]
PLAYED = ("rollout", "branch")
"""Acts whose phases hold episodes on training tasks."""
HELD_OUT = ("evaluate", "also")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a run is exported; empty: all."""

    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    rounds: tuple[int, ...] = ()
    agents: tuple[str, ...] = ("target",)
    """Of pairs: whose training they were. Of episodes: who played them, besides the experts."""
    min_reward: float = 0.0
    """Of episodes."""
    held_out: bool = False
    """Episodes on held-out tasks are exported, too."""

    def takes(self, phase: PhaseFolder) -> bool:
        """Say whether a phase's round and agent are among those wanted."""
        return (not self.rounds or phase.round in self.rounds) and (not self.agents or phase.agent in self.agents)


def export(run: Path, out: Path, format: FormatName, selection: Selection) -> dict[Path, int]:
    """Write a run's pairs or trajectories, and return each file with its number of rows.

    Args:
        run: the run's folder; it need not be finished.
        out: a file, of JSONL (packed where its name ends in `.gz`) or Parquet (`.parquet`); with `parquet` a folder for
            two files.
        format: the rows' shape; `parquet`: pairs and messages both.
        selection: what of the run.

    Raises:
        ConfigError: there is no such arm, seed or round; or pyarrow is missing.
        DataError: the folder is no run's, is damaged, or holds nothing of what was asked for.
    """
    source = _Source(run, selection)
    shapes = {
        "trl-preference": source.preferences,
        "trl-sft": source.completions,
        "messages": source.conversations,
    }
    wanted = {out: shapes[format]} if format in shapes else {}
    if format == "parquet":
        wanted = {out / f"pairs{PARQUET}": source.preferences, out / f"trajectories{PARQUET}": source.conversations}
    for path in wanted:
        check_writable(path)
    found = {path: list(rows()) for path, rows in wanted.items()}
    found = {path: rows for path, rows in found.items() if rows}
    if not found:
        what = "pairs" if format == "trl-preference" else "trajectories"
        raise DataError(f"{run}: holds no {what} of what was asked for. Choose other --arms, --rounds or --agents.")
    return {path: write_rows(path, rows) for path, rows in found.items()}


class _Source:
    """A run's folder, and what of it is wanted."""

    def __init__(self, run: Path, selection: Selection) -> None:
        if not (run / "config.json").is_file():
            raise DataError(f"{run}: is no run's folder (it has no config.json).")
        self._run, self._selection = run, selection
        recipe = recipe_from_dict(read_json(run / "config.json"), source=str(run / "config.json"))
        self._arms = {name: recipe.arms[name] for name in _chosen("arms", selection.arms, list(recipe.arms))}
        seeds = _chosen("seeds", selection.seeds, list(recipe.seeds))
        self._phases = list_phases(run, list(map(str, seeds)), list(self._arms))
        _chosen("rounds", selection.rounds, sorted({phase.round for phase in self._phases}))
        self._experts = read_experts(run)
        self._dialogues: dict[str, Dialogue] = {}

    def preferences(self) -> Iterator[dict[str, Any]]:
        """Yield the pairs that agents were trained on."""
        chosen = [phase for phase in self._phases if phase.act == "train" and self._selection.takes(phase)]
        kept = [KeptPairs(phase=phase, records=records) for phase in chosen if (records := _read_pairs(phase))]
        found = {
            (place, one.id): one
            for place, names in wanted_of(kept, self._phases).items()
            for one in Phase(place).trajectories()
            if one.id in names
        }
        experts = {one.id: one for one in self._experts}
        for one in kept:
            loss = self._arms[one.phase.arm].config.loss
            for pair in pairs_of(one, self._phases, found, experts):
                row = preference_row(self._dialogue(one.phase.arm), pair, loss.weights(pair.kind))
                yield row | _origin(one.phase) | {"trained_agent": one.phase.agent}

    def conversations(self) -> Iterator[dict[str, Any]]:
        """Yield trajectories as `messages`."""
        return self._rows(conversation_row)

    def completions(self) -> Iterator[dict[str, Any]]:
        """Yield trajectories as `prompt` and `completion`."""
        return self._rows(completion_row)

    def _rows(self, row_of: Callable[[Dialogue, Trajectory], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        first = next(iter(self._arms))
        if not self._selection.rounds:
            for trajectory in usable(self._experts):
                if trajectory.reward >= self._selection.min_reward:
                    yield row_of(self._dialogue(first), trajectory) | {"arm": "", "seed": 0, "round": 0}
        seen: set[Path] = set()
        acts = PLAYED + (HELD_OUT if self._selection.held_out else ())
        for phase in self._phases:
            is_wanted = phase.act in acts and self._selection.takes(phase) and phase.path not in seen
            if not is_wanted or not (phase.path / TRAJECTORIES).exists():
                continue
            seen.add(phase.path)
            for trajectory in usable(Phase(phase.path).trajectories()):
                if trajectory.reward >= self._selection.min_reward:
                    yield row_of(self._dialogue(phase.arm), trajectory) | _origin(phase)

    def _dialogue(self, arm: str) -> Dialogue:
        if arm not in self._dialogues:
            self._dialogues[arm] = _dialogue(self._arms[arm], self._experts)
        return self._dialogues[arm]


def _dialogue(arm: Arm, experts: Sequence[Trajectory]) -> Dialogue:
    config = arm.config
    instruction = "" if config.chat.instruction is not None else config.env.load().instruction
    return Dialogue(config.chat, instruction=instruction, examples=experts[: config.chat.num_examples])


def _read_pairs(phase: PhaseFolder) -> list[dict[str, Any]]:
    path = phase.path / PAIRS
    if not path.exists():
        return []
    Phase(phase.path).check(PAIRS)
    return read_journal(path)


def _origin(phase: PhaseFolder) -> dict[str, Any]:
    return {"arm": phase.arm, "seed": int(phase.seed), "round": phase.round}


def _chosen(key: str, wanted: Sequence[Any], there: Sequence[Any]) -> Sequence[Any]:
    """Return what is wanted, in the run's order; all where nothing is named."""
    for one in wanted:
        if one not in there:
            raise ConfigError(f"--{key}: the run has no {quote(one)}. {suggest(str(one), list(map(str, there)))}")
    return [one for one in there if not wanted or one in wanted]
