"""Model folders from elsewhere: what they can't do. No pickle is opened, no file elsewhere is read, no code is fetched,
and what is refused is refused in one line, soon, and in little memory."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sparring.core.errors import ModelError
from sparring.data.chat import Chat, ChatConfig
from sparring.models.folders import INDEX, check_folder
from sparring.models.loading import end_ids_of, load_model, save_model
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    tokenizer, folder = tiny_tokenizer("chatml"), tmp_path_factory.mktemp("saved") / "model"
    save_model(tiny_model(num_tokens=len(tokenizer)), tokenizer, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def bomb(path: Path) -> Path:
    mark = path.with_name("exploded")
    path.write_bytes(pickle.dumps(Bomb(mark)))
    return mark


def write_index(folder: Path, name: Any, **changes: Any) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "part.safetensors", "lm_head.weight": name}}
    (folder / INDEX).write_text(json.dumps(index | changes))


def refused(folder: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


# ── Where weights come from ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.safetensors.bin", "x.PKL"])
def test_an_index_that_names_a_pickle_is_refused(folder, name):
    mark = bomb(folder / name)
    write_index(folder, name)
    message = refused(folder)
    assert f"{INDEX} of {str(folder)!r} names {name!r}" in message and "pickles never" in message
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "a/../../outside.safetensors", "/tmp/outside.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    write_index(folder, name)
    assert f"names {name!r}, which lies outside of the folder" in refused(folder)


@pytest.mark.parametrize("changes", [{"weight_map": {}}, {"weight_map": "x"}, {"metadata": None}, {"weight_map": None}])
def test_an_index_without_its_parts_is_refused(folder, changes):
    write_index(folder, "part.safetensors", **changes)
    assert f"{INDEX} lacks weight_map or metadata" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "../x.safetensors", 5])
def test_a_config_that_names_other_weights_is_refused(folder, name):
    """transformers follows `transformers_weights`; `adapter_model.bin` there is read as a pickle."""
    mark = bomb(folder / "adapter_model.bin")
    change(folder, transformers_weights=name)
    assert f"config.json of {str(folder)!r} names {str(name)!r}" in refused(folder)
    assert not mark.exists()


def test_pickles_beside_safetensors_are_not_opened(folder):
    marks = [bomb(folder / name) for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pkl")]
    load_model(str(folder))
    assert not any(mark.exists() for mark in marks)


def test_a_pickled_adapter_is_not_opened(folder):
    mark = bomb(folder / "adapter_model.bin")
    config = '{"base_model_name_or_path": "someone/base", "peft_type": "LORA", "r": 8}'
    (folder / "adapter_config.json").write_text(config)
    assert "adapter_model.bin is a pickle and is not opened" in refused(folder)
    assert not mark.exists()


def test_weights_in_shards_are_loaded(folder):
    from safetensors.torch import load_file, save_file

    weights, files = load_file(folder / "model.safetensors"), {}
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(sorted(weights)):
        files[name] = f"model-{number % 2}.safetensors"
    for file in set(files.values()):
        part = {name: weights[name] for name in weights if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    model, _ = load_model(str(folder))
    assert sum(p.numel() for p in model.parameters()) == check_folder(folder, trusts_code=False).num_elements
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors is missing" in refused(folder)


# ── Links and odd files ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_links_that_leave_the_folder_are_refused(folder, name):
    """A private file would otherwise become part of a prompt, and of every checkpoint."""
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert f"{str(folder / name)!r} is a link that leaves the folder" in refused(folder)


def test_links_that_give_nothing_away_are_followed(folder):
    """Within the folder, from a snapshot of the Hub's cache to its blobs, of weights, and to the folder itself."""
    (folder / "chat_template.jinja").rename(folder / "template")
    (folder / "chat_template.jinja").symlink_to("template")
    (folder / "model.safetensors").rename(folder.parent / "large")
    (folder / "model.safetensors").symlink_to(folder.parent / "large")
    (folder.parent / "link").symlink_to(folder)
    load_model(str(folder.parent / "link"))
    load_model(str(hub_snapshot(folder.parent / "cache", folder, "models--a--b")))


