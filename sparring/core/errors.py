"""Every error that a user can meet, in one tree.

    SparringError
    ├── ConfigError       a recipe, an option or a run folder's config is wrong          (also a ValueError)
    ├── DataError         a data file is missing, torn or malformed                      (also a ValueError)
    ├── ModelError        a model folder lacks something that is needed                  (also a ValueError)
    ├── TrainingError     training can't go on: a loss that is not finite, no pairs
    ├── ClusterError      a cluster that envs run on is gone; the run goes on when it is back
    └── EnvFault          infrastructure failed: a dead or silent env process or model server; never a reward

Each message names the offending thing and the remedy. The command line prints it alone, without a traceback, and exits
with 2 for `ConfigError`, `DataError` and `ModelError`, with 1 for the others. Values are shown as `quote` returns them,
which bounds their length.
"""

from typing import Any

QUOTED = 80
"""Most characters of a value that a message quotes."""
MAX_BITS = 256
"""Most bits of a whole number that a message shows."""


def quote(value: Any, *, bare: bool = False) -> str:
    """Return a value as a message may show it: in quotes where it is text, cut where it is long.

    Args:
        value: text, a number, or anything else that has a `repr`.
        bare: leave out the quotes.
    """
    if isinstance(value, str) and len(value) > QUOTED:
        value = f"{value[:QUOTED]}…"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:  # `repr` refuses thousands of digits
        return f"of {value.bit_length()} bits"
    text = repr(value)
    text = text[1:-1] if bare and isinstance(value, str) else text
    return text if len(text) <= 2 * QUOTED else f"{text[:QUOTED]}…"


class SparringError(Exception):
    """Root of the tree."""


class ConfigError(SparringError, ValueError):
    """A recipe, an option or a run folder's config is wrong."""


class DataError(SparringError, ValueError):
    """A data file is missing, torn or malformed."""


class ModelError(SparringError, ValueError):
    """A model folder or tokenizer lacks something that is needed."""


class TrainingError(SparringError):
    """Training can't go on."""


class ClusterError(SparringError):
    """A cluster is gone, and all that ran on it: the run ends, and goes on with the same command."""


class EnvFault(SparringError):
    """Infrastructure failed: an env process or a model server died, fell silent or broke its protocol."""
