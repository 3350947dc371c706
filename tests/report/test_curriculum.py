"""The pool folded from its events, and syntheses counted, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.report.curriculum import origin_name, outcome_of, summarise_curriculum
from sparring.synthesis.checks import QUARANTINED, Reason
from sparring.synthesis.pool import Change, PoolEvent
from sparring.synthesis.proposals import Origin
from sparring.synthesis.signals import Signal
from tests.report.growing_folder import GrowingFolder

MADE = Origin(synthesiser="programmatic", strategy="restart", signal=Signal.BOUNDARY)
CHAINED = Origin(synthesiser="programmatic", strategy="chain", signal=Signal.RARE)


def write_events(folder: Path, number: int, *events: tuple[Change, str, Origin]) -> None:
    round_folder = folder / f"round-{number}"
    round_folder.mkdir(parents=True, exist_ok=True)
    made = [PoolEvent(step=number, change=c, task_id=t, origin=o).to_json() for c, t, o in events]
    (round_folder / "pool.jsonl").write_text("".join(json.dumps(event) + "\n" for event in made))


def result(*outcomes: tuple[Origin, Reason | None], **fields: Any) -> str:
    verdicts = [
        {"proposal": {"origin": origin.to_json()}, "reason": reason and reason.value} for origin, reason in outcomes
    ]
    return json.dumps({"verdicts": verdicts, "released": [], "counts": {}, "episodes": {}, **fields})


def test_the_pool_is_folded_from_every_kind_of_event(tmp_path: Path) -> None:
    initial = Origin()
    write_events(tmp_path, 0, *((Change.STARTED, name, initial) for name in "abcd"))
    write_events(
        tmp_path,
        1,
        (Change.ADDED, "a+1", MADE),
        (Change.QUARANTINED, "b+1", CHAINED),
        (Change.OVER_SHARE, "c+1", MADE),
        (Change.RETIRED_SOLVED, "a", initial),
    )
    write_events(tmp_path, 2, (Change.RELEASED, "b+1", CHAINED), (Change.RETIRED_HOPELESS, "a+1", MADE))
    start, first, second = summarise_curriculum(tmp_path, {}, 1e-6)["pool"]
    assert (start["num"], start["synthetic_share"], start["active"]) == (4, 0.0, {"initial": 4})
    assert first["active"] == {"initial": 3, "restart/boundary": 1} and first["synthetic_share"] == 0.25
    assert (first["quarantined"], first["over_share"], first["retired"]) == (1, 1, {"solved": 1, "hopeless": 0})
    assert second["active"] == {"chain/rare": 1, "initial": 3}
    assert (second["quarantined"], second["retired"]) == (0, {"solved": 1, "hopeless": 1})


def test_old_and_new_tasks_are_told_apart_by_what_was_in_the_pool_when_they_were_played(tmp_path: Path) -> None:
    write_events(tmp_path, 0, (Change.STARTED, "a", Origin()))
    write_events(tmp_path, 1, (Change.ADDED, "a+1", MADE))
    write_events(tmp_path, 2, (Change.RETIRED_SOLVED, "a+1", MADE))  # played in this round, then gone
    rewards = {1: {"a": [0.5, 1.0]}, 2: {"a": [1.0, 1.0], "a+1": [0.0, 0.5, 1.0, 1.0]}}
    _, first, second = summarise_curriculum(tmp_path, rewards, 1e-6)["pool"]
    assert first["old"] == {"tasks": 1, "episodes": 2, "mean": 0.75, "success": 0.5} and first["new"] is None
    assert second["old"]["success"] == 1.0
    assert second["new"] == {"tasks": 1, "episodes": 4, "mean": 0.625, "success": 0.5}


def test_a_synthesis_is_counted_by_outcome_and_by_origin_with_the_rollouts_before_it(tmp_path: Path) -> None:
    for number in range(4):
        write_events(tmp_path, number, *([(Change.STARTED, "a", Origin())] if not number else []))
    outcomes = ((MADE, None), (MADE, Reason.TOO_EASY), (MADE, Reason.NOT_SOLVED), (CHAINED, None))
    episodes = {"replay": 7, "probe": 8}
    for number in (2, 3):
        (tmp_path / f"round-{number}/synthesis").mkdir()
    (tmp_path / "round-2/synthesis/synthesis.json").write_text(result(*outcomes, episodes=episodes))
    (tmp_path / "round-3/synthesis/synthesis.json").write_text(result())
    rewards = {1: {"a": [0.0] * 3}, 2: {"a": [0.0] * 4}, 3: {"a": [0.0] * 5}}
    one, empty = summarise_curriculum(tmp_path, rewards, 1e-6)["synthesis"]
    assert (one["round"], one["proposed"], one["rollouts"]) == (2, 4, 7)
    assert one["outcomes"] == {"accepted": 2, Reason.TOO_EASY.value: 1, Reason.NOT_SOLVED.value: 1}
    assert one["kinds"]["restart/boundary"] == {"proposed": 3, "accepted": 1, "quarantined": 1, "refused": 1}
    assert one["kinds"]["chain/rare"] == {"proposed": 1, "accepted": 1}
    assert one["episodes"] == episodes
    assert (empty["proposed"], empty["outcomes"], empty["rollouts"]) == (0, {}, 5)


def test_every_reason_is_a_refusal_or_a_quarantine() -> None:
    assert outcome_of(None) == "accepted"
    assert {reason for reason in Reason if outcome_of(reason.value) == "quarantined"} == set(QUARANTINED)


def test_every_change_is_understood(tmp_path: Path) -> None:
    """A change of the pool that the report does not know would be taken for one over the share."""
    for change in Change:
        write_events(tmp_path / change.name, 0, (Change.STARTED, "t", Origin()), (change, "t", MADE))
    counted = {change: summarise_curriculum(tmp_path / change.name, {}, 1e-6)["pool"][0] for change in Change}
    assert all(sum(one["retired"].values()) == 1 for c, one in counted.items() if c.name.startswith("RETIRED"))
    assert [c for c, one in counted.items() if one["quarantined"]] == [Change.QUARANTINED]
    assert all(counted[c]["num"] == 1 for c in (Change.STARTED, Change.ADDED, Change.RELEASED, Change.OVER_SHARE))


def test_a_language_model_s_tasks_have_a_name() -> None:
    origin = Origin(synthesiser="language-model", signal=Signal.FORGETTING)
    assert origin_name(origin.to_json()) == "language-model/forgetting"
    assert origin_name(Origin().to_json()) == "initial"


def test_a_folder_without_a_pool_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "round-1").mkdir()
    assert summarise_curriculum(tmp_path, {}, 1e-6) == {}


@pytest.mark.parametrize(("name", "text"), [("pool.jsonl", "{}\n"), ("synthesis/synthesis.json", '{"verdicts": 3}')])
def test_a_torn_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    write_events(tmp_path, 1, (Change.STARTED, "a", Origin()))
    (tmp_path / "round-1/synthesis").mkdir()
    (tmp_path / "round-1" / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}.*run the same recipe again"):
        summarise_curriculum(tmp_path, {}, 1e-6)


def test_records_agree_with_the_pool_that_wrote_them(tmp_path: Path) -> None:
    run_dir = GrowingFolder(tmp_path).write()
    seed = json.loads((run_dir / "results.json").read_text())["arms"]["coevolve"]["seeds"]["0"]
    tasks = {Task(id=one, kind="", data={}).id for one in _ids(run_dir / "seed-0/coevolve", "started")}
    last = seed["pool"][-1]
    added = _ids(run_dir / "seed-0/coevolve", "added")
    gone = _ids(run_dir / "seed-0/coevolve", "retired: solved") + _ids(run_dir / "seed-0/coevolve", "retired: hopeless")
    assert added, "nothing entered the pool"
    assert last["num"] == len(tasks) + len(added) - len(gone) == sum(last["active"].values())


def _ids(folder: Path, change: str) -> list[str]:
    lines = [line for path in folder.glob("round-*/pool.jsonl") for line in path.read_text().splitlines()]
    return [event["task_id"] for event in map(json.loads, lines) if event["change"] == change]
