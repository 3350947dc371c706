"""The recipes for pretrained models start and end: every arm with a small random model of that architecture, under a
chat template with its family's quirks. The models themselves are not loaded, and no figure comes from here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from sparring.core.journal import read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.chat import Chat
from sparring.envs.base import EnvConfig, select_tasks
from sparring.models.loading import save_model
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.policies.architectures import tiny
from tests.tiny_models import tiny_tokenizer

REAL = Path(__file__).parents[1] / "recipes" / "real"
MAX_CONTEXT = 12_000
PADDING = 24
"""Embeddings beyond the tokenizer's last id, as these models have them."""
SYSTEM = "<|im_start|>system\nYou stand at a machine.<|im_end|>\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"
KINDS = {"scienceworld": ("lifespan-longest-lived",), "webshop": ()}
"""World → the types of task that are played, the short ones."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a recipe's model is like."""

    kind: str
    """The architecture's name at transformers."""
    template: str
    opening: str
    """What stands before the first user's turn."""
    answer: str
    """What stands between the start of the agent's turn and what it writes."""
    shape: dict[str, Any] = field(default_factory=dict)


QWEN3 = Family(
    kind="qwen3",
    template="qwen3",
    opening="",
    answer=NO_THOUGHT,
    shape={"tie_word_embeddings": True, "use_sliding_window": False},
)
FAMILIES = {
    "smollm2-scienceworld": Family(
        kind="llama",
        template="qwen2.5",  # SmolLM2's has a system message of its own, too
        opening=SYSTEM,
        answer="",
        shape={"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48, "tie_word_embeddings": True},
    ),
    "qwen3-4b-scienceworld": QWEN3,
    "qwen3-4b-webshop": QWEN3,
    "qwen2.5-7b-scienceworld": Family(
        kind="qwen2",
        template="qwen2.5",
        opening=SYSTEM,
        answer="",
        shape={"tie_word_embeddings": False, "use_sliding_window": False},
    ),
}


def test_each_recipe_has_its_family() -> None:
    assert {path.stem for path in REAL.glob("*.toml")} == set(FAMILIES)


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    return load_recipe(REAL / f"{name}.toml", overrides)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_resolves_and_says_what_was_run(name: str) -> None:
    recipe = load(name)
    assert set(recipe.arms) == {"zero_shot", "sft", "eto", "coevolving_agents"}
    assert recipe.name == name
    head = (REAL / f"{name}.toml").read_text(encoding="utf-8").partition("\nname = ")[0].lower()
    assert ("not run here" in head) == name.startswith("qwen")
    for arm in recipe.arms.values():
        config = arm.config
        assert (config.lora.rank, config.lora.alpha) == (16, 32)
        assert 5e-6 <= config.dpo.lr <= 5e-5
        assert config.loop.later_lr == config.dpo.lr / 2
        assert (config.loop.later_beta, config.loss.beta, config.eval.split) == (0.5, 0.1, "test")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("qwen")])
def test_the_gpu_recipes_are_the_papers_but_for_the_rates(name: str) -> None:
    for arm in load(name).arms.values():
        config = arm.config
        assert (config.chat.format, config.chat.num_examples, config.chat.max_context) == ("react", 1, 4096)
        assert (config.sft.epochs, config.sft.batch_size, config.sft.schedule) == (3, 64, "cosine")
        assert (config.dpo.epochs, config.dpo.batch_size, config.loop.rounds) == (3, 32, 3)
        assert (config.loss.sft_reduction, config.loss.expert_dpo, config.loss.expert_sft) == ("sum", 0.5, 0.5)
        assert (config.partner.start, config.rollout.temperature, config.rollout.num_tasks) == (
            "independent",
            0.7,
            None,
        )
        assert config.sft.recompute and config.dpo.recompute and config.sft.lr == 2e-4


