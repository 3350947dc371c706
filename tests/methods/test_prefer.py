"""Preferences out of files, without a world: what is trained on, what is held out, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.analysis.preferences import summarise
from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import read_journal, read_json
from sparring.core.progress import SilentProgress
from sparring.core.types import PairKind
from sparring.data.chat import Chat, ChatConfig
from sparring.data.preferences import held_out_tasks, read_pairs, read_preferences
from sparring.data.tables import write_rows
from sparring.models.loading import ModelConfig, load_model
from sparring.report.preferences import preference_table, rows
from sparring.report.view import read_results
from sparring.runs.export import Selection, export
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe, recipe_from_dict
from tests.test_cli import called

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples/preferences.toml"
EXACT = {"dpo.autocast": "off"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's run."""
    folder = tmp_path_factory.mktemp("preferences") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        run_recipe(load_recipe(RECIPE, EXACT), folder, SilentProgress())
    return folder


def recipe(**values: Any) -> Any:
    return recipe_from_dict({"name": "own", "method": "prefer", **values})


# ── The example ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_example_learns_what_is_preferred_on_prompts_it_has_not_seen(run: Path) -> None:
    results = read_json(run / "results.json")
    assert (results["num_eval_tasks"], results["num_demonstrations"]) == (0, 0)
    for arm in results["arms"].values():
        before, after = arm["seeds"]["0"]["preferences"]
        assert before["num_pairs"] == after["num_pairs"] == 10
        assert before["means"]["margin"]["mean"] == 0
        assert after["means"]["reward_accuracy"]["mean"] >= 0.9
        assert after["means"]["margin"]["low"] > 1
        assert after["means"]["likelihood_accuracy"]["mean"] >= before["means"]["likelihood_accuracy"]["mean"]
    gain = {name: arm["seeds"]["0"]["preferences"][1]["means"]["chosen_gain"] for name, arm in results["arms"].items()}
    assert gain["likelihood"]["mean"] > gain["dpo"]["mean"]


def test_the_judgements_are_the_models_log_probabilities(run: Path) -> None:
    """With a forward of all logits, of the model as it was saved."""
    import torch

    lines = read_journal(run / "seed-0/dpo/round-1/judge-target/judgements.jsonl")
    pairs = {pair.chosen.task.id: pair for pair in read_pairs(ROOT / "examples/preferences.jsonl")}
    folder = run / "seed-0/dpo/round-1/train-target/checkpoint"
    model, tokenizer = load_model(ModelConfig(path=str(folder), device="cpu", dtype="float32"))
    chat = Chat(tokenizer, ChatConfig(format="code", instruction="", max_context=256), instruction="")
    for line in lines[:3]:
        for side in ("chosen", "rejected"):
            node = chat.encode(getattr(pairs[line["task"]], side))
            (start, end) = node.spans[0]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([node.ids])).logits[0].log_softmax(-1)
            wanted = sum(logits[i - 1, node.ids[i]].item() for i in range(start, end))
            assert line[side] == [pytest.approx(wanted, abs=1e-3), end - start]


def test_terminal_and_report_show_accuracy_and_margin(run: Path) -> None:
    results = read_results(run)
    found = rows(results)
    assert [(row.label, row.when) for row in found][:2] == [("DPO", "before"), ("DPO", "after")]
    assert found[0].cells["reward_accuracy"] == ("–", "")
    assert preference_table(results) is not None
    page = (run / "report.html").read_text()
    assert "accuracy by reward" in page and "of the held-out pairs right" in page
    assert "Mean reward" not in page and "nowhere" not in page.partition('id="setup"')[0]


def test_a_run_keeps_its_data_and_goes_out_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_json(run / "results.json")
    monkeypatch.chdir(tmp_path)  # where the file is not
    assert run_recipe(load_recipe(RECIPE, EXACT), run, SilentProgress(), with_report=False) == before
    (path,) = export(run, tmp_path / "pairs.jsonl", "trl-preference", Selection(arms=("dpo",)))
    trained = read_pairs(path)
    assert len(trained) == 30 and {pair.kind for pair in trained} == {PairKind.GIVEN}
    own = {pair.chosen.id: pair for pair in read_pairs(ROOT / "examples/preferences.jsonl")}
    assert all(pair == own[pair.chosen.id] for pair in trained)


def test_a_checkpoint_is_played_in_a_world_that_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = called(["eval", str(run / "seed-0/dpo/round-1/train-target/checkpoint")], capsys)
    assert (code, out) == (2, "")
    assert errors.startswith("sparring: env.id: this checkpoint's run played no world. Name a recipe of one (--recipe)")


# ── What is held out ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_prompts_are_held_out_whole_whatever_their_order() -> None:
    names = [f"prompt {i}" for i in range(10)]
    assert held_out_tasks(names, 0.25) == held_out_tasks(reversed([*names, *names]), 0.25)
    assert [len(held_out_tasks(names, share)) for share in (0, 0.01, 0.25, 0.99)] == [0, 1, 2, 9]
    assert held_out_tasks(["one"], 0.5) == set()


