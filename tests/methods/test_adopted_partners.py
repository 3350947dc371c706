"""Partners that learnt elsewhere. What must hold:

- the partner starts at the weights that are named, by adapters and in full;
- a run whose named weights were changed meanwhile is refused, and so is what can't play beside the others;
- what a partner does below a reward makes no pairs for the target agent.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError, DataError, ModelError
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.data.pairs import PairConfig, target_pairs
from sparring.runs.recipe import run_recipe
from tests.methods import test_lora_runs
from tests.methods.test_methods import make_recipe
from tests.test_pairs import played

ROLLOUT = {"max_new_tokens": 6, "wave_size": 8, "temperature": 1.0, "num_per_task": 4}


def run(recipe, out: Path) -> Path:
    run_recipe(recipe, out, SilentProgress(), with_report=False)
    return out / "seed-0/coevolving_agents"


@pytest.mark.parametrize("make", [make_recipe, test_lora_runs.preference_recipe])
def test_a_partner_of_another_run_starts_as_it_was_there(model_folder: Path, tmp_path: Path, make) -> None:
    sections = {"loop": {"rounds": 1}, "rollout": ROLLOUT}
    first = run(make(model_folder, "coevolving_agents", **sections), tmp_path / "first")
    partner = tmp_path / "partner"
    shutil.copytree((first / "sft-partner/checkpoint").resolve(), partner)
    recipe = make(model_folder, "coevolving_agents", **sections, partner={"checkpoint": str(partner)})
    second = run(recipe, tmp_path / "second")
    assert not (second / "sft-partner").exists()
    for phase in ("round-1/rollout-partner", "round-1/rollout-target"):
        own, other = (read_trajectories(place / phase / "trajectories.jsonl") for place in (second, first))
        assert own == other, "the same weights, the same draws"
    assert (second / "round-1/train-partner").exists() == (first / "round-1/train-partner").exists()
    changed = next(partner.glob("*.safetensors"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match=r"partner/.*safetensors"):
        run(recipe, tmp_path / "second")


def test_a_partner_that_is_not_of_the_kind_is_refused(model_folder: Path, tmp_path: Path) -> None:
    partner = {"checkpoint": str(model_folder)}
    recipe = test_lora_runs.preference_recipe(model_folder, "coevolving_agents", partner=partner)
    with pytest.raises(ConfigError, match=r"partner\.checkpoint: .* is no adapter"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_phase_in_a_checkpoints_place_is_answered_with_its_checkpoint(model_folder: Path, tmp_path: Path) -> None:
    phase = tmp_path / "train-partner"
    shutil.copytree(model_folder, phase / "checkpoint")
    recipe = make_recipe(model_folder, "coevolving_agents", partner={"checkpoint": str(phase)})
    with pytest.raises(ModelError, match=rf"^partner\.checkpoint: .* Give its checkpoint: '{phase}/checkpoint'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_partner_counts_from_a_reward_on() -> None:
    expert, near, far = (played(*one) for one in (("expert", "t", 1.0, "ab"), ("partner", "t", 0.7, "c"),
                                                  ("partner", "t", 0.5, "d")))  # fmt: skip
    target = played("target", "t", 0.2, "e")
    for least, num in ((0.0, 5), (0.6, 3), (0.8, 1)):
        config = replace(PairConfig(), min_partner_reward=least)
        assert len(target_pairs([expert], [target], [near, far], config)) == num