def test_the_cpu_recipe_has_demonstrations_enough() -> None:
    """As many as its head says, on training tasks, all in the file that ships."""
    config = load("smollm2-scienceworld").arms["sft"].config
    assert config.expert.path is not None
    benchmark = config.env.load()
    tasks = select_tasks(benchmark.tasks("train"), kinds=config.env.kinds, num=config.env.num_train)
    known = {record["task_id"] for record in read_jsonl(REAL.parents[1] / config.expert.path)}
    assert sum(task.id in known for task in tasks) >= (config.expert.num_cloned or 0) >= 100
    held_out = select_tasks(benchmark.tasks("test"), kinds=config.env.kinds, num=config.eval.num_tasks)
    assert len(held_out) == config.eval.num_tasks
    assert {task.id for task in tasks}.isdisjoint(task.id for task in held_out)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_episode_is_laid_out_as_the_family_wants_it(name: str) -> None:
    """The default system message stands once, an empty thought before every answer; no agent writes either."""
    family = FAMILIES[name]
    tokenizer: Any = tiny_tokenizer(family.template)
    config = load(name, {"chat.num_examples": 0}).arms["zero_shot"].config.chat
    chat = Chat(tokenizer, config, instruction="Act.")
    written = [chat.format.render("I see.", action) for action in ("look", "press red")]
    encoded = chat.encode(episode(written))
    text = tokenizer.decode(encoded.ids)
    assert text.startswith(f"{family.opening}<|im_start|>user\n")
    assert text.count("<|im_start|>system") == bool(family.opening)
    starts = f"<|im_start|>assistant\n{family.answer}"
    assert text.count("<|im_start|>assistant\n") == text.count(starts) == len(written)
    answers = [tokenizer.decode(encoded.ids[start:end]) for start, end in encoded.spans]
    assert answers == [f"{answer}<|im_end|>" for answer in written]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_arm_starts_and_ends(name: str, tmp_path: Path) -> None:
    """On a toy world: the recipe's own arms, prompts, losses and loop."""
    toy = {"env.id": "tests.toy_world:ToyWorld", "env.options": {"size": 2}, "env.kinds": (), "env.num_train": None}
    results = play(name, tmp_path, toy)
    assert set(results["arms"]) == {"zero_shot", "sft", "eto", "coevolving_agents"}
    assert list((tmp_path / "run").rglob("adapter_model.safetensors"))
    assert not list((tmp_path / "run").rglob("model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_arm_starts_and_ends_in_its_world(name: str, tmp_path: Path) -> None:
    world = load(name).arms["sft"].config.env.id
    results = play(name, tmp_path, {"env.options": {}, "env.kinds": KINDS[world], "env.num_train": 2})
    assert set(results["arms"]) == {"zero_shot", "sft", "eto", "coevolving_agents"}


def episode(written: list[str]) -> Trajectory:
    """Make an episode in which an agent wrote these texts."""
    turns = tuple(Turn(observation="You see a lamp.", text=text, action=text, reward=0.0) for text in written)
    task = Task(id="lamp", kind="lamp")
    return Trajectory(
        id="lamp", task=task, agent="target", turns=turns, final_observation="", reward=0.0, stop=StopReason.DONE
    )


def play(name: str, folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Run a recipe with a small random model, on few tasks of a world."""
    save_family(FAMILIES[name], folder / "model")
    small = {
        "model.path": str(folder / "model"),
        "env.path": None,
        "env.num_envs": 2,
        "expert.path": str(folder / "demonstrations.jsonl"),
        "expert.num_cloned": None,
        "chat.max_context": MAX_CONTEXT,
        "rollout.num_tasks": None,
        "rollout.max_new_tokens": 3,
        "sft.epochs": 1,
        "dpo.epochs": 1,
        "loop.rounds": 1,
        "loop.accept_tasks": 0,
        "fail.min_pairs": 1,
        "eval.num_tasks": 1,
        **overrides,
    }
    recipe = load(name, small)
    write_demonstrations(recipe.arms["sft"].config.env, folder / "demonstrations.jsonl")
    return run_recipe(recipe, folder / "run", SilentProgress(), with_report=False)


def save_family(family: Family, folder: Path) -> None:
    """Write a model's folder: its architecture, more embeddings than tokens, two tokens that end generation."""
    tokenizer: Any = tiny_tokenizer(family.template)
    model = tiny(family.kind, len(tokenizer) + PADDING, **{"max_position_embeddings": MAX_CONTEXT, **family.shape})
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[-1])
    save_model(model, tokenizer, folder)


def write_demonstrations(config: EnvConfig, path: Path) -> None:
    """Play the experts of a world's own, give them thoughts, and write them down."""
    benchmark = config.load()
    tasks = select_tasks(benchmark.tasks("train"), kinds=config.kinds, num=config.num_train)
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
