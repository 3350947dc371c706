"""Sparring trains language-model agents on their own near misses.

The names below are the library's public face. Each is imported when it is first used, so that `import sparring` loads
neither torch nor transformers. Functions that share their module's name are reached through it:
`from sparring.rollout import rollout`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.chat import Chat, ChatConfig, Dialogue
    from sparring.completions import OpenAIConfig
    from sparring.envs.base import Benchmark, Env, EnvConfig, EnvStep, load_benchmark, select_tasks
    from sparring.envs.pool import EnvPool
    from sparring.errors import ConfigError, DataError, EnvFault, ModelError, SparringError, TrainingError
    from sparring.evaluate import Summary, paired_difference, summarise
    from sparring.pairs import PairConfig, expert_pairs, failure_pairs, target_pairs
    from sparring.policies.base import Episode, Policy, Reply
    from sparring.policies.local import LocalPolicy, ModelConfig, load_model
    from sparring.policies.openai import OpenAIPolicy
    from sparring.policies.scripted import RandomPolicy, ReplayPolicy, ScriptedPolicy
    from sparring.rollout import EpisodeSpec, RolloutConfig
    from sparring.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "Chat",
    "ChatConfig",
    "ConfigError",
    "DataError",
    "Dialogue",
    "Env",
    "EnvConfig",
    "EnvFault",
    "EnvPool",
    "EnvStep",
    "Episode",
    "EpisodeSpec",
    "LocalPolicy",
    "ModelConfig",
    "ModelError",
    "OpenAIConfig",
    "OpenAIPolicy",
    "PairConfig",
    "PairKind",
    "Policy",
    "PreferencePair",
    "RandomPolicy",
    "ReplayPolicy",
    "Reply",
    "RolloutConfig",
    "ScriptedPolicy",
    "SparringError",
    "StopReason",
    "Summary",
    "Task",
    "TrainingError",
    "Trajectory",
    "Turn",
    "expert_pairs",
    "failure_pairs",
    "load_benchmark",
    "load_model",
    "paired_difference",
    "select_tasks",
    "summarise",
    "target_pairs",
]

_HOMES: Mapping[str, tuple[str, ...]] = {
    "chat": ("Chat", "ChatConfig", "Dialogue"),
    "completions": ("OpenAIConfig",),
    "envs.base": ("Benchmark", "Env", "EnvConfig", "EnvStep", "load_benchmark", "select_tasks"),
    "envs.pool": ("EnvPool",),
    "errors": ("ConfigError", "DataError", "EnvFault", "ModelError", "SparringError", "TrainingError"),
    "evaluate": ("Summary", "paired_difference", "summarise"),
    "pairs": ("PairConfig", "expert_pairs", "failure_pairs", "target_pairs"),
    "policies.base": ("Episode", "Policy", "Reply"),
    "policies.local": ("LocalPolicy", "ModelConfig", "load_model"),
    "policies.openai": ("OpenAIPolicy",),
    "policies.scripted": ("RandomPolicy", "ReplayPolicy", "ScriptedPolicy"),
    "rollout": ("EpisodeSpec", "RolloutConfig"),
    "types": ("PairKind", "PreferencePair", "StopReason", "Task", "Trajectory", "Turn"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"sparring.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not, beside what is there already."""
    return sorted({*globals(), *__all__})
