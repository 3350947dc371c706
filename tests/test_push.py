"""A checkpoint's model card, and the folder that would be uploaded. Nothing here reaches the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sparring.core.journal import read_json
from sparring.core.progress import SilentProgress
from sparring.report.model_card import PAPERS, citations
from sparring.runs.publishing import make_card
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe, recipe_from_dict
from tests.test_cli import called
from tests.tiny_models import tiny_model, toy_recipe

TRAINED = "round-1/train-target/checkpoint"
TOKEN = "hf_thisIsNoTokenButLooksLikeOne"


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `prefer` with two arms: all weights, and an adapter."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("push")
    source = Path(__file__).parents[1] / "examples/preferences.jsonl"
    values = {
        "name": "calm",
        "prefer": {"path": str(source), "held_out": 0.2},
        "chat": {"max_context": 128},
        "dpo": {"epochs": 1, "batch_size": 64, "lr": 1e-4},
        "eval": {"num_resamples": 100},
        "arms": {"full": {"method": "prefer"}, "adapter": {"method": "prefer", "lora": {"rank": 2}}},
    }
    run_recipe(recipe_from_dict(values), folder / "run", SilentProgress(), with_report=False)
    return folder / "run"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT in the toy world."""
    folder = tmp_path_factory.mktemp("toy")
    recipe = load_recipe(toy_recipe(folder), arms=["sft"])
    run_recipe(recipe, folder / "run", SilentProgress(), with_report=False)
    return folder / "run"


def test_a_dry_run_writes_the_folder_that_would_be_uploaded(
    preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = preferences / "seed-0/full" / TRAINED, tmp_path / "out"
    (checkpoint / "README.md").write_text("of transformers")
    words = ["push", str(checkpoint), "me/calm-model", "--dry_run", "--out", str(out)]
    code, said, _ = called(words, capsys)
    (checkpoint / "README.md").unlink()
    files = {path.name for path in out.iterdir()}
    assert (code, said) == (0, f"{len(files)} files: {out}\n")
    assert files == {path.name for path in checkpoint.iterdir()} | {"README.md"}
    assert (out / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert "exists already" in called(words, capsys)[2]
    assert str(tmp_path) not in (out / "README.md").read_text()
    assert str(Path(__file__).parents[1]) not in (out / "README.md").read_text()


def test_the_card_has_method_data_scores_settings_and_citations(preferences: Path) -> None:
    card = ModelCard(make_card(preferences / "seed-0/full" / TRAINED, "me/calm-model"))
    judged = read_json(preferences / "results.json")["arms"]["full"]["seeds"]["0"]["preferences"][1]
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "transformers"
    assert metadata["license"] == "apache-2.0"
    assert {"sparring", "prefer"} <= set(metadata["tags"])
    assert "base_model" not in metadata  # the bundled model is no repository
    scores = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert scores["accuracy by reward"] == pytest.approx(judged["means"]["reward_accuracy"]["mean"], abs=1e-4)
    assert scores["margin, nats"] == pytest.approx(judged["means"]["margin"]["mean"], abs=1e-4)
    low, high = (judged["means"]["margin"][name] for name in ("low", "high"))
    for wanted in (
        "| method | prefer |",
        "| base model | sparring-worlds |",
        "| data | preferences.jsonl |",
        "8 prompts that were held out",
        f"[{low:.2f}, {high:.2f}]",
        "lr = 0.0001",
        "Direct Preference Optimization",
        "2305.18290",
        "@software{sparring",
        'from_pretrained("me/calm-model")',
    ):
        assert wanted in card.content, wanted


def test_the_card_of_an_adapter_says_what_it_stands_on(preferences: Path) -> None:
    card = ModelCard(make_card(preferences / "seed-0/adapter" / TRAINED, "me/adapter"))
    assert card.data.library_name == "peft"
    assert "sparring merge" in card.text
    assert "AutoPeftModelForCausalLM" in card.text


def test_the_card_of_a_start_that_arms_share_has_its_rewards(toy: Path) -> None:
    (checkpoint,) = (toy / "seed-0/shared").glob("sft-target-*/checkpoint")
    card = ModelCard(make_card(checkpoint, "me/toy"))
    evaluation = read_json(toy / "results.json")["arms"]["sft"]["seeds"]["0"]["evaluations"][0]
    scores = {one.metric_type: one for one in card.data.eval_results}
    assert scores["mean reward"].metric_value == pytest.approx(evaluation["mean"], abs=1e-4)
    assert scores["mean reward"].dataset_split == "test"
    assert f"{evaluation['num']} tasks of split test, greedy" in card.text
    assert "license" not in card.data.to_dict()


def test_a_model_of_no_run_has_a_card_without_scores(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    card = ModelCard(make_card(tmp_path / "model", "mine"))
    assert "was not evaluated in its run" in card.text
    assert card.data.eval_results is None


def test_a_base_on_the_hub_is_named(preferences: Path, tmp_path: Path) -> None:
    """By the name that the adapter itself gives, where no run tells."""
    import shutil

    shutil.copytree(preferences / "seed-0/adapter" / TRAINED, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "some/model"}))
    card = ModelCard(make_card(tmp_path / "adapter", "me/adapter"))
    assert card.data.base_model == "some/model"
    assert "sparring merge" not in card.text


@pytest.mark.parametrize("method", [*PAPERS, "coevolving_agents_and_tasks", "sft"])
def test_citations_name_the_papers_and_sparring(method: str) -> None:
    *papers, own = citations(method, "1.2.3")
    assert len(papers) == {"coevolving_agents_and_tasks": 2, "sft": 0}.get(method, 1)
    assert "version = {1.2.3}" in own
    assert all(entry.count("{") == entry.count("}") for entry in (*papers, own))


# ── Without a network ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_login_nothing_is_tried(
    preferences: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, out, errors = called(["push", str(preferences / "seed-0/full" / TRAINED), "me/calm"], capsys)
    assert (code, out) == (2, "")
    assert errors == "sparring: push: nobody is logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.\n"


def test_a_hub_that_is_out_of_reach_is_one_message_without_the_token(
    preferences: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    code, out, errors = called(["push", str(preferences / "seed-0/full" / TRAINED), "me/calm"], capsys)
    assert (code, out) == (1, "")
    assert errors.startswith("sparring: push: the Hub can't be reached, or refuses: ")
    assert "--dry_run" in errors and TOKEN not in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("not a name!", "is no repository's name"), ("a/b/c", "is no repository's name")],
)
def test_a_name_that_the_hub_would_refuse(
    preferences: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    errors = called(["push", str(preferences / "seed-0/full" / TRAINED), name, "--dry_run"], capsys)[2]
    assert message in errors


def test_what_is_no_model_is_refused(preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, preferences):
        code, _, errors = called(["push", str(folder), "me/calm", "--dry_run", "--out", str(tmp_path / "o")], capsys)
        assert code == 2 and "push:" in errors and "holds no" in errors
