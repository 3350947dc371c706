"""A tokenizer's control tokens, and how a text is kept from writing them.

A world's text is data. Control tokens spelled out in it (`<|im_end|>`) are broken up with a word joiner (U+2060): they
read the same, and stay text. Spellings that only the tokenizer turns into a control token (`＜|im_end|＞` under NFKC)
are found by tokenizing. Markers that are no tokens (Llama-2's `[INST]`) are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparring.data.reasoning import SPELLINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAKERS = ("\u2060", " ", "\ufffd")
"""What breaks up a control token, in order of preference: invisible first; others where a normaliser drops that."""
KNOWN_CONTROLS = re.compile(r"[<＜][|｜][^<>＜＞\n]{1,40}[|｜][>＞]|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
"""What control tokens look like in ChatML, Llama, DeepSeek, Mistral and Gemma."""


class ControlTokens:
    """The added tokens that steer a chat: the special ones, those that the template writes, and marks of reasoning."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spelled: str) -> None:
        """`spelled`: the text that the template writes."""
        self._tokenizer = tokenizer
        added = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
        added |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.ids = {
            text: token_id
            for text, token_id in added.items()
            if len(text) > 1
            and not text.isspace()
            and (self._is_special(token_id) or text in spelled or text in SPELLINGS)
        }
        """Text → id."""
        special = {text: id for text, id in self.ids.items() if self._is_special(id) and text not in SPELLINGS}
        self.hidden_ids = frozenset(id for text, id in added.items() if self._is_special(id) and text not in SPELLINGS)
        """Tokens that are no part of what an agent says: the special ones, without marks of reasoning."""
        self._of_worlds, self._of_agents = _Breaker(tokenizer, self.ids), _Breaker(tokenizer, special)

    def break_in_world(self, text: str) -> str:
        """Return a world's text without control tokens."""
        return self._of_worlds(text)

    def break_in_agent(self, text: str) -> str:
        """Return an agent's text without special tokens; it may write marks of reasoning, and call tools."""
        return self._of_agents(text)

    def _is_special(self, token_id: int) -> bool:
        tokenizer = self._tokenizer
        return token_id in tokenizer.all_special_ids or tokenizer.added_tokens_decoder[token_id].special


class _Breaker:
    """Breaks up some tokens of a tokenizer in texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self._ids = frozenset(tokens.values())
        alternatives = sorted(tokens, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, alternatives))) if alternatives else None
        added = tokenizer.added_tokens_decoder
        # Only tokens that are looked for in normalised text can be written in another way than as they are spelled.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._is_normalised = getattr(backend, "normalizer", None) is not None and any(
            id in added and added[id].normalized for id in self._ids
        )

    def __call__(self, text: str) -> str:
        if self._pattern is None or not (self._is_normalised or self._pattern.search(text)):
            return text
        broken = text
        for breaker in BREAKERS:
            broken = self._broken(text, breaker)
            if self._ids.isdisjoint(self._tokenizer.encode(broken, add_special_tokens=False, verbose=False)):
                break
        return broken

    def _broken(self, text: str, breaker: str) -> str:
        """Put a breaker behind the first character of every token that is spelled out or comes of normalising."""
        assert self._pattern is not None
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: f"{found[0][0]}{breaker}{found[0][1:]}", text)
        if not self._is_normalised:
            return text
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = [
            start
            for token_id, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
            if token_id in self._ids and end > start
        ]
        for start in reversed(starts):
            text = f"{text[: start + 1]}{breaker}{text[start + 1 :]}"
        return text


def break_known_controls(text: str) -> str:
    """Break up what looks like a control token of a well-known model, where its tokenizer is not at hand."""
    return KNOWN_CONTROLS.sub(lambda found: f"{found[0][0]}{BREAKERS[0]}{found[0][1:]}", text)
