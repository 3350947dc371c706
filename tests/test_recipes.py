"""Every recipe that ships parses, names known types and keeps training and held-out tasks apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.journal import read_jsonl
from sparring.envs.base import select_tasks
from sparring.envs.nowhere import NOWHERE
from sparring.runs.recipe_files import load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted(
    path
    for path in [*ROOT.glob("recipes/**/*.toml"), *ROOT.glob("examples/*.toml")]
    if path.parent.name != "real"  # these have models and data that do not ship: test_real_recipes.py
)


def test_there_are_recipes() -> None:
    assert ROOT / "recipes/quickstart.toml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_parses_and_its_tasks_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    recipe = load_recipe(path)
    assert recipe.arms
    if path.parent.name == "paper":  # its data does not ship: test_paper_recipes.py
        return
    for arm in recipe.arms.values():
        env = arm.config.env
        if env.id == NOWHERE:  # it plays nothing
            continue
        try:
            benchmark = env.load()
        except ConfigError as error:
            if env.id != "appworld":  # the one world that is set up by a command of its own
                raise
            pytest.skip(str(error))
        train = select_tasks(benchmark.tasks("train"), kinds=env.kinds, num=env.num_train)
        held_out = select_tasks(benchmark.tasks(arm.config.eval.split), kinds=env.kinds, num=arm.config.eval.num_tasks)
        assert train and held_out
        assert {task.id for task in train}.isdisjoint(task.id for task in held_out)


def test_the_quickstart_has_what_its_readers_are_promised() -> None:
    recipe = load_recipe(ROOT / "recipes/quickstart.toml")
    assert {arm.method for arm in recipe.arms.values()} == {"sft", "eto", "coevolving_agents"}
    for arm in recipe.arms.values():
        assert arm.config.loop.rounds >= 2
        assert (arm.config.eval.num_tasks or 0) >= 100
        assert arm.config.eval.split == "test"
        assert arm.config.expert.path == "recipes/quickstart-experts.jsonl.gz"
        assert len(read_jsonl(ROOT / arm.config.expert.path)) > 400
    budgets = {
        name: arm.config.rollout.num_per_task * (2 if arm.method == "coevolving_agents" else 1)
        for name, arm in recipe.arms.items()
    }
    assert budgets["eto"] == budgets["coevolving_agents"]
