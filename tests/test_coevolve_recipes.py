"""The recipes of CoEvolve's table say what is known of the paper, and every arm starts and ends with a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.journal import read_json
from sparring.core.progress import SilentProgress
from sparring.envs.appworld import AppWorld
from sparring.envs.bfcl import BFCL
from sparring.runs.config import Config
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.serving import Answer, ScriptedServer, completion

PAPER = Path(__file__).parents[1] / "recipes" / "paper"
WORLDS = ("bfcl", "appworld")
ARMS = {
    "zero_shot": "Zero-shot",
    "grpo": "GRPO on D_0",
    "synthesis_only": "Synthesis only",
    "random": "Random exploration",
    "coevolve": "CoEvolve",
    "no_forgetting": "without forgetting",
    "no_boundary": "without boundary",
    "no_rare": "without rare",
    "no_validation": "without validation",
}
EXPLORED = ("random", "coevolve", "no_forgetting", "no_boundary", "no_rare", "no_validation")
"""Arms in which a language model explores."""
SMALL: dict[str, dict[str, Any]] = {
    "bfcl": {
        "model.path": "sparring-tools",
        "chat.format": "action",
        "env.options": {"docs": "signatures", "parity": True, "num_explored": 4, "turn_limit": 5},
    },
    "appworld": {
        "model.path": "sparring-code",
        "env.path": None,
        "eval.also": ["dev"],
        "env.num_train": 4,
        "env.options": {"shared_templates": True, "turn_limit": 4, "limits": {"observation_chars": 900, "cpu_s": 5}},
    },
}
"""World → what makes its recipe small."""
TINY: dict[str, Any] = {
    "sampler.kind": "local",
    "vllm.launch": False,
    "env.num_envs": 2,
    "chat.instruction": "",
    "chat.max_context": 4096,
    "rollout.max_new_tokens": 60,
    "rl.recompute": False,
    "grpo.rounds": 2,
    "grpo.num_tasks": 2,
    "grpo.num_per_task": 2,
    "bootstrap.num": 2,
    "bootstrap.explorer": "programmatic",
    "bootstrap.num_places": 2,
    "synthesis.every": 1,
    "synthesis.num_flags": 2,
    "synthesis.num_proposals": 2,
    "synthesis.max_episodes": 3,
    "explorer.num_flags": 1,
    "explorer.num_explorations": 1,
    "eval.num_tasks": 1,
    "eval.num_resamples": 10,
}


def configs(world: str) -> dict[str, Config]:
    return {name: arm.config for name, arm in load_recipe(PAPER / f"coevolve-{world}.toml").arms.items()}


@pytest.mark.parametrize("world", WORLDS)
def test_a_recipe_says_what_is_known_of_the_paper(world: str) -> None:
    recipe = load_recipe(PAPER / f"coevolve-{world}.toml")
    assert {name: arm.label for name, arm in recipe.arms.items()} == ARMS
    assert not recipe.needs_experts
    for config in configs(world).values():
        grpo, rl = config.grpo, config.rl
        assert (grpo.rounds, grpo.num_tasks, grpo.num_per_task, grpo.start) == (120, 32, 8, "base")
        assert (grpo.kl_weight, grpo.clip_low, grpo.clip_high) == (1e-3, 0.2, 0.28)
        assert (rl.lr, rl.epochs, rl.batch_size, rl.schedule) == (1e-6, 1, 256, "constant")
        assert (config.rollout.temperature, config.explorer.explore_turns) == (0.9, 30)
        assert config.env.options["turn_limit"] == 30
        assert (config.env.num_train or config.env.options["num_explored"]) == 100
        assert (config.bootstrap.num, config.bootstrap.explorer) == (100, "language-model")
        assert (config.synthesis.preset, config.synthesis.every, config.signals.window) == ("paper", 10, 10)
        assert config.model.path == "Qwen/Qwen2.5-7B-Instruct"
        assert (config.eval.split, config.eval.also) == ("test", ("test_challenge",) if world == "appworld" else ())


@pytest.mark.parametrize("world", WORLDS)
def test_arms_differ_in_what_their_names_say(world: str) -> None:
    found = configs(world)
    signals = {name: set(config.signals.kinds) for name, config in found.items()}
    every = {"forgetting", "boundary", "rare"}
    left_out = {"no_forgetting": "forgetting", "no_boundary": "boundary", "no_rare": "rare"}
    assert signals == {name: every - {left_out.get(name, "")} for name in ARMS}
    checks = {name: config.validation.checks for name, config in found.items()}
    assert checks == dict.fromkeys(ARMS, ("query",)) | {"no_validation": ()}
    made = {name: (config.synthesis.kind, config.synthesis.guidance) for name, config in found.items()}
    usual = ("language-model", "flags")
    assert made == dict.fromkeys(ARMS, usual) | {
        "synthesis_only": ("programmatic", "random"),
        "random": ("language-model", "random"),
    }


def test_turns_are_bounded_by_option() -> None:
    free, bound = BFCL(), BFCL(turn_limit=30)
    limits = {task.id: (free.turn_limit(task), bound.turn_limit(task)) for task in free.tasks("train")}
    assert all(found == min(30, usual) for usual, found in limits.values())
    assert {30} < {found for _, found in limits.values()}
    for wrong in (0, 2.5, "30", True):
        with pytest.raises(ConfigError, match="turn_limit is"):
            BFCL(turn_limit=wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("world", [pytest.param(world, marks=pytest.mark.slow) for world in WORLDS])
def test_every_arm_starts_and_ends(world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model answers in prose, as a small one does: what it says is dropped and counted."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if world == "appworld":
        try:
            AppWorld()
        except ConfigError as error:
            pytest.skip(str(error))
    with ScriptedServer([Answer(body=completion("I would try something else."))]) as server:
        overrides = SMALL[world] | TINY | {"openai.model": "explorer", "openai.base_url": server.base_url}
        recipe = load_recipe(PAPER / f"coevolve-{world}.toml", overrides)
        results = run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
        assert server.seen
    assert set(results["arms"]) == set(ARMS)
    for arm in results["arms"].values():
        last = arm["seeds"]["0"]["evaluations"][-1]
        assert list(last["measures"]) == {"bfcl": ["accuracy"], "appworld": ["TGC", "SGC"]}[world]
    for name in EXPLORED:
        made = read_json(tmp_path / "run" / "seed-0" / name / "round-1/synthesis/synthesis.json")
        assert not made["verdicts"]
        assert made["counts"].get("reflect: malformed", 0) == made["counts"].get("reflect: requests", 0)
