"""Text of worlds, models and files, made fit to be stored and tokenized, or to be shown on a terminal."""

from __future__ import annotations

import re

_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal or turns the direction of text around, line ends and tabs left out; and lone surrogates."""


def encodable(text: str) -> str:
    """Return the text with U+FFFD in the place of lone surrogates, which no encoding has; pairs are joined."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def printable(text: str) -> str:
    """Return the text with its control characters as pictures (ESC is ␛), or as their numbers where there is none."""
    return text if text.isprintable() else _HARMFUL.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"\\u{code:04x}"
