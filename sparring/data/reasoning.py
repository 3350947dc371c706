"""Which part of a model's text is its answer, and which is the reasoning before it: told by the markers around it."""

from __future__ import annotations

MARKERS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "<longcat_think>": "</longcat_think>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|channel>": "<channel|>",
}
"""What opens reasoning → what closes it, as well-known families spell them."""
SPELLINGS = frozenset(MARKERS) | frozenset(MARKERS.values())
"""All markers, opening and closing."""


def answer_in(text: str, *, is_open: bool = False) -> str:
    """Return what follows the reasoning in a model's text; nothing where the text ends inside the reasoning.

    Args:
        text: all that the model wrote.
        is_open: the prompt has opened the reasoning, so the text begins inside it.
    """
    end = _end_of_last_closer(text)
    if is_open and not end:
        return ""
    answer = text[end:].strip()
    return "" if answer.startswith(tuple(MARKERS)) else answer


def has_reasoning(text: str) -> bool:
    """Say whether reasoning ends in the text."""
    return _end_of_last_closer(text) > 0


def left_open(text: str) -> str | None:
    """Return the marker of the reasoning that the text ends in; none: it ends outside."""
    position, opener = max((text.rfind(opener), opener) for opener in MARKERS)
    return opener if position >= _end_of_last_closer(text) and position >= 0 else None


def first_marker(text: str) -> int:
    """Return where the first marker stands; without any, the text's length."""
    return min((text.index(one) for one in SPELLINGS if one in text), default=len(text))


def _end_of_last_closer(text: str) -> int:
    return max((text.rindex(one) + len(one) for one in MARKERS.values() if one in text), default=0)
