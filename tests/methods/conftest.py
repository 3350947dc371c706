"""Models that runs of adapters begin at; a test file may have fixtures of the same names."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.core.progress import SilentProgress
from sparring.models.loading import save_model
from sparring.runs.recipe import run_recipe
from tests.methods import test_reinforcement_methods
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


@pytest.fixture(scope="module")
def learnt_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows the toy world, so that there are rewards to learn from."""
    run = tmp_path_factory.mktemp("learnt")
    recipe = test_reinforcement_methods.make_recipe(model_folder, "grpo", grpo={"rounds": 1})
    run_recipe(recipe, run, SilentProgress(), with_report=False)
    return (run / "seed-0/grpo/sft-target/checkpoint").resolve()
