"""Train the bundled tokenizer on the walks: byte-level BPE with a ChatML template, saved as a Hugging Face folder.

The simulator's text is boilerplate around names. The pre-tokeniser keeps the commonest boilerplate whole, so that a
room costs a third fewer tokens, and splits everything else into words, so that a name is the same tokens wherever it
stands and can be copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BOILERPLATE = (
    r"^(?:user|assistant|system)\n",
    r"This room is called the",
    r"This outside location is called the",
    r"\. In it, you see: \n\tthe agent\n\ta substance called air",
    r"\. Here you see: \n\tthe agent\n\ta substance called air",
    r"\nYou also see:",
    r"\n\tA door to the",
    r" ?\n\t(?:an?|the)(?: substance called)?(?= )",
    r" \((?:that is open|that is closed|containing nothing)\)",
    r"\. (?:On|In) the(?= )",
    r", which is (?:turned off|turned on|deactivated|activated)\.",
    r"\. The(?= )",
    r" door is (?:closed|open)\.",
    r" is: nothing\.",
    r", currently reading a temperature of",
    r" degrees celsius",
    r"The door is already open\.",
    r"You move to the",
    r"You move the",
    r"open door to",
    r"go to",
    r"pick up",
    r"look around",
    r"focus on",
    r" in inventory",
    r"Your task is to",
    r" First, focus on the thing\. Then, move it to the",
    r" substance called",
    r"Ambiguous request: Please enter the number for the action you intended \(or blank to cancel\):",
    r"No known action matches that input\.",
)
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read_walks(folder: Path) -> Iterator[dict]:
    """Yield the walks of a folder, file by file; a torn last line is skipped."""
    for path in sorted(folder.glob("walks-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                print(f"{path}: skipped a torn line")


def train_tokenizer(walks_folder: Path, folder: Path, vocab_size: int) -> None:
    """Train on the walks' observations and actions and save `folder` for `AutoTokenizer.from_pretrained`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex("|".join((*BOILERPLATE, WORDS))), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=120,
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        for walk in read_walks(walks_folder):
            for turn in walk["turns"]:
                yield f"user\n{turn['observation']}"
                yield f"assistant\n{turn['action']}"

    tokenizer.train_from_iterator(texts(), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
