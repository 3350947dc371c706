"""Sparring from Python: train, evaluate and load a run; progress in notebooks; scripts without a main guard."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparring
from sparring.core.errors import ConfigError, DataError
from sparring.core.notebook import MAX_NOTES, NotebookProgress
from sparring.core.progress import LineProgress, SilentProgress, library_progress
from sparring.runs.library import RunResult
from sparring.runs.recipe_files import recipe_from_dict

ROOT = Path(__file__).parent.parent
SMALL = {
    "sft.epochs": 4,
    "sft.lr": 1e-2,
    "dpo.epochs": 1,
    "loop.rounds": 1,
    "loop.accept_tasks": 0,
    "eval.num_tasks": 6,
    "rollout.num_tasks": 8,
    "chat.max_context": 512,
    "chat.instruction": "",
    "expert.path": str(ROOT / "examples/treasure.jsonl"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides that make a recipe small, a random model's folder among them."""
    from tests.tiny_models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return {**SMALL, "model.path": str(folder)}


@pytest.fixture(scope="module")
def run(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("runs") / "treasure"
    return sparring.train(ROOT / "examples/treasure.toml", out, small, seeds=[0, 1], arms=["sft", "eto"])


def test_a_run_has_scores_with_intervals_and_a_readable_repr(run: RunResult) -> None:
    assert list(run.scores) == ["sft", "eto"]
    for score in run.scores.values():
        assert 0 <= score.ci_low <= score.mean <= score.ci_high <= 1
        assert (score.num_seeds, score.num_tasks) == (2, 6)
    table = repr(run)
    for label, score in zip(("SFT", "ETO"), run.scores.values(), strict=True):
        assert re.search(rf"^ +{label} +{score.mean:.3f}", table, re.MULTILINE)
    assert str(run.report) in table
    assert run.report.is_file()


def test_the_best_checkpoint_is_the_best_seed_of_the_best_arm(run: RunResult) -> None:
    finals = {
        (name, seed): sum(rewards.values()) / len(rewards)
        for name, arm in run.results.arms.items()
        for seed, rewards in arm.final().items()
    }
    best = max(run.scores, key=lambda name: run.scores[name].mean)
    seed = max(("0", "1"), key=lambda one: finals[best, one])
    phase = {"sft": "sft-target", "eto": "round-1/train-target"}[best]
    assert run.best_arm == best
    assert Path(run.best_checkpoint) == run.folder / f"seed-{seed}/{best}/{phase}/checkpoint"
    assert Path(run.checkpoint("eto", 1)) == run.folder / "seed-1/eto/round-1/train-target/checkpoint"
    assert (Path(run.checkpoint("sft", 0)) / "model.safetensors").is_file()


def test_what_a_run_does_not_have_is_refused(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no arm 'ipr'\. Arms: sft, eto"):
        run.checkpoint("ipr")
    with pytest.raises(ConfigError, match=r"eto has no seed 7\. Seeds: 0, 1"):
        run.checkpoint("eto", 7)
    with pytest.raises(ConfigError, match="no weights of an agent 'partner'"):
        run.checkpoint("eto", agent="partner")
    with pytest.raises(DataError, match="not a run folder"):
        sparring.load_run(tmp_path)


def test_a_run_is_loaded_as_it_was_returned(run: RunResult) -> None:
    again = sparring.load_run(str(run.folder))
    assert again.scores == run.scores
    assert repr(again) == repr(run)


def test_pandas_has_a_row_for_each_held_out_episode(run: RunResult) -> None:
    pytest.importorskip("pandas")
    table = run.to_pandas()
    assert list(table.columns) == ["arm", "label", "seed", "agent", "round", "task", "reward"]
    final = table[(table.arm == "eto") & (table["round"] == 1)]
    assert len(final) == 12
    assert final.reward.mean() == pytest.approx(run.scores["eto"].mean)


def test_an_evaluation_repeats_what_the_run_measured(run: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = sparring.evaluate(run.checkpoint("eto", 0))
    assert found.rewards == run.results.arms["eto"].final()["0"]
    assert (found.env, found.split, found.score.num) == ("examples.treasure:Treasure", "test", 6)
    assert f"mean reward {found.score.mean:.3f} [" in repr(found)
    fewer = sparring.evaluate(run.checkpoint("eto", 0), split="dev", num_tasks=2)
    assert [one.task.id for one in fewer.trajectories] == list(fewer.rewards)
    assert (fewer.split, len(fewer.rewards)) == ("dev", 2)


def test_a_recipe_is_a_name_a_file_a_mapping_or_resolved(small: dict[str, Any], tmp_path: Path) -> None:
    mapping = {"method": "sft", "env": {"id": "examples.treasure:Treasure"}, "chat": {"format": "action"}}
    one = sparring.train(mapping, tmp_path / "one", small)
    assert list(one.scores) == ["sft"]
    assert sparring.train(recipe_from_dict(mapping, small), tmp_path / "one").scores == one.scores
    with pytest.raises(ConfigError, match="overrides, seeds and arms go into a recipe"):
        sparring.train(recipe_from_dict(mapping, small), tmp_path / "one", {"dpo.lr": 1})
    with pytest.raises(ConfigError, match=r"no such recipe\. Did you mean 'quickstart'"):
        sparring.train("quikstart")


def test_the_example_trains_and_evaluates(small: dict[str, Any], tmp_path: Path) -> None:
    """examples/train.py, with little training in the place of its own."""
    text = (ROOT / "examples/train.py").read_text()
    assert len([line for line in text.splitlines() if line and not line.startswith('"""')]) <= 11
    assert '{"loop.rounds": 2}' in text and '"runs/treasure-python"' in text
    out = tmp_path / "run"
    code = text.replace('{"loop.rounds": 2}', repr(small)).replace('"runs/treasure-python"', repr(str(out)))
    done = script(code, tmp_path)
    assert re.search(r"^ +Co-Evolving Agents +0\.\d+", done.stdout, re.MULTILINE)
    assert re.search(
        r"<Evaluation .*round-1/train-target/checkpoint on examples.treasure:Treasure, dev: mean", done.stdout
    )
    assert not re.search(r"rollout|done in", done.stderr)  # a file gets no progress


def script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that has no main guard."""
    path = folder / "script.py"
    path.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(path)], cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=600
    )


TRAIN = """
from pathlib import Path
import sparring
{world}
with open({mark!r}, "a") as mark:
    mark.write("ran ")
recipe = {{"env": {{"id": "{module}:Apart"}}, "chat": {{"format": "action"}}}}
recipe["arms"] = {{name: {{"method": "sft"}} for name in ("a", "b")}}
print(sparring.train(recipe, {out!r}, {small!r}, num_jobs={jobs}).scores["b"].num)
"""
WORLD = """
from examples.treasure import Treasure
class Apart(Treasure):
    env_per_process = {apart}
"""


@pytest.mark.parametrize("apart", [True, False])
def test_a_script_needs_no_main_guard(small: dict[str, Any], tmp_path: Path, apart: bool) -> None:
    """Env processes and jobs are programs of their own, which don't run the script again.

    Where there are none, the script's own world will do.
    """
    world = WORLD.format(apart=apart)
    (tmp_path / "world_of_mine.py").write_text(world)
    module, jobs = ("world_of_mine", 2) if apart else ("__main__", 1)
    values = {"module": module, "jobs": jobs, "out": str(tmp_path / "run"), "mark": str(tmp_path / "mark")}
    done = script(TRAIN.format(world="" if apart else world, small=small, **values), tmp_path)
    assert done.stdout == "6\n"
    assert (tmp_path / "mark").read_text() == "ran "


# ── Progress ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_notebooks_display_is_rewritten_in_place() -> None:
    shown: list[str] = []
    clock = iter(range(0, 100)).__next__
    progress = NotebookProgress(shown.append, interval_s=0, clock=lambda: float(clock()))
    with progress, progress.phase("run"), progress.phase("rollout", total=30) as bar:
        bar.advance(10)
        bar.update(20, note="reward 0.4\x1b")
        progress.note("something to know")
    assert any(re.search(r"^run: 0\n  rollout: 20/30, about \d+ s left, reward 0\.4␛$", text) for text in shown)
    assert re.fullmatch(r"something to know\nrun: done in \d+ s", shown[-1])


def test_a_notebooks_display_is_not_written_more_often_than_it_may() -> None:
    shown: list[str] = []
    progress = NotebookProgress(shown.append, interval_s=10, clock=lambda: 5.0)
    with progress.phase("rollout", total=1000) as bar:
        for _ in range(1000):
            bar.advance()
    for number in range(2 * MAX_NOTES):
        progress.note(str(number))
    assert len(shown) == 2 + 2 * MAX_NOTES  # the phase's begin and end, and the notes
    assert len(shown[-1].splitlines()) == MAX_NOTES


def test_progress_is_shown_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert isinstance(library_progress(), SilentProgress)  # pytest's standard error is a file
    assert isinstance(library_progress(shows=True), LineProgress)
    assert isinstance(library_progress(shows=False), SilentProgress)
