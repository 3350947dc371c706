"""The models that ship with the package: they load, are small, and have never seen what they are measured on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Turn
from sparring.data.chat import Chat, ChatConfig
from sparring.envs.appworld.generate import find_template, own_tasks
from sparring.envs.base import load_benchmark
from sparring.envs.bfcl import BFCL, functions_of
from sparring.envs.bfcl.functions import show_functions
from sparring.envs.scienceworld.benchmark import ScienceWorld, recorded_gold_paths
from sparring.models.loading import BUNDLED, load_model

MAX_SIZE = 40 * 2**20

IN_PROCESS = ("scienceworld", "webshop", "intercode_sql")
"""Worlds whose tasks can be listed wherever the package is."""


@pytest.fixture(scope="module", params=sorted(BUNDLED))
def corpus(request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """World → ids of the tasks in a model's corpus; ScienceWorld's stand without a prefix."""
    tasks = json.loads((BUNDLED[request.param] / "manifest.json").read_text())["tasks"]
    found: dict[str, set[str]] = {world: set() for world in (*IN_PROCESS, "bfcl", "appworld")}
    for task in tasks:
        world, _, rest = task.partition("/")
        found[world if world in found else "scienceworld"].add(rest if world in found else task)
    return found


def test_the_models_are_small() -> None:
    files = [path for folder in BUNDLED.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= MAX_SIZE


def test_the_corpus_holds_training_tasks_alone(corpus: dict[str, set[str]]) -> None:
    assert len(corpus["scienceworld"]) > 1000
    for name in IN_PROCESS:
        world, tasks = load_benchmark(name), corpus[name]
        assert tasks <= {task.id for task in world.tasks("train")}, name
        for split in ("dev", "test"):
            assert tasks.isdisjoint(task.id for task in world.tasks(split)), (name, split)


def test_the_corpus_holds_no_conversation_of_the_benchmarks(corpus: dict[str, set[str]]) -> None:
    """BFCL's 800 are one evaluation split in the parity mode, so not even its training tasks are in a corpus."""
    try:
        world = BFCL()
    except ConfigError as error:
        pytest.skip(str(error))
    tasks = {task.id for split in ("train", "dev", "test", "all") for task in world.tasks(split)}
    assert len(tasks) == 800
    assert corpus["bfcl"].isdisjoint(tasks)
    explored = BFCL(parity=True)
    assert corpus["bfcl"].isdisjoint(task.id for split in ("train", "dev") for task in explored.tasks(split))


def test_the_corpus_holds_households_of_training_templates_alone(corpus: dict[str, set[str]]) -> None:
    for id in corpus["appworld"]:
        found = find_template(id)
        assert found is not None, id
        assert found[0] == "train", id
    evaluated = {task.id for split in ("dev", "test") for task in own_tasks(0, 6)[split]}
    assert corpus["appworld"].isdisjoint(evaluated)


@pytest.mark.parametrize(
    ("name", "corpora", "least"),
    [("tools", {"invented_bfcl", "invented_homes"}, 100), ("code", {"invented_bfcl", "renamed_homes"}, 1000)],
)
def test_later_models_have_read_both_tool_worlds(name: str, corpora: set[str], least: int) -> None:
    manifest = json.loads((BUNDLED[f"sparring-{name}"] / "manifest.json").read_text())
    assert corpora <= manifest["validation_nats_per_token"].keys()
    assert sum(task.startswith("appworld/") for task in manifest["tasks"]) > least


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


def test_the_first_model_has_learnt_what_the_simulator_says() -> None:
    room = (
        "Your task is to find a(n) animal. First, focus on the thing. Then, move it to the red box in the kitchen.\n\n"
        "This room is called the bathroom. In it, you see: \n\tthe agent\n\ta substance called air\n"
        "\ta glass cup (containing nothing)\nYou also see:\n\tA door to the kitchen (that is open)"
    )
    turn = Turn(observation=room, text="go to kitchen", action="go to kitchen", reward=0.0)
    chat, logprobs_of = _reader("sparring-worlds")
    ids = chat.first(room) + chat.action_ids(turn)
    answer = chat.next(ids[-1:], "You move to the kitchen.")
    assert logprobs_of(ids, answer) > -0.5  # nats; a model that knows nothing of the simulator is at -7


def test_the_second_model_copies_what_it_has_never_seen() -> None:
    functions = show_functions(functions_of(["GorillaFileSystem", "TicketAPI"]), "short")
    request = f"Functions:\n{functions}\n\nUser: Please create the directory 'vlorpane', then close ticket 7."
    chat, logprobs_of = _reader("sparring-tools")
    first = Turn(observation=request, text="", action="[mkdir(dir_name='vlorpane')]", reward=0.0)
    second = Turn(observation="None", text="", action="[close_ticket(ticket_id=7)]", reward=0.0)
    assert logprobs_of(chat.history([], request), chat.action_ids(first)) > -0.5
    assert logprobs_of(chat.history([first], "None"), chat.action_ids(second)) > -0.5


def test_the_third_model_writes_code_about_what_it_has_never_seen() -> None:
    request = (
        "I am Ada Quorl (email ada.quorl@plimsey.example, phone number 5551234567), your supervisor. Do this task for "
        'me, with no further questions:\n\nDelete every note in Simple Note that has the tag "vlorpane".\n\n'
        "Your Python code finds an object `apis`. My passwords: apis.supervisor.show_account_passwords(). To see what "
        "there is: apis.api_docs.show_app_descriptions(), apis.api_docs.show_api_descriptions(app_name='…'), "
        "apis.api_docs.show_api_doc(app_name='…', api_name='…'). When you are done: apis.supervisor.complete_task(), "
        "and if I asked a question, apis.supervisor.complete_task(answer=…), with the bare answer."
    )
    login = (
        "me = apis.supervisor.show_profile()\n"
        "passwords = {a['account_name']: a['password'] for a in apis.supervisor.show_account_passwords()}\n"
        "simple_note_token = apis.simple_note.login(username=me['email'], password=passwords['simple_note'])"
        "['access_token']\ntoken = simple_note_token"
    )
    search = (
        "found, page = [], 0\n"
        "while part := apis.simple_note.search_notes(tags=['vlorpane'], access_token=token, page_index=page, "
        "page_limit=20):\n    found += part\n    page += 1\nprint(found)"
    )
    chat, logprobs_of = _reader("sparring-code")
    first, second = (Turn(observation="", text="", action=code, reward=0.0) for code in (login, search))
    turns = [replace(first, observation=request)]
    assert logprobs_of(chat.history([], request), chat.action_ids(first)) > -0.1
    assert logprobs_of(chat.history(turns, "Execution successful."), chat.action_ids(second)) > -0.3


def _reader(name: str) -> tuple[Chat, Callable[[list[int], list[int]], float]]:
    """Load a model; return its chat, and what gives tokens' mean log-probability after others."""
    import torch

    model, tokenizer = load_model(name)

    def mean_logprob(ids: list[int], answer: list[int]) -> float:
        with torch.inference_mode():
            logits = model(torch.tensor([ids + answer])).logits[0]
        logprobs = torch.log_softmax(logits[len(ids) - 1 : -1].float(), dim=-1)
        return float(logprobs[torch.arange(len(answer)), torch.tensor(answer)].mean())

    return Chat(tokenizer, ChatConfig(format="action", instruction=""), instruction=""), mean_logprob
