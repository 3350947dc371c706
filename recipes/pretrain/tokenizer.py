"""Train the bundled tokenizer on the walks: byte-level BPE with a ChatML template, saved as a Hugging Face folder.

The simulator's text is boilerplate around names. The pre-tokeniser keeps the commonest boilerplate whole, so that a
room costs a third fewer tokens, and splits everything else into words, so that a name is the same tokens wherever it
stands and can be copied.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
WORLDS_BOILERPLATE = (
    r" \[SEP\] ",
    r"WebShop \[SEP\] Instruction: \[SEP\] ",
    r"Instruction: \[SEP\] ",
    r"Back to Search",
    r"Page \d \(Total results: ",
    r"Next >",
    r"< Prev",
    r"Description \[SEP\] Features \[SEP\] Reviews \[SEP\] Buy Now",
    r"Thank you for shopping with us!",
    r"Your score \(min 0\.0, max 1\.0\)",
    r"and price lower than",
    r"\.00 dollars",
    r"search\[",
    r"click\[",
    r"P\d{4}",
    r" ?(?:SELECT DISTINCT|SELECT|FROM|WHERE|GROUP BY|ORDER BY|HAVING|JOIN|ON|AND|OR|BETWEEN|DESC|LIMIT|NOT IN|IN) ",
    r" ?(?:EXCEPT|UNION|INTERSECT) SELECT ",
    r" AS T\d",
    r"SHOW TABLES",
    r"information_schema\.columns WHERE table_name = ",
)
"""Of the other worlds. Separators and keywords take the spaces around them, so that a name is the same tokens on a page
and in a click, in a description of a table and in a query. A product's id is a piece of its own."""
TOOLS_BOILERPLATE = (
    r" (?=[\p{L}\p{N}]+[_.@-]\p{L})",
    r" (?=\p{Lu}{2,}\b)",
    r" (?=\p{L}+[\p{Lu}\p{N}])",
    r'",?\n +[\]}]?,?(?:\n +)?[{"]?',
    r',\n +"',
    r'": "?',
)
"""Of tools. A space before what looks like a name of a file, a symbol or an id is a piece of its own, so that the name
is the same tokens in a request, in an answer and between quotes."""
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read_walks(*folders: Path) -> Iterator[dict]:
    """Yield the walks of some folders, file by file; a torn last line is skipped."""
    for path in [path for folder in folders for path in sorted(folder.glob("walks-*.jsonl"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                print(f"{path}: skipped a torn line")


def train_tokenizer(walks_folders: Sequence[Path], folder: Path, vocab_size: int) -> None:
    """Train on the walks' observations and actions and save `folder` for `AutoTokenizer.from_pretrained`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

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

    tokenizer.train_from_iterator(texts(*walks_folders), trainer)
    _save(tokenizer, folder)


def extend_tokenizer(
    init: Path, walks_folders: Sequence[Path], folder: Path, vocab_size: int, whole: Sequence[str] = ()
) -> None:
    """Give a tokenizer further tokens for other worlds' walks and save it to `folder`; those it has keep their ids.

    The further merges come after the old ones, so that text of the old world is cut as before, nearly everywhere.
    Each text of `whole` becomes one token; these come last.
    """
    from tokenizers import AddedToken, Tokenizer

    state = json.loads((init / "tokenizer.json").read_text(encoding="utf-8"))
    split = state["pre_tokenizer"]["pretokenizers"][0]
    known = split["pattern"]["Regex"]
    more = (*(TOOLS_BOILERPLATE if whole else ()), *WORLDS_BOILERPLATE)
    split["pattern"]["Regex"] = "|".join((*(one for one in more if one not in known), known))
    old = Tokenizer.from_str(json.dumps(state))
    between = re.compile("|".join(map(re.escape, sorted(whole, key=len, reverse=True))) or r"(?!)")
    parts = (part for text in texts(*walks_folders) for part in between.split(text))
    counts = Counter(piece for part in parts for piece, _ in old.pre_tokenizer.pre_tokenize_str(part))
    words = [[token.value for token in old.model.tokenize(piece)] for piece in counts]
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for pair in _commonest_pairs(words, list(counts.values())):
        if len(vocabulary) >= vocab_size - len(whole):
            break
        merges.append(list(pair))
        vocabulary.setdefault("".join(pair), len(vocabulary))
    new = Tokenizer.from_str(json.dumps(state))
    new.add_tokens([AddedToken(text, normalized=False) for text in whole])
    _save(new, folder)


def texts(*walks_folders: Path) -> Iterator[str]:
    """Yield the messages of all walks, with their roles."""
    for walk in read_walks(*walks_folders):
        for turn in walk["turns"]:
            yield f"user\n{turn['observation']}"
            yield f"assistant\n{turn['action']}"


def _commonest_pairs(words: list[list[str]], counts: list[int]) -> Iterator[tuple[str, str]]:
    """Merge the commonest pair of neighbours again and again, in place, and yield it: byte-pair encoding."""
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += counts[index]
            where[pair].add(index)
    while pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            return
        for index in where.pop(best):
            for pair in pairwise(words[index]):
                pairs[pair] -= counts[index]
            words[index] = _merged(words[index], best)
            for pair in pairwise(words[index]):
                pairs[pair] += counts[index]
                where[pair].add(index)
        del pairs[best]
        yield best


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
