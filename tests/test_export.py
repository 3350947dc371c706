"""A run's pairs and trajectories go out, other libraries read them, and they come back as they were."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import read_journal, read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn
from sparring.data.action_formats import ActionFormat
from sparring.data.batches import groups_from_pairs
from sparring.data.chat import Chat, ChatConfig, Dialogue
from sparring.data.conversations import completion_row, conversation_row, preference_row
from sparring.data.preferences import read_conversations, read_pairs
from sparring.data.tables import read_rows, write_rows
from sparring.engines.scoring import Forward
from sparring.learning.objectives import LossConfig, PreferenceObjective
from sparring.rollouts.demonstrations import read_demonstrations
from sparring.runs.export import Selection, export
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.test_cli import called
from tests.tiny_models import CHATML, tiny_tokenizer, toy_recipe
from tests.toy_world import ToyWorld
from tests.training_toys import qwen

ALL = Selection()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ETO in the toy world."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(toy_recipe(folder), arms=["eto"])
    run_recipe(recipe, folder / "run", SilentProgress(), with_report=False)
    return folder / "run"


def exported(run: Path, folder: Path, format: Any, selection: Selection = ALL) -> list[dict[str, Any]]:
    (path,) = export(run, folder / f"{format}.jsonl", format, selection)
    return read_jsonl(path)


def test_pairs_go_out_with_what_was_trained_on(run: Path, tmp_path: Path) -> None:
    rows = exported(run, tmp_path, "trl-preference")
    records = read_journal(run / "seed-0/eto/round-1/train-target/pairs.jsonl")
    assert [(row["kind"], row["chosen_id"], row["rejected_id"]) for row in rows] == [
        (one["kind"], one["chosen"], one["rejected"]) for one in records
    ]
    experts = {one.id: one for one in read_trajectories(run / "experts.jsonl")}
    for row, record in zip(rows, records, strict=True):
        expert = experts[row["chosen_id"]]
        assert row["prompt"] == [{"role": "user", "content": expert.turns[0].observation}]
        assert [one["content"] for one in row["chosen"][0::2]] == [turn.action for turn in expert.turns]
        assert [one["content"] for one in row["chosen"][1::2]] == [turn.observation for turn in expert.turns[1:]]
        assert len(row["rejected"]) == 2 * record["rejected_turns"] - 1
        for side in ("chosen", "rejected"):
            assert row[f"{side}_message_mask"] == [int(one["role"] == "assistant") for one in row[side]]
        assert (row["dpo_weight"], row["sft_weight"], row["weight"]) == (1.0, 0.0, 1.0) or row["sft_weight"] == 0.5
        assert (row["arm"], row["seed"], row["round"], row["trained_agent"]) == ("eto", 0, 1, "target")


def test_trajectories_go_out_without_those_on_held_out_tasks(run: Path, tmp_path: Path) -> None:
    rows = exported(run, tmp_path, "messages")
    assert {row["agent"] for row in rows} == {"expert", "target"}
    assert not any("evaluate" in row["id"] for row in rows)
    for row in rows:
        assert row["message_mask"] == [int(one["role"] == "assistant") for one in row["messages"]]
        assert max(row["turn_rewards"]) == row["reward"]
    everything = exported(run, tmp_path / "all", "messages", Selection(held_out=True))
    assert sum("evaluate" in row["id"] for row in everything) == 4  # two tasks, before the round and after
    best = exported(run, tmp_path / "best", "trl-sft", Selection(min_reward=1.0))
    assert best and all(row["reward"] == 1 for row in best)
    assert exported(run, tmp_path / "late", "messages", Selection(rounds=(1,))) == [
        row for row in rows if row["agent"] == "target"
    ]


def test_demonstrations_come_back_from_every_shape(run: Path, tmp_path: Path) -> None:
    tasks, wanted = ToyWorld(size=3).tasks("train"), read_trajectories(run / "experts.jsonl")
    for format in ("messages", "trl-sft"):
        exported(run, tmp_path, format)
        found = read_demonstrations(tmp_path / f"{format}.jsonl", tasks, "action")
        assert sorted(found, key=lambda one: one.id) == sorted(wanted, key=lambda one: one.id)
    exported(run, tmp_path, "trl-preference")
    by_id = {one.id: one for one in wanted}
    for found in read_demonstrations(tmp_path / "trl-preference.jsonl", tasks, "action"):
        assert [turn.action for turn in found.turns] == [turn.action for turn in by_id[found.id].turns]


def test_pairs_come_back_as_the_same_tokens(run: Path, tmp_path: Path) -> None:
    """Of a chosen side, that is: random bytes that a random model sampled are spelled in more than one way."""
    exported(run, tmp_path, "trl-preference")
    chat = Chat(tiny_tokenizer(), ChatConfig(format="action", instruction="", max_context=512), instruction="")
    experts = {one.id: one for one in read_trajectories(run / "experts.jsonl")}
    rows = read_jsonl(tmp_path / "trl-preference.jsonl")
    for row, pair in zip(rows, read_pairs(tmp_path / "trl-preference.jsonl"), strict=True):
        assert (pair.kind, pair.weight) == (PairKind(row["kind"]), 1.0)
        assert chat.encode(pair.chosen) == chat.encode(experts[row["chosen_id"]])
        assert pair.rejected_turns == (len(row["rejected"]) + 1) // 2


def turn(observation: str, thought: str, action: str, reward: float) -> Turn:
    text = f"Thought: {thought}\nAction: {action}"
    return Turn(observation=observation, text=text, action=action, reward=reward)


def episode(name: str, *turns: Turn, num_given: int = 0) -> Trajectory:
    return Trajectory(
        id=name,
        task=Task(id="walk/1", kind="walk"),
        agent="expert",
        turns=turns,
        final_observation="There.",
        reward=turns[-1].reward,
        stop=StopReason.DONE,
        num_given=num_given,
    )


def test_the_worlds_words_are_told_from_what_stood_around_them(tmp_path: Path) -> None:
    shown = episode("shown", turn("An oak.", "left it is", "go left", 1.0))
    played = episode("played", turn("A well.", "right,\nI think", "go right", 0.5), turn("A barn.", "dig", "dig", 1.0))
    other = dataclasses.replace(played, id="other", turns=(played.turns[0], turn("A barn.", "no", "wait", 0.5)))
    dialogue = Dialogue(ChatConfig(num_examples=1), instruction="Walk.", examples=[shown])
    (first,) = {conversation_row(dialogue, played)["messages"][0]["content"]}
    assert first.startswith("Walk.\n\nAnswer with one thought")
    others = [
        Dialogue(ChatConfig(num_examples=num, system=system), instruction="Walk.", examples=[shown])
        for num, system in ((0, None), (0, "Be brief."), (0, "Be brief. {instruction}"), (1, "Be brief. {instruction}"))
    ]
    for row_of, dialogue_of in product((conversation_row, completion_row), (dialogue, *others)):
        write_rows(tmp_path / "shown.jsonl", [row_of(dialogue_of, played)])
        (back,) = read_demonstrations(tmp_path / "shown.jsonl", [played.task], "react")
        assert [(t.observation, t.text, t.reward) for t in back.turns] == [
            (t.observation, t.text, t.reward) for t in played.turns
        ]
    given = [dataclasses.replace(one, num_given=1) for one in (played, other)]
    pair = PreferencePair(
        kind=PairKind.PIVOT, chosen=given[0], rejected=given[1], chosen_turns=2, rejected_turns=2, weight=0.25
    )
    row = preference_row(dialogue, pair, (0.5, 0.5))
    assert [len(row[name]) for name in ("prompt", "chosen", "rejected")] == [5, 1, 1]
    write_rows(tmp_path / "pairs.jsonl", [row])
    (back,) = read_pairs(tmp_path / "pairs.jsonl")
    assert (back.kind, back.weight, back.chosen.num_given, back.rejected.num_given) == (PairKind.PIVOT, 0.25, 2, 2)
    write_rows(tmp_path / "given.jsonl", [completion_row(dialogue, given[0])])
    (back,) = read_conversations(tmp_path / "given.jsonl")
    assert (len(back.turns), back.num_given) == (3, 2)


# ── Other libraries ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_datasets_reads_every_shape(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for format in ("trl-preference", "trl-sft", "messages"):
        rows = exported(run, tmp_path, format)
        path = str(tmp_path / f"{format}.jsonl")
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.to_list() == rows
    for path in export(run, tmp_path / "parquet", "parquet", ALL):
        loaded = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert loaded.to_list() == read_rows(path)
        assert len(loaded) == len(read_rows(path)) > 0
    assert read_pairs(tmp_path / "parquet/pairs.parquet") == read_pairs(tmp_path / "trl-preference.jsonl")


def tokenizer_of(template: str) -> Any:
    """The tiny tokenizer with another template."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.pad_token, tokenizer.chat_template = "<|endoftext|>", template
    return tokenizer


