"""A trained checkpoint has the dtype in which its base is stored, in whatever dtype it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from sparring.core.progress import SilentProgress
from sparring.models.loading import ModelConfig, load_model
from sparring.models.merge import merge
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict

PREFERENCES = str(Path(__file__).parents[2] / "examples/preferences.jsonl")
TRAINED = "seed-0/prefer/round-1/train-target/checkpoint"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in bfloat16."""
    folder = tmp_path_factory.mktemp("base") / "model"
    model, tokenizer = load_model(ModelConfig(path="sparring-worlds", device="cpu", dtype="float32"))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(base: Path, out: Path, **sections: Any) -> Path:
    """Take one optimizer step, and return the checkpoint."""
    values = {
        "name": "trial",
        "method": "prefer",
        "prefer": {"path": PREFERENCES, "held_out": 0.0},
        "model": {"path": str(base), "device": "cpu"},
        "chat": {"max_context": 128},
        "dpo": {"epochs": 1, "batch_size": 64, "lr": 1e-3},
    }
    merged = {**values, **{key: {**values.get(key, {}), **value} for key, value in sections.items()}}
    run_recipe(recipe_from_dict(merged), out, SilentProgress(), with_report=False)
    return out / TRAINED


def dtypes(folder: Path) -> set[str]:
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("autocast", ["auto", "off"])
def test_all_weights_are_saved_in_the_bases_dtype(base: Path, tmp_path: Path, dtype: str, autocast: str) -> None:
    checkpoint = trained(base, tmp_path, model={"dtype": dtype}, dpo={"autocast": autocast})
    assert dtypes(checkpoint) == {"BF16"}
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "bfloat16"
    back, start = (AutoModelForCausalLM.from_pretrained(folder) for folder in (checkpoint, base))
    assert back.dtype == torch.bfloat16
    assert any(not one.equal(other) for one, other in zip(back.parameters(), start.parameters(), strict=True))


def test_an_adapter_is_saved_as_it_was_trained_and_merged_in_the_bases_dtype(base: Path, tmp_path: Path) -> None:
    """In single precision, as PEFT has it: it is small, and its training goes on from the file without loss."""
    pytest.importorskip("peft")
    checkpoint = trained(base, tmp_path / "run", lora={"rank": 2})
    assert dtypes(checkpoint) == {"F32"}
    merge(checkpoint, tmp_path / "merged")
    assert dtypes(tmp_path / "merged") == {"BF16"}
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
