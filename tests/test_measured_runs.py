"""Runs in a world with measures of its own, on its split and on a further one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparring.cli.main import main
from sparring.core.errors import ConfigError
from sparring.core.journal import read_json
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import Task
from sparring.models.loading import save_model
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict
from sparring.runs.world import World
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import LENGTHS, ToyWorld


class Measured(ToyWorld):
    """Counts how many tasks were to be played, and says why it can't count those of `dev`."""

    def measures(self, tasks: Sequence[Task], rewards: Mapping[str, float]) -> dict[str, float | str]:
        is_dev = any("/dev-" in task.id for task in tasks)
        return {"tasks": float(len(tasks)), "rare ones": "nobody knows them" if is_dev else 7.0}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)
    return folder


def make_recipe(model_folder: Path, world: str = f"{__name__}:Measured", **evaluation: Any) -> Recipe:
    values = {
        "name": "measured",
        "method": "zero_shot",
        "model": {"path": str(model_folder)},
        "env": {"id": world, "options": {"size": 3}, "num_envs": 2},
        "chat": {"format": "action", "instruction": "", "max_context": 384},
        "rollout": {"max_new_tokens": 4},
        "eval": {"num_resamples": 20, **evaluation},
    }
    return recipe_from_dict(values)


def test_a_run_measures_its_split_and_further_ones(model_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = make_recipe(model_folder, also=["dev"])
    results = run_recipe(recipe, tmp_path / "run", SilentProgress(notes.append))
    assert [note for note in notes if "rare" in note] == [f"{__name__}:Measured, dev: no rare ones: nobody knows them."]
    found = results["arms"]["zero_shot"]["seeds"]["0"]
    assert [one["measures"] for one in found["evaluations"]] == [{"tasks": 2.0, "rare ones": 7.0}]
    (also,) = found["also"]
    assert (also["split"], also["num"], set(also["rewards"])) == ("dev", 2, {"short/dev-0", "long/dev-0"})
    assert also["measures"] == {"tasks": 2.0, "rare ones": "nobody knows them"}
    assert not set(also["rewards"]) & set(found["evaluations"][0]["rewards"])
    phase = tmp_path / "run/seed-0/zero_shot/also-target-dev/trajectories.jsonl"
    before = phase.stat().st_mtime_ns
    assert run_recipe(recipe, tmp_path / "run", SilentProgress()) == results
    assert phase.stat().st_mtime_ns == before
    assert read_json(tmp_path / "run" / "results.json") == results
    page = (tmp_path / "run" / "report.html").read_text()
    assert "dev: tasks" in page and "Evaluation on further splits" in page


def test_a_world_without_measures_has_the_usual_two_on_a_further_split(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "tests.toy_world:ToyWorld", also=["dev"])
    results = run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    found = results["arms"]["zero_shot"]["seeds"]["0"]
    assert "measures" not in found["evaluations"][0]
    assert set(found["also"][0]["measures"]) == {"mean reward", "success"}


@pytest.mark.parametrize(
    ("also", "message"),
    [
        (["test"], r"eval\.also: 'test' is evaluated already"),
        (["dev", "dev"], r"eval\.also: 'dev' is evaluated already"),
        (["train"], r"eval\.also: 6 held-out tasks are training tasks too"),
        (["nowhere"], "split: unknown 'nowhere'"),
        (["../x"], r"eval\.also: '\.\./x' becomes a folder's name"),
    ],
)
def test_a_further_split_that_is_none_is_refused_before_anything_is_written(
    also: list[str], message: str, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_recipe(make_recipe(model_folder, also=also), tmp_path / "run", SilentProgress(), with_report=False)
    assert not (tmp_path / "run").exists()


def test_the_gate_knows_further_splits() -> None:
    toy = ToyWorld()
    world = World(
        benchmark=toy,
        pool=None,  # pyright: ignore[reportArgumentType]
        train_tasks=toy.tasks("train"),
        eval_tasks=toy.tasks("test"),
        experts=[],
        also={"dev": toy.tasks("dev")},
    )
    assert {task.id for task in world.held_out} == {task.id for split in ("test", "dev") for task in toy.tasks(split)}


def test_eval_plays_and_measures_each_split(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "played.jsonl"
    world = ["--env.id", f"{__name__}:Measured", "--env.options", '{"size": 3}', "--env.num_envs", "2"]
    chat = ["--chat.format", "action", "--chat.max_context", "384", "--rollout.max_new_tokens", "4"]
    with pytest.raises(SystemExit) as end:
        main(["eval", str(model_folder), *world, *chat, "--eval.also", "dev", "--out", str(out), "--quiet"])
    printed, errors = capsys.readouterr()
    assert not end.value.code, errors
    assert printed.count("own measures, out of 100") == 2
    assert f"{__name__}:Measured: test" in printed and f"{__name__}:Measured: dev" in printed
    assert "rare ones: nobody knows them." in printed
    assert {one.task.id for one in read_trajectories(out)} == {f"{k}/{s}-0" for k in LENGTHS for s in ("test", "dev")}
