"""A merged folder is the base with the adapter in it: transformers alone loads it, with the adapter's log-probs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparring.core.errors import ConfigError, ModelError
from sparring.models import lora
from sparring.models.adapter_folders import WEIGHTS
from sparring.models.loading import load_model, save_model
from sparring.models.lora import LoraConfig
from sparring.models.merge import merge
from tests.models.test_adapter_folders import change, rewrite
from tests.models.test_lora import KINDS, stir
from tests.policies.architectures import tiny
from tests.test_cli import called
from tests.tiny_models import tiny_tokenizer

IDS = torch.tensor([[5 * place % 90 for place in range(1, 24)]])


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits[0].float().log_softmax(-1)


def saved(folder: Path, kind: str = "qwen3", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Save a base, and an adapter that names it; return the model with the adapter in it."""
    tokenizer = tiny_tokenizer()
    model = tiny(kind, len(tokenizer), **changes).to(dtype)
    save_model(model, tokenizer, folder / "base")
    loaded, _ = load_model(str(folder / "base"))
    lora.attach(loaded, "target", LoraConfig(rank=3, alpha=4.5), 1)
    stir(loaded, "target", 2)
    lora.save(loaded, "target", folder / "adapter", str(folder / "base"), tokenizer)
    return loaded


def dtypes(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_the_adapters(kind, tmp_path):
    if kind in ("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h"):
        pytest.skip("transformers does not read back the infinity in its own config")
    model = saved(tmp_path, kind)
    merge(tmp_path / "adapter", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert not (tmp_path / "out" / "adapter_config.json").exists() and not lora.has_adapters(merged)
    torch.testing.assert_close(logprobs(merged), logprobs(model), rtol=0, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    assert (logprobs(base) - logprobs(model)).abs().max() > 0.01
    assert dtypes(tmp_path / "out") == dtypes(tmp_path / "base")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_transformers_loads_it_where_there_is_no_peft(tmp_path):
    saved(tmp_path)
    merge(tmp_path / "adapter", tmp_path / "out")
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"AutoTokenizer.from_pretrained({str(tmp_path / 'out')!r})\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Qwen3ForCausalLM" in done.stdout, done.stderr


@pytest.mark.parametrize("is_tied", [True, False])
def test_embeddings_stay_as_they_are(tmp_path, is_tied):
    saved(tmp_path, tie_word_embeddings=is_tied)
    merge(tmp_path / "adapter", tmp_path / "out")
    assert ("lm_head.weight" in dtypes(tmp_path / "out")) is not is_tied
    base, out = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("base", "out"))
    for one, other in ((base.model.embed_tokens, out.model.embed_tokens), (base.lm_head, out.lm_head)):
        assert torch.equal(one.weight, other.weight)
    assert (out.lm_head.weight is out.model.embed_tokens.weight) is is_tied


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_the_stored_dtype_is_kept_and_the_sum_is_rounded_once(tmp_path, dtype, name):
    model = saved(tmp_path, dtype=dtype)
    merge(tmp_path / "adapter", tmp_path / "out")
    assert set(dtypes(tmp_path / "out").values()) == {name}
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype)
    wanted = lora.weight_of(model.float().model.layers[1].mlp.down_proj).to(dtype)
    assert torch.equal(merged.model.layers[1].mlp.down_proj.weight, wanted)


def test_another_base_may_be_named_and_a_value_head_goes_along(tmp_path):
    model = saved(tmp_path)
    (tmp_path / "base").rename(tmp_path / "moved")
    (tmp_path / "adapter" / "value_head.safetensors").write_bytes(b"a head")
    with pytest.raises(ModelError, match="--base"):
        merge(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(tmp_path / "adapter", tmp_path / "out", str(tmp_path / "moved"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logprobs(merged), logprobs(model), rtol=0, atol=1e-4)
    assert (tmp_path / "out" / "value_head.safetensors").read_bytes() == b"a head"


def test_the_bases_tokenizer_serves_where_the_adapter_has_none(tmp_path):
    saved(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "adapter" / name).unlink(missing_ok=True)
    merge(tmp_path / "adapter", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_what_can_not_be_merged_is_refused_and_nothing_is_written(tmp_path):
    saved(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="there: exists already"):
        merge(tmp_path / "adapter", tmp_path / "there")
    shutil.copytree(tmp_path / "adapter", tmp_path / "endless")
    rewrite(tmp_path / "endless", lambda tensors: [t.fill_(3e38) for t in tensors.values()])
    with pytest.raises(ModelError, match="is not finite once it is merged"):
        merge(tmp_path / "endless", tmp_path / "out")
    shutil.copytree(tmp_path / "base", tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(ModelError, match="quantised weights"):
        merge(tmp_path / "adapter", tmp_path / "out", str(tmp_path / "packed"))
    assert not (tmp_path / "out").exists()


def test_the_command_merges_and_prints_the_folder(tmp_path, capsys):
    saved(tmp_path)
    code, out, _ = called(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")], capsys)
    assert code == 0 and out.strip() == str(tmp_path / "out")
    load_model(str(tmp_path / "out"))
    code, _, err = called(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")], capsys)
    assert code == 2 and "exists already" in err


@pytest.mark.parametrize("what", ["gone", "rank", "pickle", "base"])
def test_the_command_refuses_in_one_line(tmp_path, capsys, what):
    saved(tmp_path)
    if what == "gone":
        shutil.rmtree(tmp_path / "adapter")
    if what == "rank":
        change(tmp_path / "adapter", r=0)
    if what == "pickle":
        (tmp_path / "adapter" / WEIGHTS).rename(tmp_path / "adapter" / "adapter_model.bin")
    if what == "base":
        change(tmp_path / "adapter", base_model_name_or_path="sparring-worlds")
    capsys.readouterr()
    code, out, err = called(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")], capsys)
    assert code == 2 and not out and err.startswith("sparring: adapter: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
