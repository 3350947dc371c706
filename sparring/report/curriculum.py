"""An arm's folder comes in; its pool of tasks round by round, and what each synthesis brought, go out as plain values.

`results.json` carries what is said here, so that the terminal and the page read the same numbers, and read them still
when the trajectories were deleted. A pool is folded from its events (`round-N/pool.jsonl`); a synthesis is what its
phase wrote (`round-N/synthesis/synthesis.json`); that of round 0 is the exploration that made D_0. Both are read as
plain JSON: a report knows nothing that acts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.core.errors import DataError
from sparring.core.filters import is_success
from sparring.core.journal import read_journal, read_json
from sparring.core.phases import Phase

POOL, SYNTHESIS = "pool.jsonl", "synthesis/synthesis.json"
"""Files in a round's folder."""

INITIAL = "initial"
"""The origin of the tasks that were there before any synthesis."""

ACCEPTED, QUARANTINED = "accepted", "quarantined"
"""What became of a proposal; all else is a refusal. Reasons of quarantine begin with that word."""

Rewards = Mapping[int, Mapping[str, Sequence[float]]]
"""Round → task → rewards of its rollouts."""


def summarise_curriculum(folder: Path, rewards: Rewards, success_eps: float) -> dict[str, list[dict[str, Any]]]:
    """Return the records `pool` and `synthesis` of an arm with one seed; nothing where it has neither.

    Args:
        folder: of the arm with one seed.
        rewards: of the rollouts on training tasks, broken episodes left out.
        success_eps: a reward of at least one minus this is a success.

    Raises:
        DataError: a file is torn.
    """
    rounds = [
        number
        for number in round_numbers(folder)
        if any((folder / f"round-{number}" / name).exists() for name in (POOL, SYNTHESIS))
    ]
    if not rounds:
        return {}
    pool, made, syntheses = _Pool(), 0, []
    states = []
    for number in rounds:
        played = rewards.get(number, {})
        made += sum(len(values) for values in played.values())
        before = dict(pool.origins)  # this round's rollouts came before this round's changes
        if (folder / f"round-{number}" / POOL).exists():  # GRPO has none, on tasks that were made
            pool.take_in(folder / f"round-{number}" / POOL)
            halves = _old_and_new(played, before, success_eps)
            states.append({"round": number, "agent": "target", **pool.state(), **halves})
        path = folder / f"round-{number}" / SYNTHESIS
        if path.exists():
            syntheses.append({"round": number, "agent": "target", **_synthesis(path), "rollouts": made})
            made = 0
    return {"pool": states, "synthesis": syntheses}


def read_verdicts(path: Path) -> list[Mapping[str, Any]]:
    """Read the verdicts of a synthesis.

    Raises:
        DataError: the file is torn.
    """
    with _torn(path):
        return list(_read_synthesis(path)["verdicts"])


def round_numbers(folder: Path) -> list[int]:
    """List an arm's rounds that have a folder."""
    return sorted(int(path.name.removeprefix("round-")) for path in folder.glob("round-*"))


def outcome_of(reason: str | None) -> str:
    """Return what became of a proposal: `accepted`, `quarantined` or `refused`."""
    if reason is None:
        return ACCEPTED
    return QUARANTINED if reason.startswith(QUARANTINED) else "refused"


def origin_name(origin: Mapping[str, Any]) -> str:
    """Name where a task comes from: `initial`, `restart/boundary`."""
    if origin["synthesiser"] == INITIAL:
        return INITIAL
    # A language model's tasks have no strategy but that they are its own.
    return "/".join(filter(None, (origin["strategy"] or origin["synthesiser"], origin["signal"])))


class _Pool:
    """The fold over a pool's events."""

    def __init__(self) -> None:
        self.origins: dict[str, str] = {}
        """Every task that ever was active → its origin."""
        self._active: set[str] = set()
        self._waiting: set[str] = set()
        self._left: Counter[str] = Counter()
        self._over_share: set[str] = set()

    def take_in(self, path: Path) -> None:
        with _torn(path):
            for event in read_journal(path):
                self._apply(event["change"], event["task_id"], origin_name(event["origin"]))

    def _apply(self, change: str, task_id: str, origin: str) -> None:
        if change in ("started", "added", "released"):
            self.origins[task_id] = origin
            self._active.add(task_id)
            self._waiting.discard(task_id)
        elif change == QUARANTINED:
            self._active.discard(task_id)  # one that its first rollouts put away
            self._waiting.add(task_id)
        elif change.startswith("retired: "):
            self._active.discard(task_id)
            self._left[change.removeprefix("retired: ")] += 1
        else:
            self._over_share.add(task_id)

    def state(self) -> dict[str, Any]:
        active = Counter(self.origins[task_id] for task_id in self._active)
        num, num_initial = len(self._active), active[INITIAL]
        return {
            "num": num,
            "synthetic_share": (num - num_initial) / num if num else None,
            "active": dict(sorted(active.items())),
            "quarantined": len(self._waiting),
            "retired": {name: self._left[name] for name in ("solved", "hopeless")},
            "over_share": len(self._over_share - self._active),
        }


def _old_and_new(
    played: Mapping[str, Sequence[float]], origins: Mapping[str, str], success_eps: float
) -> dict[str, dict[str, Any] | None]:
    """Split a round's rollouts into those of initial and of synthetic tasks; None where there were none."""
    halves: dict[str, dict[str, Any] | None] = {"old": None, "new": None}
    for name in halves:
        own = {task: v for task, v in played.items() if (origins.get(task, INITIAL) == INITIAL) == (name == "old")}
        rewards = [reward for values in own.values() for reward in values]
        if rewards:
            solved = fmean(is_success(reward, success_eps) for reward in rewards)
            halves[name] = {"tasks": len(own), "episodes": len(rewards), "mean": fmean(rewards), "success": solved}
    return halves


def _synthesis(path: Path) -> dict[str, Any]:
    with _torn(path):
        record = _read_synthesis(path)
        verdicts = record["verdicts"]
        kinds: dict[str, Counter[str]] = {}
        for verdict in verdicts:
            own = kinds.setdefault(origin_name(verdict["proposal"]["origin"]), Counter())
            own.update(("proposed", outcome_of(verdict["reason"])))
        outcomes = Counter(verdict["reason"] or ACCEPTED for verdict in verdicts)
        return {
            "proposed": len(verdicts),
            "outcomes": dict(sorted(outcomes.items())),
            "kinds": {name: dict(counts) for name, counts in sorted(kinds.items())},
            "released": len(record["released"]),
            "counts": dict(record["counts"]),
            "episodes": dict(record["episodes"]),
        }


def _read_synthesis(path: Path) -> Mapping[str, Any]:
    record = read_json(path)
    if (phase := Phase(path.parent)).is_done:
        phase.check(path.name)
    return record


@contextmanager
def _torn(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not what a run writes there ({type(error).__name__}: {error}). Delete the round's folder, and "
            "run the same recipe again."
        ) from None
