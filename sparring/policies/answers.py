"""What a server's answer says, whatever shape it has: a refusal's code and message, a text, how long to wait."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

MAX_ERROR = 2**16
"""Most bytes of a refusal that are read; what follows is left."""


def error_of(answer: bytes) -> tuple[str, str]:
    """Return code and message of a server's error: `{"error": {…}}`, the object itself, or plain text."""
    text = answer[:MAX_ERROR].decode("utf-8", "replace")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "", text
    if not isinstance(record, dict):
        return "", text
    inner = record.get("error", record)
    if not isinstance(inner, dict):
        return "", str(inner)
    code = next((one for one in (inner.get("code"), inner.get("type")) if isinstance(one, str)), "")
    return code, text_of(inner.get("message")) or text_of(inner.get("detail"))


def text_of(content: Any) -> str:
    """Return what stands in a field for text: text, parts of text, or anything else as JSON."""
    if content is None or content == []:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    return json.dumps(content, ensure_ascii=False)


def retry_after(value: str) -> float:
    """Return the seconds that a Retry-After header asks for (seconds or a date); 0 where it says nothing of use."""
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return wait_s if math.isfinite(wait_s) and wait_s > 0 else 0.0
