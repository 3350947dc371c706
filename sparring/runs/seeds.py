"""Digests of what a phase depends on, and seeds that are derived from what they are for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from sparring.core.convert import decisive


def digest(*parts: Any) -> str:
    """Hash JSON-like values (dataclasses included) to twelve hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: Any) -> int:
    """Derive a 31-bit seed from what it is for."""
    return int(digest(*parts), 16) % 2**31


def _plain(value: Any) -> Any:
    assert dataclasses.is_dataclass(value) and not isinstance(value, type), f"can't hash {value!r}"
    return decisive(value)