def test_what_is_judged_is_never_trained_on(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{i % 5}?", "chosen": f"yes {i}", "rejected": "no"} for i in range(20)]
    talks = [{"prompt": f"{i}?", "completion": "yes"} for i in range(10)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "talks.jsonl", talks)
    write_rows(tmp_path / "judged.jsonl", pairs[:1])
    found = read_preferences(tmp_path / "pairs.jsonl", tmp_path / "talks.jsonl", held_out=0.2)
    assert (len(found.pairs), len(found.held_out)) == (16, 4)
    judged = {pair.chosen.task.id for pair in found.held_out}
    assert not judged & {pair.chosen.task.id for pair in found.pairs}
    assert not judged & {one.task.id for one in found.conversations}
    found = read_preferences(tmp_path / "pairs.jsonl", None, held_out=0.2, held_out_path=tmp_path / "judged.jsonl")
    assert (len(found.pairs), len(found.held_out)) == (16, 1)
    with pytest.raises(DataError, match="all of its prompts are held out"):
        read_preferences(tmp_path / "judged.jsonl", None, held_out=0.2, held_out_path=tmp_path / "judged.jsonl")


def test_accuracies_and_margins_on_paper() -> None:
    def line(task: str, chosen: float, rejected: float) -> dict[str, Any]:
        return {"task": task, "chosen": [chosen, 4.0], "rejected": [rejected, 2.0]}

    start = [line("a", -11, -12), line("a", -9, -9), line("b", -5, -4), {"id": "c", "said": [-6.0, 3.0]}]
    now = [line("a", -10, -12), line("a", -9, -9), line("b", -6, -4), {"id": "c", "said": [-3.0, 3.0]}]
    found = summarise(now, start, num_resamples=10)
    assert found["likelihood_accuracy"] == {"a": 0.75, "b": 0.0}
    assert found["reward_accuracy"] == {"a": 0.75, "b": 0.0}
    assert found["margin"] == {"a": 0.5, "b": -1.0}
    assert found["chosen_gain"] == {"a": 0.5, "b": -1.0}
    assert (found["nll"], found["num_pairs"]) == ({"c": 1.0}, 3)
    assert found["means"]["margin"]["mean"] == -0.25


# ── Files of one's own ────────────────────────────────────────────────────────────────────────────────────────────────


def test_conversations_alone_are_cloned_and_judged_by_their_likelihood(tmp_path: Path) -> None:
    talks = [
        {"messages": [{"role": "user", "content": f"Say {w}."}, {"role": "assistant", "content": f"{w}, {w}."}]}
        for w in ("red", "blue", "green", "white", "oak", "well")
    ]
    write_rows(tmp_path / "talks.jsonl.gz", talks)
    own = recipe(
        prefer={"messages": str(tmp_path / "talks.jsonl.gz"), "held_out": 0.3},
        sft={"lr": 1e-4, "epochs": 3, "batch_size": 2},
        chat={"max_context": 64},
    )
    results = run_recipe(own, tmp_path / "run", SilentProgress())
    before, after = results["arms"]["prefer"]["seeds"]["0"]["preferences"]
    assert len(before["nll"]) == 2 and before["num_pairs"] == 0
    assert after["means"]["nll"]["mean"] < before["means"]["nll"]["mean"]
    assert "nats a token on held-out conversations" in (tmp_path / "run/report.html").read_text()


def test_parquet_is_read_as_well(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source = ROOT / "examples/preferences.jsonl"
    write_rows(tmp_path / "pairs.parquet", [json.loads(line) for line in source.read_text().splitlines()])
    assert read_pairs(tmp_path / "pairs.parquet") == read_pairs(source)


def test_weights_of_pairs_multiply_their_losses(tmp_path: Path) -> None:
    import torch

    from sparring.data.batches import groups_from_pairs
    from sparring.engines.scoring import Forward
    from sparring.learning.objectives import LossConfig, PreferenceObjective
    from tests.tiny_models import tiny_tokenizer
    from tests.training_toys import qwen

    texts = [("red?", "yes", "no"), ("blue?", "press blue", "jam")]
    config = LossConfig(given_dpo=1.0, given_sft=0.1)

    def loss(weights: list[float], texts: list[tuple[str, str, str]] = texts) -> float:
        lines = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts]
        write_rows(tmp_path / "pairs.jsonl", [{**a, "weight": w} for a, w in zip(lines, weights, strict=True)])
        chat = Chat(tiny_tokenizer(), ChatConfig(format="code", instruction=""), instruction="")
        groups = groups_from_pairs(read_pairs(tmp_path / "pairs.jsonl"), chat.encode)
        nodes = [node for group in groups for node in group.nodes]
        with torch.no_grad():
            now, start = (Forward(qwen(seed, vocab_size=420), max_tokens=512)(nodes) for seed in (1, 0))
            return PreferenceObjective(config=config)(groups, now, start)[0].item()

    first, second = loss([1.0], texts[:1]), loss([1.0], texts[1:])
    assert loss([1.0, 1.0]) == pytest.approx(first + second, rel=1e-5)
    assert loss([0.5, 3.0]) == pytest.approx(0.5 * first + 3 * second, rel=1e-5)


def test_what_does_not_go_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for values, message in (
        ({}, "prefer.path: names no file"),
        ({"prefer": {"path": "x"}, "env": {"id": "webshop"}}, "env.id: this method plays no world"),
        ({"prefer": {"path": "x"}, "expert": {"path": "y"}}, "expert.path: there is no world"),
        ({"prefer": {"messages": "x", "start": "chosen"}}, "prefer.path: name the file of preferences"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(**values)
    bad = tmp_path / "pairs.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n')
    words = ["run", str(RECIPE), "--out", str(tmp_path / "run"), "--prefer.path", str(bad), "-q"]
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    assert errors == (
        f"sparring: {bad}:2: rejected: missing. A preference has chosen and rejected (docs/preferences.md).\n"
    )
    assert not (tmp_path / "run").exists()
