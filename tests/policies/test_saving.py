"""A trained model's folder: in the dtype it came in, savable whatever its generation config says, tried beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ModelError
from sparring.engines import checkpoint
from sparring.engines.learner import LocalLearner, make_optimizer, prepare
from sparring.learning.objectives import SFTObjective
from sparring.learning.trainer import Start, TrainConfig, compute_of, fit
from sparring.models.folders import check_folder
from sparring.models.loading import ModelConfig, load_model, save_model
from sparring.models.saving import check_savable
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training_toys import lone_groups


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float32], ids=["bfloat16", "float16", "float32"])
def folder(request, tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer)).to(request.param), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def in_single(folder: Path):
    return load_model(ModelConfig(path=str(folder), dtype="float32"))


def test_a_trained_model_keeps_the_dtype_it_came_in(folder, tmp_path):
    came = check_folder(folder, trusts_code=False)
    model, tokenizer = in_single(folder)
    prepare(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    save_model(model, tokenizer, tmp_path / "trained")
    assert check_folder(tmp_path / "trained", trusts_code=False) == came
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "saving leaves the model as it is"
    saved = json.loads((tmp_path / "trained/config.json").read_text())["dtype"]
    assert saved == {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[came.dtype]
    again, _ = in_single(tmp_path / "trained")
    expected = model.lm_head.weight.to(getattr(torch, saved)).float()
    assert torch.equal(again.lm_head.weight, expected)


def test_what_does_not_fit_into_half_precision_stays_single(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer)).to(torch.float16), tokenizer, tmp_path / "model")
    model, tokenizer = in_single(tmp_path / "model")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    save_model(model, tokenizer, tmp_path / "trained")
    assert check_folder(tmp_path / "trained", trusts_code=False).dtype == "F32"


def test_small_steps_are_not_lost_in_a_rounded_checkpoint(tmp_path):
    """A policy gradient's steps are smaller than bfloat16 can tell; the next round goes on from the weights beside."""
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer)).to(torch.bfloat16), tokenizer, tmp_path / "model")
    model, tokenizer = in_single(tmp_path / "model")
    config = TrainConfig(lr=1e-6, epochs=1, batch_size=4, warmup_ratio=0)
    learner = LocalLearner(model, tokenizer)
    fit(learner, lone_groups(4), SFTObjective(), config, Start(seed=0, state_dir=tmp_path / "state"))
    learner.publish(tmp_path / "trained", moments=tmp_path / "moments")
    rounded, _ = in_single(tmp_path / "trained")
    is_lost = rounded.lm_head.weight == in_single(tmp_path / "model")[0].lm_head.weight
    assert is_lost.float().mean() > 0.9 and not torch.equal(rounded.lm_head.weight, model.lm_head.weight)
    parameters = checkpoint.trainable(rounded)
    optimizer = make_optimizer(rounded, parameters, compute_of(config, 1.0))
    checkpoint.load_moments(tmp_path / "moments", parameters, optimizer)
    for ours, theirs in zip(rounded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert set(optimizer.state[ours]) == {"step", "exp_avg", "exp_avg_sq"}


def test_an_invalid_generation_config_is_saved_as_it_came(folder, tmp_path):
    """transformers refuses to save it, which used to be found out after training."""
    config = {"eos_token_id": 2, "transformers_version": "5.5.0", "temperature": 0.6, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(config))
    model, tokenizer = in_single(folder)
    check_savable(model, tokenizer, str(folder))
    save_model(model, tokenizer, tmp_path / "trained")
    saved = json.loads((tmp_path / "trained/generation_config.json").read_text())
    assert saved["eos_token_id"] == 2 and saved["temperature"] == 0.6
    in_single(tmp_path / "trained")


def test_what_cant_be_saved_is_named_before_training(folder):
    model, tokenizer = in_single(folder)
    model.config.num_beams = 3
    with pytest.raises(ModelError, match=r"a trained .* could not be saved: .*num_beams"):
        check_savable(model, tokenizer, str(folder))


def test_a_model_without_a_generation_config_is_saved(folder, tmp_path):
    model, tokenizer = in_single(folder)
    model.generation_config = None
    check_savable(model, tokenizer, str(folder))
    save_model(model, tokenizer, tmp_path / "trained")
    assert load_file(tmp_path / "trained/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert model.generation_config is None
