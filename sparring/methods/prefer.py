"""Preference learning from a file: pairs that somebody else ranked, without playing. DPO and its variants of `loss.*`.

Source: arXiv 2305.18290 (DPO); the losses are those of the other methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.core.convert import check_values
from sparring.core.ranges import Place, ShareBelowOne
from sparring.methods.base import Agent, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferConfig:
    """Preferences out of files (docs/preferences.md has their columns)."""

    path: Place | None = None
    """JSONL or Parquet file of preferences: `chosen` and `rejected`, with or without `prompt`."""
    messages: Place | None = None
    """JSONL or Parquet file of conversations, which are cloned first (`sft.*`); without `path` that is all."""
    held_out: ShareBelowOne = 0.1
    """Share of the prompts of each file that are not trained on; agents are judged on them."""
    held_out_path: Place | None = None
    """File of preferences to judge on, in place of a share of `path`."""
    start: Literal["base", "chosen"] = "base"
    """What preference learning starts from: the base model (after `messages`), or the base model once it has cloned the
    chosen sides, too."""

    def __post_init__(self) -> None:
        """Refuse a start from sides that are not there."""
        check_values(self)
        if self.path is None and (self.start == "chosen" or self.held_out_path):
            raise ValueError("path: name the file of preferences whose chosen sides are cloned or that is judged on")


def prefer(session: Session) -> Agent:
    """Prefer what is preferred, from the base model or from what it cloned; judge before and after on held-out prompts.

    With conversations alone it is supervised fine-tuning on them, judged by their likelihood.
    """
    data, target = session.preferences(), session.base("target")
    is_cloned = session.config.prefer.start == "chosen"
    chosen = {pair.chosen.id: pair.chosen for pair in data.pairs} if is_cloned else {}
    cloned = [*data.conversations, *chosen.values()]

    if not data.pairs:
        session.judge(target, 0)
        target = session.imitate("target", extra=cloned, round_number=1)
    else:
        if cloned:
            target = session.imitate("target", extra=cloned)
        session.judge(target, 0)
        target = session.prefer(target, data.pairs, 1)
    session.judge(target, 1)
    return target
