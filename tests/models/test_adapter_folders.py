"""Adapter folders from elsewhere: no pickle is opened, no code is fetched or run, no pattern is evaluated; and what is
refused is refused in one line that names file, key and remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparring.core.errors import ModelError
from sparring.models import lora
from sparring.models.adapter_folders import CONFIG, WEIGHTS, check_adapter, is_adapter, read_adapter
from sparring.models.loading import save_model
from sparring.models.lora import LoraConfig
from tests.policies.test_folders import bomb
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    tokenizer, folder = tiny_tokenizer("chatml"), tmp_path_factory.mktemp("saved")
    model: Any = tiny_model(num_tokens=len(tokenizer))
    save_model(model, tokenizer, folder / "base")
    lora.attach(model, "target", LoraConfig(rank=4), 1)
    lora.save(model, "target", folder / "adapter", str(folder / "base"), tokenizer)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved / "adapter", tmp_path / "adapter"))


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | entries))


def rewrite(folder: Path, edit: Any) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path, base: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        check_adapter(folder, base)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def test_a_sound_folder_says_what_it_holds(folder, saved):
    assert is_adapter(folder) and not is_adapter(saved / "base")
    adapter = check_adapter(folder)
    assert adapter.base == str(saved / "base") and (adapter.rank, adapter.alpha, adapter.scale) == (4, 8, 2)
    tensors = load_file(folder / WEIGHTS)
    assert adapter.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert adapter.widths["model.layers.0.mlp.down_proj"] == (64, 32)


# ── Code and pickles ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keeps_weights", [True, False])
def test_a_pickle_is_never_opened(folder, keeps_weights):
    mark = bomb(folder / "adapter_model.bin")
    if keeps_weights:
        check_adapter(folder)
    else:
        (folder / WEIGHTS).unlink()
        assert "adapter_model.bin is a pickle and is not opened" in refused(folder)
    assert not mark.exists()


def test_no_class_of_a_config_is_imported(folder, tmp_path, monkeypatch):
    (tmp_path / "evil_library.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, auto_mapping={"base_model_class": "Evil", "parent_library": "evil_library"})
    check_adapter(folder)
    assert not (tmp_path / "imported").exists()


def test_no_pattern_of_a_config_is_evaluated(folder):
    change(folder, target_modules="(a+)+" * 20 + "$")
    check_adapter(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder, tmp_path):
    outside = tmp_path / "outside.json"
    (folder / CONFIG).rename(outside)
    (folder / CONFIG).symlink_to(outside)
    assert "is a link that leaves the folder" in refused(folder)


# ── What is no plain LoRA ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("use_dora", True),
        ("lora_bias", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1]),
        ("megatron_config", {"a": 1}),
        ("something_new", 1),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "loftq"),
        ("use_rslora", "yes"),
        ("r", 0),
        ("r", -1),
        ("r", 2.5),
        ("r", True),
        ("r", 10**9),
        ("lora_alpha", 0),
        ("lora_alpha", "16"),
        pytest.param("lora_alpha", 10**400, id="huge"),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 1.0),
        ("target_modules", []),
        ("target_modules", None),
        ("target_modules", [1]),
        ("base_model_name_or_path", ["a"]),
    ],
)
def test_it_is_refused_by_its_key(folder, key, value):
    change(folder, **{key: value})
    assert f"adapter_config.json of {str(folder)!r}: {key} is " in refused(folder)


def test_an_adapter_that_peft_makes_with_each_kind_is_told_by_its_key(tmp_path):
    import peft

    for key, value in (("use_dora", True), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 2})):
        made = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **{key: value})  # pyright: ignore
        model: Any = tiny_model("llama")
        peft.get_peft_model(model, made).save_pretrained(tmp_path / key)
        with pytest.raises(ModelError, match=f": {key} is "):
            read_adapter(tmp_path / key)


def test_a_rank_that_is_not_that_of_the_matrices_is_refused(folder):
    change(folder, r=8)
    assert "which are not of rank 8" in refused(folder)


def test_a_tensor_of_another_kind_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}))
    assert "has 'base_model.model.lm_head.weight' (F32), which is no LoRA matrix" in refused(folder)


def test_half_a_layer_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.pop(next(key for key in tensors if ".lora_A." in key)))
    assert "has the matrices A []" in refused(folder)


def test_a_layer_without_its_matrices_is_missed(folder):
    def edit(tensors: dict[str, Any]) -> None:
        for key in [key for key in tensors if "layers.1.self_attn.q_proj" in key]:
            del tensors[key]

    rewrite(folder, edit)
    assert "lacks weights for 'model.layers.1.self_attn.q_proj', which target_modules names" in refused(folder)


def test_a_layer_that_is_not_listed_is_refused(folder):
    change(folder, target_modules=["q_proj"])
    assert "adapter_model.safetensors also has weights for 'model.layers" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": ' * 5000, "null"])
def test_a_broken_config_is_refused(folder, content):
    (folder / CONFIG).write_text(content)
    assert CONFIG in refused(folder)


def test_torn_weights_are_refused(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert WEIGHTS in refused(folder)
    (folder / WEIGHTS).unlink()
    assert "Was it saved in full?" in refused(folder)


def test_weights_that_are_not_finite_are_not_put_on_a_model(folder):
    rewrite(folder, lambda tensors: next(iter(tensors.values())).fill_(torch.nan))
    with pytest.raises(ModelError, match="is not finite"):
        lora.load(tiny_model(num_tokens=len(tiny_tokenizer("chatml"))), "target", folder)  # pyright: ignore


# ── The base ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_adapter_without_its_base_is_refused(folder, tmp_path):
    change(folder, base_model_name_or_path=str(tmp_path / "gone"))
    message = refused(folder)
    assert "there is no folder" in message and "--base" in message
    change(folder, base_model_name_or_path=None)
    assert "base_model_name_or_path is None" in refused(folder)


def test_another_base_may_be_named(folder, saved):
    change(folder, base_model_name_or_path=None)
    assert check_adapter(folder, str(saved / "base")).base == str(saved / "base")


def test_an_adapter_on_an_adapter_is_refused(folder, saved):
    change(folder, base_model_name_or_path=str(saved / "adapter"))
    assert f"sparring merge {saved / 'adapter'} OUT" in refused(folder)


@pytest.mark.parametrize("base", ["sparring-worlds", "llama", "wider"])
def test_an_adapter_of_another_base_is_refused_before_that_is_built(folder, tmp_path, base):
    tokenizer = tiny_tokenizer("chatml")
    if base != "sparring-worlds":
        model: Any = tiny_model("llama" if base == "llama" else "qwen3", num_tokens=len(tokenizer))
        if base == "wider":
            model.config.intermediate_size = 96
            model = type(model)(model.config)
        save_model(model, tokenizer, tmp_path / "base")
        base = str(tmp_path / "base")
    message = refused(folder, base)
    assert "takes" in message and "It belongs to another base model" in message


def test_a_layer_that_the_base_lacks_is_refused(folder):
    def edit(tensors: dict[str, Any]) -> None:
        for key in [key for key in tensors if "layers.1." in key]:
            tensors[key.replace("layers.1.", "layers.7.")] = tensors.pop(key)

    rewrite(folder, edit)
    assert "no linear layer of the base's decoder" in refused(folder)
