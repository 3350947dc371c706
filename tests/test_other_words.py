"""What the options of other trainers are here: every key that an answer names exists, and no word is a key already."""

from __future__ import annotations

import dataclasses

import pytest

from sparring.core.errors import ConfigError
from sparring.core.other_words import MEANINGS, TRAINING, meant_by
from sparring.runs.config import Config
from sparring.runs.recipe_files import recipe_from_dict


def keys_of_a_config() -> set[str]:
    config = Config()
    sections = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    return {
        f"{name}.{key.name}"
        for name, section in sections.items()
        if dataclasses.is_dataclass(section)
        for key in dataclasses.fields(section)
    }


def test_every_key_that_an_answer_names_exists() -> None:
    known = keys_of_a_config()
    for word, meaning in MEANINGS.items():
        assert meaning.keys or meaning.note, word
        for key in meaning.keys:
            for full in [f"{section}{key}" for section in TRAINING] if key[0] == "." else [key]:
                assert full in known, (word, full)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("dpo", "learning_rate", r"unknown key 'dpo\.learning_rate'\. Here it is dpo\.lr\.$"),
        ("sft", "gradient_accumulation_steps", r"Here it is sft\.batch_size\..* no accumulation to set\.$"),
        ("lora", "r", r"Here it is lora\.rank\. Without a rank all weights are trained\.$"),
        ("rollout", "num_generations", r"Here it is grpo\.num_per_task or rollout\.num_per_task\."),
        ("model", "LEARNING-RATE", r"Here it is sft\.lr, dpo\.lr or rl\.lr\.$"),
        ("run", "resume_from_checkpoint", r"A run that was stopped goes on with the same command\.$"),
    ],
)
def test_a_recipe_with_another_trainers_word_gets_the_right_key(section: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict({"method": "eto", section: {key: 1}})


def test_words_of_no_trainer_have_no_answer() -> None:
    assert meant_by("lrr", "dpo") is None
