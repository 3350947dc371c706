"""A run's syntheses come in; synthetic tasks go out, each beside the trajectory that it was made from.

Of hundreds of proposals the page shows some, chosen so that each way of making tasks and each verdict is among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from sparring.core.journal import read_journal
from sparring.core.phases import TRAJECTORIES
from sparring.core.records import read_trajectories
from sparring.core.types import Trajectory
from sparring.report.curriculum import ACCEPTED, INITIAL, POOL, SYNTHESIS, outcome_of, read_verdicts, round_numbers
from sparring.report.damage import content_of
from sparring.report.view import Results

MAX_TASKS = 36
"""Synthetic tasks that the page shows at most, of all arms together."""
MIN_PER_ARM = 6
"""Of each arm at least, if it has as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTask:
    """A proposal with its verdict, the trajectory it was made from, and the reference as it was played."""

    task_id: str
    kind: str
    round: int
    strategy: str
    signal: str
    note: str
    """What was seen, or a language model's diagnosis."""
    outcome: str
    """`accepted`, `quarantined` or `refused`."""
    reason: str
    """Why it did not enter; empty for an accepted one."""
    start: str
    """Its first observation; empty where it was never played."""
    reference: tuple[str, ...]
    """What reaches its goal, or is said to."""
    data: str
    """What the world keeps of the task, as JSON."""
    probe: float | None
    fate: str
    """What the pool did with it, and when."""
    cause: Trajectory | None
    """The trajectory that was flagged; None where the run no longer has it."""
    replay: Trajectory | None
    """The reference, played; None where it never was."""

    @property
    def num_turns(self) -> int:
        """Turns of the longer side."""
        return max((len(side.turns) for side in (self.cause, self.replay) if side is not None), default=0)


@dataclass(frozen=True, slots=True)
class _Found:
    round: int
    verdict: Mapping[str, Any]

    @property
    def sort(self) -> tuple[str, str, str]:
        """What tells it from others in kind: verdict, strategy, signal."""
        origin = self.verdict["proposal"]["origin"]
        return (outcome_of(self.verdict["reason"]), origin["strategy"], origin["signal"] or "")


