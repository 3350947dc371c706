"""The recipes of the paper's table start and end: every arm with a small random model, on the data that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sparring.core.errors import ConfigError
from sparring.core.progress import SilentProgress
from sparring.envs.base import load_benchmark, select_tasks
from sparring.models.loading import BUNDLED, save_model
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.tiny_models import tiny_model

PAPER = Path(__file__).parents[1] / "recipes" / "paper"
WORLDS = {"webshop": (), "scienceworld": ("lifespan-longest-lived",), "intercode_sql": ("project",)}
"""World → the types of task that are played, the short ones."""
MAX_CONTEXT = 12_000
ROWS = {"sft": "SFT", "rft": "RFT", "ppo": "PPO", "eto": "ETO", "positive": "Positive agent"}
ROWS |= {"ipr": "IPR", "frozen": "Frozen partner"}
ROWS["coevolving_agents"] = "Co-Evolving Agents"


def test_there_is_a_recipe_for_each_world() -> None:
    """Those of the other paper's table are `tests/test_coevolve_recipes.py`'s."""
    assert {path.stem for path in PAPER.glob("*.toml") if not path.stem.startswith("coevolve-")} == set(WORLDS)


@pytest.mark.parametrize("world", WORLDS)
def test_a_recipe_says_what_the_paper_says(world: str) -> None:
    recipe = load_recipe(PAPER / f"{world}.toml")
    assert {name: arm.label for name, arm in recipe.arms.items()} == ROWS
    for arm in recipe.arms.values():
        config = arm.config
        assert (config.sft.lr, config.sft.epochs, config.sft.batch_size, config.sft.schedule) == (2e-5, 3, 64, "cosine")
        assert (config.dpo.epochs, config.loss.beta) == (3, 0.1)
        rates = (config.dpo.lr, config.loop.later_lr, config.loop.later_beta)
        if arm.method == "ipr":
            assert (config.dpo.batch_size, config.loop.rounds) == (48, 6)
            assert rates == (3e-6, 3e-6, 0.1)
            assert (config.ipr.num_steps, config.ipr.num_samples, config.ipr.min_gap) == (None, 5, 0.01)
        else:
            assert (config.dpo.batch_size, config.loop.rounds) == (32, 5 if world == "intercode_sql" else 3)
            assert rates == (1e-6, 5e-7, 0.5)
        assert (config.loss.sft_reduction, config.partner.start) == ("sum", "independent")
        assert (config.rollout.num_per_task, config.rollout.num_tasks) == (1, None)
        assert (config.loss.expert_dpo, config.loss.expert_sft) == (0.5, 0.5)


@pytest.mark.parametrize(
    "world", [world if world == "intercode_sql" else pytest.param(world, marks=pytest.mark.slow) for world in WORLDS]
)
def test_every_row_starts_and_ends(world: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["sparring-worlds"])
    model = tiny_model("llama", num_tokens=len(tokenizer))
    model.config.max_position_embeddings = MAX_CONTEXT
    save_model(model, tokenizer, tmp_path / "model")
    try:
        demonstrations = write_demonstrations(world, tmp_path / "demonstrations.jsonl")
    except ConfigError as error:
        pytest.skip(str(error))
    overrides = {
        "model.path": str(tmp_path / "model"),
        "env.path": None,
        "env.options": {},
        "env.kinds": WORLDS[world],
        "env.num_envs": 2,
        "env.num_train": 2,
        "expert.path": str(demonstrations),
        "chat.max_context": MAX_CONTEXT,
        "rollout.max_new_tokens": 3,
        "sft.epochs": 1,
        "dpo.epochs": 1,
        "loop.rounds": 1,
        "ppo.rounds": 1,
        "rft.num_samples": 1,
        "ipr.num_samples": 1,
        "eval.num_tasks": 1,
    }
    recipe = load_recipe(PAPER / f"{world}.toml", overrides)
    results = run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    assert set(results["arms"]) == set(ROWS)


def write_demonstrations(world: str, path: Path) -> Path:
    """Play a few experts of the world's own, give them thoughts, and write them down."""
    benchmark = load_benchmark(world)
    tasks = select_tasks(benchmark.tasks("train"), kinds=WORLDS[world], num=2)
    env = benchmark.make_env()
    lines = []
    for task_id, actions in benchmark.expert_actions(tasks).items():
        observation, turns = env.reset(next(task for task in tasks if task.id == task_id), 0), []
        for action in actions:
            turns.append({"observation": observation, "thought": "This is the next thing to do.", "action": action})
            observation = env.step(action).observation
        lines.append({"task_id": task_id, "reward": 1.0, "turns": turns, "final_observation": observation})
    env.close()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
