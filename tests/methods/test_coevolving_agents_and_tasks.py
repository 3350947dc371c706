"""Both papers in one loop: near misses make pairs and new tasks; new tasks come with their solutions as experts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.journal import read_json, read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.runs.recipe import run_recipe
from tests.methods.test_coevolve import growth_of, make_recipe, model_folder  # noqa: F401 (a fixture)
from tests.methods.test_methods import DeadlyProgress, Killed, outcome

FILE = "trajectories.jsonl"
ARM = "coevolving_agents_and_tasks"
SECTIONS = {
    "rollout": {"num_tasks": 6, "num_per_task": 2},
    "sft": {"epochs": 25},
    "dpo": {"lr": 1e-3, "epochs": 1, "batch_size": 8},
    "fail": {"min_pairs": 1},
    "loop": {"rounds": 3},
    "partner": {"start": "shared"},
    "signals": {"kinds": ["near-miss", "boundary"], "boundary": "graded", "near_miss_from": 0.3},
    "synthesis": {"every": 1},
}


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("run") / "both"
    run_recipe(make_recipe(model_folder, ARM, **SECTIONS), out, SilentProgress())
    return out / "seed-0" / ARM


def test_both_agents_play_the_same_tasks_and_both_make_pairs(finished: Path) -> None:
    for number in (1, 2, 3):
        played = {
            agent: {one.task.id for one in read_trajectories(finished / f"round-{number}/rollout-{agent}" / FILE)}
            for agent in ("target", "partner")
        }
        assert played["target"] == played["partner"]
        assert (finished / f"round-{number}/train-target/done.json").exists()
    assert (finished / "round-1/train-partner/done.json").exists()


def test_near_misses_of_both_agents_begin_new_tasks(finished: Path) -> None:
    origins = [one.proposal.origin for number in (1, 2) for one in growth_of(finished, number).verdicts]
    assert "near-miss" in {origin.signal for origin in origins}
    sources = {origin.trajectory_id for origin in origins}
    assert any("rollout-partner" in source for source in sources)
    assert any("rollout-target" in source for source in sources)
    assert not (finished / "round-3/synthesis").exists(), "what the last round makes nobody plays"


def test_a_new_task_is_paired_with_the_solution_that_validated_it(finished: Path) -> None:
    made = {one.proposal.task.id for n in (1, 2) for one in growth_of(finished, n).verdicts if one.is_accepted}
    pairs = [pair for n in (2, 3) for pair in read_jsonl(finished / f"round-{n}/train-target/pairs.jsonl")]
    chosen = [pair["chosen"] for pair in pairs if any(f"/{task}/" in pair["rejected"] for task in made)]
    assert any("/synthesis/replay" in one for one in chosen)


def test_results_hold_the_partner_and_the_pool(finished: Path) -> None:
    seed = read_json(finished.parent.parent / "results.json")["arms"][ARM]["seeds"]["0"]
    assert {one["agent"] for one in seed["rollouts"]} == {"target", "partner"}
    assert seed["pool"] and seed["synthesis"]
    page = (finished.parent.parent / "report.html").read_text("utf-8")
    assert 'id="pool"' in page and "failure agent" in page


@pytest.mark.slow
def test_a_stop_leaves_no_trace(model_folder: Path, finished: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = make_recipe(model_folder, ARM, **SECTIONS)
    for num_signs in (30, 25, 12):
        with pytest.raises(Killed):
            run_recipe(recipe, tmp_path / "stopped", DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, tmp_path / "stopped", SilentProgress(), with_report=False)
    assert outcome(tmp_path / "stopped") == outcome(finished.parent.parent)


def test_a_buffer_is_refused(model_folder: Path) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=r"loop\.buffer_rounds: .*leave it 1"):
        make_recipe(model_folder, ARM, **{**SECTIONS, "loop": {"rounds": 2, "buffer_rounds": 2}})
