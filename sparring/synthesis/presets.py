"""Values of a curriculum under one name: `synthesis.preset` says which of them lie beneath a recipe's own keys.

    ours     nothing: the defaults stand
    paper    what the paper does in the place of our additions: one try of the query by the agent, failures with a
             positive reward kept, no replay, null policies, probes or near duplicates; the hard cut; a pool that only
             grows. The gate against evaluation tasks stays: it is no option.

Source: arXiv 2604.15840.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Mapping[str, Any]]
"""Section → key → value."""

PAPER: Values = {
    "synthesis": {
        "preset": "paper",
        "kind": "language-model",
        "guidance": "flags",
        "every": 10,
        "warmup": 0,
        "fresh_weight": 1.0,
        "clone_solutions": False,
    },
    "signals": {
        "kinds": ("forgetting", "boundary", "rare"),
        "cut": 0.5,
        "window": 10,
        "boundary": "cut",
        "rare_share": 0.05,
    },
    "validation": {"checks": ("query",), "num_query_tries": 1, "query_agent": "target", "keep_partial": True},
    "pool": {"solved_above": 1.0, "hopeless_below": 0.0, "max_synthetic_share": 0.999},
}

PRESETS: Mapping[str, Values] = {"ours": {}, "paper": PAPER}
"""What `synthesis.preset` may name."""
