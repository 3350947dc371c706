"""The model that ships with the package: it loads, it is small, and it has never seen what it is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.chat import Chat, ChatConfig
from sparring.envs.base import load_benchmark
from sparring.envs.scienceworld import ScienceWorld, recorded_gold_paths
from sparring.policies.local import BUNDLED, load_model
from sparring.types import Turn

MAX_SIZE = 25 * 2**20


@pytest.fixture(scope="module", params=sorted(BUNDLED))
def corpus(request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """World → ids of the tasks in a model's corpus; ScienceWorld's stand without a prefix."""
    tasks = json.loads((BUNDLED[request.param] / "manifest.json").read_text())["tasks"]
    found: dict[str, set[str]] = {"scienceworld": set(), "webshop": set(), "intercode_sql": set()}
    for task in tasks:
        world, _, rest = task.partition("/")
        found[world if world in found else "scienceworld"].add(rest if world in found else task)
    return {world: ids for world, ids in found.items() if ids}


def test_the_models_are_small() -> None:
    files = [path for folder in BUNDLED.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= MAX_SIZE


def test_the_corpus_holds_training_tasks_alone(corpus: dict[str, set[str]]) -> None:
    assert len(corpus["scienceworld"]) > 1000
    for name, tasks in corpus.items():
        world = load_benchmark(name)
        assert tasks <= {task.id for task in world.tasks("train")}, name
        for split in ("dev", "test"):
            assert tasks.isdisjoint(task.id for task in world.tasks(split)), (name, split)


@pytest.mark.data
def test_the_corpus_holds_nothing_of_the_published_evaluation_splits(
    corpus: dict[str, set[str]], data_dir: Path
) -> None:
    world = ScienceWorld(path=str(data_dir / "scienceworld"))
    for split in ("dev", "dev-clean", "test"):
        assert corpus["scienceworld"].isdisjoint(task.id for task in world.tasks(split)), split


def test_the_recorded_gold_paths_are_of_training_variations() -> None:
    paths = recorded_gold_paths()
    assert len(paths) >= 600
    assert set(paths) <= {task.id for task in ScienceWorld().tasks("train")}


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_a_model_has_learnt_what_the_simulator_says(name: str) -> None:
    import torch

    model, tokenizer = load_model(name)
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
