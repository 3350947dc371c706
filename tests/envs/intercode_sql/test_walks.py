"""Walks: varied, within the turns, the same every time, and all of them arrive."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from sparring.envs.intercode_sql import InterCodeSQL
from sparring.envs.intercode_sql.walks import ATTEMPTS, MAX_ACTIONS, walks


def test_walks_arrive_after_detours(ours: InterCodeSQL):
    env, num_detours, num_errors = ours.make_env(), 0, 0
    sample = list(walks(ours))[::6]
    for task, actions in sample:
        assert len(actions) <= MAX_ACTIONS
        env.reset(task, 0)
        steps = [env.step(action) for action in actions]
        assert (steps[-1].reward, steps[-1].is_done) == (1.0, True), (task, actions)
        num_errors += sum(step.observation.startswith("Error") for step in steps)
        looks = ("SHOW", "DESC", "SELECT *", "SELECT column_name")
        num_detours += any(not action.startswith(looks) for action in actions[:-2])
    env.close()
    assert 0.3 < num_detours / len(sample) < 0.9
    assert 0.05 < num_errors / len(sample) < 0.8


def test_walks_depend_on_seed_and_number_alone(ours: InterCodeSQL):
    def first(seed: int = 0, num_per_task: int = 1) -> list[list[str]]:
        return [actions for _, actions in islice(walks(ours, seed=seed, num_per_task=num_per_task), 40)]

    twice = first(num_per_task=2)
    assert twice == first(num_per_task=2)
    assert twice[::2] == first()[:20]
    assert first() != first(seed=1)
    assert len({tuple(actions) for actions in first()}) == 40
    assert twice[::2] != twice[1::2]


def test_questions_from_files_are_refused(real_dump: Path, tmp_path: Path):
    file = tmp_path / "questions.json"
    asked = [{"db_id": "singer", "question": f"Which {i}?", "query": f"SELECT {i} FROM singer"} for i in range(20)]
    file.write_text(json.dumps(asked))
    with pytest.raises(ValueError, match="only over questions made here"):
        next(walks(InterCodeSQL(dump=str(real_dump), path=str(file))))


def test_every_kind_of_mistake_is_made(ours: InterCodeSQL):
    from random import Random

    made = Counter()
    for i, task in enumerate(ours.tasks("train")):
        for attempt in ATTEMPTS:
            text = attempt(Random(i), task.data["gold"])
            made[attempt.__name__] += text is not None and text != task.data["gold"]
    assert set(made) == {attempt.__name__ for attempt in ATTEMPTS} and min(made.values()) > 20
