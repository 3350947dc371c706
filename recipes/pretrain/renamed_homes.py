"""Walks through invented households in, the same walks with other names out, made of pieces of the whole vocabulary.

What a walk's request names (people, titles, tags, folders, mail domains) is replaced throughout, word by word, by words
of tokens drawn from the tokenizer: a token that no request ever had is one that a small model can't copy. It costs no
engine, so a walk may be renamed several times.

    python recipes/pretrain/renamed_homes.py --walks runs/pretrain/invented_homes --tokenizer runs/pretrain/stage-6 \\
        --out runs/pretrain/renamed_homes --num-per-walk 2 --seed 0
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from tokenizer import read_walks
from transformers import AutoTokenizer

WORD = re.compile(r"[A-Za-z]{3,}")
QUOTED = re.compile(r'"([^"]*)"')
MOST_COMMON = 0.03
"""A word that more requests have than this share of them is the task's, not a name."""
SHARE_RENAMED = 0.8
"""Share of a walk's names that are replaced."""


def pieces(tokenizer: Path) -> tuple[list[str], list[str]]:
    """Return the vocabulary's words, which follow a space, and its pieces of words; lower-case letters alone."""
    vocabulary = AutoTokenizer.from_pretrained(tokenizer).get_vocab()
    words = {token[1:] for token in vocabulary if token.startswith("Ġ")}
    inner = {token for token in vocabulary if not token.startswith("Ġ")}
    kept = [sorted(t for t in found if re.fullmatch(r"[a-z]{2,9}", t)) for found in (words, inner)]
    return kept[0], kept[1]


def invent(draw: Random, words: Sequence[str], inner: Sequence[str]) -> str:
    """Draw a word of the vocabulary, or one made of two or three of its pieces."""
    if draw.random() < 0.3:
        return draw.choice(words)
    first = draw.choice(words if draw.random() < 0.5 else inner)
    return first + "".join(draw.choice(inner) for _ in range(draw.choice((1, 1, 2))))


def request(walk: Mapping) -> str:
    """Return who asks and what for: the first observation, without the words that all of them end in."""
    return walk["turns"][0]["observation"].rpartition("\n\n")[0]


def named(walk: Mapping) -> set[str]:
    """Return the words of a request that may be names, in lower case; of an errand, which quotes the docs, few may."""
    text = request(walk)
    if walk["walk"] == "errand":
        supervisor, _, errand = text.partition("\n\n")
        text = " ".join([supervisor, *QUOTED.findall(errand)])
    return {word.lower() for word in WORD.findall(text)}


def fixed_words(walks: Sequence[Mapping]) -> set[str]:
    """Return what is no name: the words of many requests."""
    counts = Counter(word for walk in walks for word in named(walk))
    return {word for word, count in counts.items() if count > MOST_COMMON * len(walks)}


def rename(walk: Mapping, new: Mapping[str, str]) -> dict:
    """Replace words throughout a walk, in the case that each has where it stands."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        found = new.get(word.lower())
        if found is None:
            return word
        return found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found

    turns = [{key: WORD.sub(other, text) for key, text in turn.items()} for turn in walk["turns"]]
    return {**walk, "turns": turns}


def walks(source: Sequence[Mapping], tokenizer: Path, num_per_walk: int, seed: int) -> Iterator[dict]:
    """Yield each walk so many times, renamed anew each time."""
    draw, fixed = Random(seed), fixed_words(source)
    words, inner = pieces(tokenizer)
    for walk in source:
        code = {word.lower() for turn in walk["turns"] for word in re.findall(r"[.(]([a-z_]+)", turn["action"])}
        kept = fixed | {part for name in code for part in name.split("_")}  # APIs and their arguments stay
        names = sorted(named(walk) - kept)
        for _ in range(num_per_walk):
            new: dict[str, str] = {}
            for name in (name for name in names if draw.random() < SHARE_RENAMED):
                while (made := invent(draw, words, inner)) in fixed or made in new.values():
                    pass
                new[name] = made
            yield rename(walk, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walks", type=Path, required=True, help="folder of the walks of invented_homes.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the model that will read them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-per-walk", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    num = 0
    with (args.out / f"walks-{args.seed}.jsonl").open("w", encoding="utf-8") as file:
        for walk in walks(list(read_walks(args.walks)), args.tokenizer, args.num_per_walk, args.seed):
            file.write(json.dumps(walk, ensure_ascii=False) + "\n")
            num += 1
    print(f"{num} walks: {args.out}")


if __name__ == "__main__":
    main()
