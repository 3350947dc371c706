"""MySQL's regular expressions on hostile patterns and texts: a plain subset of the syntax, and limits on time.

The package `regex` matches, since it can be told when to stop; it comes with transformers. What it knows beyond MySQL's
syntax (recursion, fuzzy matches, named lists) is refused, and so are counts that would take memory to compile.
"""

from __future__ import annotations

import functools
import math
import re
import time
from typing import Any

from sparring.envs.intercode_sql.values import Refused

MAX_PATTERN = 200
"""Most characters of a pattern."""

MAX_COUNT = 1000
"""Most of the product of a pattern's counts, as in `a{1,20}`."""

MAX_SECONDS = 1.0
"""Most seconds of one match: patterns with repeats in repeats can take for ever."""

_REFUSED = re.compile(r"\(\?(?!:|=|!|i\)|<=|<!)|\\[^\W\ddDwWsSbBAzZntrfv_]|\{(?![\d]+(?:,\d*)?\})")
_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def matches(pattern: str, value: str, *, is_case_sensitive: bool, deadline: float) -> bool:
    """Search a text, until `deadline` on the monotonic clock at the latest.

    Raises:
        Refused: the pattern is not understood, or the search takes too long.
    """
    seconds = min(MAX_SECONDS, deadline - time.monotonic())
    try:
        if seconds > 0:
            return _compiled(pattern, is_case_sensitive).search(value, timeout=seconds) is not None
    except TimeoutError:
        pass
    raise Refused("Timeout exceeded in regular expression match.")


@functools.lru_cache(64)
def _compiled(pattern: str, is_case_sensitive: bool) -> Any:
    import regex

    counts = [max(int(most or least), 1) for least, most in _COUNT.findall(pattern)]
    if len(pattern) > MAX_PATTERN or _REFUSED.search(pattern) or math.prod(counts) > MAX_COUNT:
        raise Refused("a regular expression is not understood, or is too large")
    try:
        return regex.compile(pattern, regex.V0 | (0 if is_case_sensitive else regex.IGNORECASE))
    except (regex.error, RecursionError) as error:
        raise Refused(f"a regular expression is not understood ({error})") from None
