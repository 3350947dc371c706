"""The model that ships with the package: it loads, it is small, and it has never seen what it is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.chat import Chat, ChatConfig
from sparring.envs.scienceworld import ScienceWorld, recorded_gold_paths
from sparring.policies.local import BUNDLED, load_model
from sparring.types import Turn

MAX_SIZE = 25 * 2**20


@pytest.fixture(scope="module")
def corpus_tasks() -> set[str]:
    return set(json.loads((BUNDLED["sparring-base"] / "manifest.json").read_text())["tasks"])


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED["sparring-base"].iterdir()) <= MAX_SIZE


def test_the_corpus_holds_training_variations_alone(corpus_tasks: set[str]) -> None:
    world = ScienceWorld()
    assert len(corpus_tasks) > 1000
    assert corpus_tasks <= {task.id for task in world.tasks("train")}
    for split in ("dev", "test"):
        assert corpus_tasks.isdisjoint(task.id for task in world.tasks(split)), split


@pytest.mark.data
def test_the_corpus_holds_nothing_of_the_published_evaluation_splits(corpus_tasks: set[str], data_dir: Path) -> None:
    world = ScienceWorld(path=str(data_dir / "scienceworld"))
    for split in ("dev", "dev-clean", "test"):
        assert corpus_tasks.isdisjoint(task.id for task in world.tasks(split)), split


def test_the_recorded_gold_paths_are_of_training_variations() -> None:
    paths = recorded_gold_paths()
    assert len(paths) >= 600
    assert set(paths) <= {task.id for task in ScienceWorld().tasks("train")}


def test_the_model_has_learnt_what_the_simulator_says() -> None:
    import torch

    model, tokenizer = load_model("sparring-base")
    chat = Chat(tokenizer, ChatConfig(format="action", instruction=""), instruction="")
    room = (
        "Your task is to find a(n) animal. First, focus on the thing. Then, move it to the red box in the kitchen.\n\n"
        "This room is called the bathroom. In it, you see: \n\tthe agent\n\ta substance called air\n"
        "\ta glass cup (containing nothing)\nYou also see:\n\tA door to the kitchen (that is open)"
    )
    turn = Turn(observation=room, text="go to kitchen", action="go to kitchen", reward=0.0)
    ids = chat.first(room) + chat.action_ids(turn)
    answer = chat.next(ids[-1:], "You move to the kitchen.")
    with torch.inference_mode():
        logits = model(torch.tensor([ids + answer])).logits[0]
    logprobs = torch.log_softmax(logits[len(ids) - 1 : -1], dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]
    assert logprobs.mean() > -0.5  # nats; a model that knows nothing of the simulator is at -7
