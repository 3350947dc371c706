"""Every error that a user can meet, in one tree.

    SparringError
    ├── ConfigError       a recipe, an option or a run folder's config is wrong          (also a ValueError)
    ├── DataError         a data file is missing, torn or malformed                      (also a ValueError)
    ├── ModelError        a model folder lacks something that is needed                  (also a ValueError)
    ├── TrainingError     training can't go on: a loss that is not finite, no pairs
    └── EnvFault          infrastructure failed: a dead or silent env process or model server; never a reward

Each message names the offending thing and the remedy. The command line prints it alone, without a traceback, and exits
with 2 for `ConfigError`, `DataError` and `ModelError`, with 1 for the others.
"""


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


class EnvFault(SparringError):
    """Infrastructure failed: an env process or a model server died, fell silent or broke its protocol."""