def test_what_is_no_ordinary_file_is_refused(folder):
    """A named pipe would block whoever opens it."""
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    os.mkfifo(folder / "special_tokens_map.json")
    assert "is no ordinary file" in refused(folder)
    (folder / "special_tokens_map.json").unlink()
    (folder / "special_tokens_map.json").symlink_to("special_tokens_map.json")
    assert "can't be read" in refused(folder)


def test_a_template_among_further_ones_is_no_link_either(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/other.jinja").symlink_to("/etc/hostname")
    assert "is a link that leaves the folder" in refused(folder)


# ── Configs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6, "layer_types": None}, "says 1000000, but its weight files hold 24 tensors"),
        ({"num_hidden_layers": 10**15, "layer_types": None}, "num_hidden_layers says 1000000000000000"),
        ({"layer_types": ["full_attention"] * 10**5}, "layer_types says 100000"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number above 0, not '0'"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number above 0, not '0'"),
        ({"head_dim": 0}, "head_dim must be a whole number above 0"),
        ({"hidden_size": "32"}, "hidden_size must be a whole number above 0, not '32'"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be a whole number above 0, not '2.5'"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps"),
        ({"hidden_size": 10**12}, "describes a model of"),
        ({"vocab_size": 10**10}, "describes a model of"),
        ({"attention_bias": True, "num_attention_heads": 10**9}, "describes a model of"),
        ({"model_type": "gpt2", "max_position_embeddings": 10**12}, "describes a model of"),
        ({"model_type": "mixtral", "num_local_experts": 10**9}, "describes a model of"),
        ({"num_labels": 10**9}, "num_labels is 1000000000, more than"),
        ({"text_config": 5}, "can't load"),
        ({"model_type": "../x"}, "the model_type '../x', which transformers does not know"),
        ({"dtype": "os"}, "can't load"),
        ({"to_dict": "x"}, "can't load"),
        ({"transformers_version": "5.23.0", "auto_map": "x", "model_type": None}, "the model_type None"),
    ],
)  # fmt: skip
def test_hostile_configs_are_refused_soon_and_in_little_memory(folder, changes, message):
    change(folder, **changes)
    began, before_kb = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in refused(folder)
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 2**19


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "[" * 10**5, '{"hidden_size": NaN}', '{"x": ' + "9" * 5000 + "}", "\x00"]
)
def test_what_is_no_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in refused(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["someone/kernel", {"": "someone/kernel:flash"}])
def test_a_config_that_asks_for_code_from_the_hub_is_refused(folder, key, value):
    """transformers fetches and runs such kernels, whatever `trust_remote_code` says."""
    change(folder, **{key: value})
    assert f"{key} asks for code from elsewhere" in refused(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("tokenizer_config.json", "model_max_length", "x"),
        ("tokenizer_config.json", "eos_token", 5),
        ("tokenizer_config.json", "added_tokens_decoder", {"x": 5}),
        ("tokenizer.json", "added_tokens", 5),
        ("generation_config.json", "eos_token_id", {"a": 1}),
    ],
)
def test_values_of_another_type_are_one_line(folder, file, key, value):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError):
        model, _ = load_model(str(folder))
        end_ids_of(model)


def test_a_pattern_that_takes_for_ever_is_one_line(folder):
    """The tokenizers library gives up after a while, with a panic that is no `Exception`."""
    path = folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": split}))
    chat = Chat(load_model(str(folder))[1], ChatConfig(), instruction="Act.")
    with pytest.raises(ModelError, match="can't split a text of"):
        chat.first("a" * 40 + "!")


# ── The Hub's cache ───────────────────────────────────────────────────────────────────────────────────────────────────


def hub_snapshot(cache: Path, folder: Path, name: str) -> Path:
    """Lay a folder out as the Hub's client does: files as blobs, and a snapshot of links to them."""
    repo, commit = cache / name, "a" * 40
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repo / "blobs" / f"{number:040}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040}")
    return snapshot


def test_a_hub_id_is_checked_like_a_folder(folder, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "can't get 'someone/nothing' from the Hub" in refused("someone/nothing")
    hub_snapshot(cache, folder, "models--someone--good")
    assert load_model("someone/good")[0].config.hidden_size == 32
    mark = bomb(folder / "pytorch_model.bin")
    write_index(folder, "pytorch_model.bin")
    hub_snapshot(cache, folder, "models--someone--bad")
    assert "names 'pytorch_model.bin' as weights" in refused("someone/bad")
    assert not mark.exists()