def trl_trainer(rows: list[dict[str, Any]], folder: Path, template: str, **options: Any) -> Any:
    """TRL's trainer on rows, its policy another model than its reference."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    config = trl.DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=len(rows),
        max_length=None,
        max_steps=1,
        beta=0.1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return trl.DPOTrainer(
        model=qwen(1, vocab_size=420),
        ref_model=qwen(0, vocab_size=420),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer_of(template),
    )


def our_chat(template: str) -> Chat:
    return Chat(tokenizer_of(template), ChatConfig(format="code", instruction="", max_context=2048), instruction="")


def our_loss(pairs: list[PreferencePair], template: str) -> float:
    import torch

    chat = our_chat(template)
    groups = groups_from_pairs(pairs, chat.encode)
    nodes = [node for group in groups for node in group.nodes]
    with torch.no_grad():
        logprobs, reference = (Forward(qwen(seed, vocab_size=420), max_tokens=4096)(nodes) for seed in (1, 0))
        weights = {f"{name}_dpo": 1.0 for name in ("expert", "failure", "pivot", "given")}
        weights |= {name.replace("dpo", "sft"): 0.0 for name in weights}
        loss, _ = PreferenceObjective(config=LossConfig(beta=0.1, **weights))(groups, logprobs, reference)
    return float(loss) / len(pairs)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_trains_on_an_export(run: Path, tmp_path: Path) -> None:
    rows = exported(run, tmp_path, "trl-preference")[:4]
    trainer = trl_trainer(rows, tmp_path, CHATML)
    before = {name: one.clone() for name, one in trainer.model.named_parameters()}
    assert trainer.train().global_step == 1
    assert any(not one.equal(before[name]) for name, one in trainer.model.named_parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trls_loss_on_an_export_is_ours_where_each_side_is_one_answer(tmp_path: Path) -> None:
    """TRL counts all that follows the prompt: observations between answers, and what a template puts after the end of a
    turn. Here there is neither, and turns that both sides were given stand in the prompt."""
    chat = ChatConfig(format="code", instruction="Walk.")
    played = episode("a", turn("A well.", "", "go right", 0.5), turn("A barn.", "", "press green", 1.0), num_given=1)
    others = [
        dataclasses.replace(played, id=text, turns=(played.turns[0], turn("A barn.", "", text, 0.5)))
        for text in ("press red", "look at the machine", "white")
    ]
    rows = [
        preference_row(
            Dialogue(chat, instruction=""),
            PreferencePair(kind=PairKind.PIVOT, chosen=played, rejected=one, chosen_turns=2, rejected_turns=2),
            (1.0, 0.0),
        )
        for one in others
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    ends_with_turn = CHATML.replace("<|im_end|>\n", "<|im_end|>")
    trainer = trl_trainer(rows, tmp_path, ends_with_turn)
    trainer.model.eval()
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(trainer.model, batch).item()
    assert theirs == pytest.approx(our_loss(pairs, ends_with_turn), rel=1e-5)
    assert abs(theirs - 0.6931) > 0.01
    (encoded,) = trl_trainer(rows[:1], tmp_path, CHATML).train_dataset
    ours = our_chat(CHATML).encode(pairs[0].chosen)
    assert encoded["prompt_ids"] + encoded["chosen_ids"] == [*ours.ids, *tiny_tokenizer().encode("\n")]


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_export_says_what_it_wrote_and_what_is_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), str(tmp_path / "out.jsonl.gz")]
    code, out, _ = called(words, capsys)
    num = len(read_rows(tmp_path / "out.jsonl.gz"))
    assert (code, out.split()[:2]) == (0, [str(num), "rows:"])
    assert called(words, capsys)[2].endswith("exists already. Choose another place, or delete it.\n")
    for extra, message in (
        (["--arms", "etoo"], "--arms: the run has no 'etoo'. Did you mean 'eto'?"),
        (["--rounds", "7"], "--rounds: the run has no 7."),
        (["--agents", "partner"], "holds no pairs of what was asked for"),
    ):
        code, out, errors = called(["export", str(run), str(tmp_path / "none.jsonl"), *extra], capsys)
        assert (code, out) == (2, "") and message in errors
    assert "is no run's folder" in called(["export", str(tmp_path), str(tmp_path / "none.jsonl")], capsys)[2]
    assert not (tmp_path / "none.jsonl").exists()


def test_parquet_without_pyarrow_says_how_to_get_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for make in (lambda: export(run, tmp_path / "x", "parquet", ALL), lambda: read_rows(tmp_path / "x.parquet")):
        with pytest.raises(ConfigError, match="pip install pyarrow"):
            make()
    assert not (tmp_path / "x").exists()


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet: can't be read as Parquet"):
        read_rows(tmp_path / "bad.parquet")


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


ASKED, YES, NO = said("user", "Well?"), said("assistant", "Yes."), said("assistant", "No.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, r"2: rejected: missing"),
        ({"chosen": "b", "rejected": "c"}, r"2: prompt: missing, and chosen is text"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, r"2: rejected: is the same as chosen"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, r"2: prompt: expected a list of at least one"),
        (
            {"prompt": [YES], "chosen": "b", "rejected": "c"},
            r"2: prompt\[0\]\.role: expected 'user'",
        ),
        ({"prompt": [ASKED, YES], "chosen": "b", "rejected": "c"}, r"2: prompt: must end with a user's message"),
        ({"prompt": [ASKED], "chosen": [], "rejected": [NO]}, r"2: chosen: expected a list of at"),
        ({"chosen": [ASKED, YES], "rejected": [said("user", "Hm?"), NO]}, r"2: rejected: begins with another prompt"),
        ({"chosen": [ASKED], "rejected": [ASKED, NO]}, r"2: chosen: no answer of the assistant's"),
        ({"chosen": [ASKED, said("tool", "1")], "rejected": [ASKED, NO]}, r"2: chosen\[1\]\.role: 'tool' is not among"),
        (
            {"chosen": [ASKED, said("assistant", None)], "rejected": [ASKED, NO]},
            r"2: chosen\[1\]\.content: expected",
        ),
        ({"chosen": ["x"], "rejected": [ASKED, NO]}, r"2: chosen\[0\]: expected a message"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": -1}, r"2: weight: expected a number from 0 on"),
        (
            {"prompt": [ASKED], "chosen": [YES], "rejected": [NO], "chosen_message_mask": [0]},
            r"2: chosen_message_mask: answers may be left out at the beginning alone",
        ),
    ],
)
def test_a_bad_preference_is_named_by_file_line_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"pairs\.jsonl:{message}"):
        read_pairs(path)


def test_a_preference_may_be_written_in_several_ways(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    system = said("system", "Be brief.")
    rows = [
        {"prompt": "Well?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [ASKED], "chosen": [YES], "rejected": [NO]},
        {"prompt": "Well?", "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"chosen": [ASKED, YES], "rejected": [ASKED, NO], "score_chosen": 7.5},
    ]
    write_rows(path, rows)
    first, *rest = read_pairs(path)
    assert all(one == first for one in rest)
    assert (first.kind, first.chosen.turns[0].text, first.chosen_turns) == (PairKind.GIVEN, "Yes.", 1)
    write_rows(path, [{"chosen": [system, ASKED, YES, ASKED, YES], "rejected": [system, ASKED, YES, ASKED, NO]}])
    (pair,) = read_pairs(path)
    assert pair.chosen.turns[0].observation == "Be brief.\n\nWell?"
    assert (pair.chosen.num_given, pair.rejected.num_given) == (1, 1)


def test_a_conversation_that_is_malformed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    for row, message in (
        ({"text": "x"}, "1: messages: missing"),
        ({"messages": [ASKED, ASKED]}, r"1: messages\[1\]\.role: expected 'assistant', found 'user'"),
        ({"messages": "x"}, "1: messages: expected a list"),
        ({"prompt": "a", "completion": 3}, "1: completion: expected text or a list of messages, found 3"),
    ):
        write_rows(path, [row])
        with pytest.raises(DataError, match=rf"chats\.jsonl:{message}"):
            read_conversations(path)
    write_rows(path, [{"task_id": "x", "messages": [ASKED, YES]}])
    with pytest.raises(DataError, match=r"chats\.jsonl:1: task_id: no training task is called 'x'"):
        read_demonstrations(path, ToyWorld(size=3).tasks("train"), "action")
    assert ActionFormat(name="code").parse("Yes.") == "Yes."