def choose(run_dir: Path, results: Results) -> list[dict[str, Any]]:
    """Choose synthetic tasks of each arm's first seed with a synthesis; the featured arm's come first."""
    found = []
    for arm in results.arms.values():
        folders = (run_dir / f"seed-{seed}" / arm.name for seed in arm.seeds)
        if folder := next((f for f in folders if any(f.glob(f"round-*/{SYNTHESIS}"))), None):
            found.append((arm, folder, list(_proposals(folder))))
    found = [one for one in found if one[2]]
    num = max(MIN_PER_ARM, MAX_TASKS // max(1, len(found)))
    sections = []
    for arm, folder, proposals in found:
        tasks = _read(folder, varied(proposals, num))
        whole = (place for place, task in enumerate(tasks) if task.cause and task.outcome == ACCEPTED)
        is_open = arm is results.featured
        section = {"title": arm.label, "tasks": tasks, "num": len(proposals), "is_open": is_open}
        sections.append(section | {"open": next(whole, 0) if is_open else None})
    return sorted(sections, key=lambda section: not section["is_open"])


def varied(proposals: Sequence[_Found], num: int) -> list[_Found]:
    """Take one of each sort in turn, verdicts alternating, until there are `num`; in the order they were made."""
    sorts: dict[tuple[str, str, str], list[int]] = {}
    for place, one in enumerate(proposals):
        sorts.setdefault(one.sort, []).append(place)
    by_outcome: dict[str, list[list[int]]] = {}
    for sort in sorted(sorts):  # `accepted` is first by the alphabet, too
        by_outcome.setdefault(sort[0], []).append(sorts[sort])
    queues = [queue for row in zip_longest(*by_outcome.values(), fillvalue=()) for queue in row]
    turns = (place for turn in zip_longest(*queues) for place in turn if place is not None)
    return [proposals[place] for place in sorted(islice(turns, num))]


def _proposals(folder: Path) -> Iterator[_Found]:
    for number in round_numbers(folder):
        path = folder / f"round-{number}" / SYNTHESIS
        if path.exists():
            with content_of(path):
                found = [_Found(number, verdict) for verdict in read_verdicts(path)]
                for one in found:  # all that is read of a proposal later is there
                    _made(one, {}, {}, {})
            yield from found


def _read(folder: Path, chosen: Sequence[_Found]) -> list[MadeTask]:
    causes = _causes(folder, chosen)
    fates = _fates(folder)
    replays: dict[tuple[int, str], Trajectory] = {}
    for number in dict.fromkeys(one.round for one in chosen):
        ids = {one.verdict["proposal"]["task"]["id"] for one in chosen if one.round == number}
        replays |= {(number, task): played for task, played in _replays(folder, number, ids).items()}
    return [_made(one, causes, replays, fates) for one in chosen]


def _made(
    one: _Found,
    causes: Mapping[str, Trajectory],
    replays: Mapping[tuple[int, str], Trajectory],
    fates: Mapping[str, Sequence[str]],
) -> MadeTask:
    verdict, proposal = one.verdict, one.verdict["proposal"]
    task, origin = proposal["task"], proposal["origin"]
    outcome = outcome_of(verdict["reason"])
    references = proposal["references"] or [[]]
    return MadeTask(
        task_id=task["id"],
        kind=task["kind"],
        round=one.round,
        strategy=origin["strategy"] or origin["synthesiser"],
        signal=origin["signal"] or "",
        note=origin["note"],
        outcome=outcome,
        reason=": ".join(filter(None, (verdict["reason"], verdict["detail"]))),
        start=verdict["start"] or "",
        reference=tuple(verdict["reference"] or references[0]),
        data=json.dumps(task["data"], ensure_ascii=False, indent=1),
        probe=verdict["probe"],
        # Ids are hashes of contents: a refused duplicate has the id, and not the fate, of the task that it repeats.
        fate="" if outcome == "refused" else ", ".join(fates.get(task["id"], ())),
        cause=causes.get(origin["trajectory_id"]),
        replay=replays.get((one.round, task["id"])),
    )


def _causes(folder: Path, chosen: Sequence[_Found]) -> dict[str, Trajectory]:
    """Read the flagged trajectories, file by file; an id begins with the phase that played it."""
    wanted = {one.verdict["proposal"]["origin"]["trajectory_id"] for one in chosen} - {""}
    phases = sorted({"/".join(one.split("/")[:2]) for one in wanted if one.startswith("round-")})
    paths = [folder / phase / TRAJECTORIES for phase in phases if ".." not in phase]
    return {t.id: t for path in paths if path.exists() for t in read_trajectories(path) if t.id in wanted}


def _replays(folder: Path, number: int, ids: set[str]) -> dict[str, Trajectory]:
    """Return the best replay of each task."""
    path = folder / f"round-{number}" / "synthesis" / TRAJECTORIES
    best: dict[str, Trajectory] = {}
    for played in read_trajectories(path) if path.exists() else []:
        if not played.id.startswith(f"round-{number}/synthesis/replay-") or played.task.id not in ids:
            continue
        other = best.get(played.task.id)
        if played.turns and (other is None or played.reward > other.reward):
            best[played.task.id] = played
    return best


def _fates(folder: Path) -> dict[str, list[str]]:
    """Return task → what happened to it in the pool, in order."""
    fates: dict[str, list[str]] = {}
    for number in round_numbers(folder):
        path = folder / f"round-{number}" / POOL
        with content_of(path):
            for event in read_journal(path) if path.exists() else []:
                if event["origin"]["synthesiser"] != INITIAL:
                    detail = f" ({event['detail']})" if event["detail"] else ""
                    fates.setdefault(event["task_id"], []).append(f"{event['change']} in round {number}{detail}")
    return fates
