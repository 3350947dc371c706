"""Sparring trains language-model agents on their own near misses.

The names below are the library's public face. Each is imported when it is first used, so that `import sparring` loads
neither torch nor transformers. docs/architecture.md has the rooms that the other names live in.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.analysis.statistics import Summary, paired_difference, summarise
    from sparring.core.errors import ConfigError, DataError, EnvFault, ModelError, SparringError, TrainingError
    from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn
    from sparring.data.chat import Chat, ChatConfig, Dialogue
    from sparring.data.pairs import PairConfig, expert_pairs, failure_pairs, target_pairs
    from sparring.envs.base import Benchmark, Env, EnvConfig, EnvStep, load_benchmark, select_tasks
    from sparring.envs.pool import EnvPool
    from sparring.methods.base import Agent, Session
    from sparring.methods.partners import PartnerKind
    from sparring.methods.table import Method
    from sparring.models.loading import ModelConfig, load_model
    from sparring.policies.base import Episode, Policy, Reply
    from sparring.policies.completions import OpenAIConfig
    from sparring.policies.local.policy import LocalPolicy
    from sparring.policies.openai import OpenAIPolicy
    from sparring.policies.scripted import RandomPolicy, ReplayPolicy, ScriptedPolicy
    from sparring.rollouts.episodes import EpisodeSpec
    from sparring.rollouts.loop import RolloutConfig
    from sparring.runs.library import Evaluation, RunResult, evaluate, load_run, train

__version__ = "0.2.0"

__all__ = [
    "Agent",
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
    "Evaluation",
    "LocalPolicy",
    "Method",
    "ModelConfig",
    "ModelError",
    "OpenAIConfig",
    "OpenAIPolicy",
    "PairConfig",
    "PairKind",
    "PartnerKind",
    "Policy",
    "PreferencePair",
    "RandomPolicy",
    "ReplayPolicy",
    "Reply",
    "RolloutConfig",
    "RunResult",
    "ScriptedPolicy",
    "Session",
    "SparringError",
    "StopReason",
    "Summary",
    "Task",
    "TrainingError",
    "Trajectory",
    "Turn",
    "evaluate",
    "expert_pairs",
    "failure_pairs",
    "load_benchmark",
    "load_model",
    "load_run",
    "paired_difference",
    "select_tasks",
    "summarise",
    "target_pairs",
    "train",
]

_HOMES: Mapping[str, tuple[str, ...]] = {
    "analysis.statistics": ("Summary", "paired_difference", "summarise"),
    "core.errors": ("ConfigError", "DataError", "EnvFault", "ModelError", "SparringError", "TrainingError"),
    "core.types": ("PairKind", "PreferencePair", "StopReason", "Task", "Trajectory", "Turn"),
    "data.chat": ("Chat", "ChatConfig", "Dialogue"),
    "data.pairs": ("PairConfig", "expert_pairs", "failure_pairs", "target_pairs"),
    "envs.base": ("Benchmark", "Env", "EnvConfig", "EnvStep", "load_benchmark", "select_tasks"),
    "envs.pool": ("EnvPool",),
    "methods.base": ("Agent", "Session"),
    "methods.partners": ("PartnerKind",),
    "methods.table": ("Method",),
    "models.loading": ("ModelConfig", "load_model"),
    "policies.base": ("Episode", "Policy", "Reply"),
    "policies.completions": ("OpenAIConfig",),
    "policies.local.policy": ("LocalPolicy",),
    "policies.openai": ("OpenAIPolicy",),
    "policies.scripted": ("RandomPolicy", "ReplayPolicy", "ScriptedPolicy"),
    "rollouts.loop": ("EpisodeSpec", "RolloutConfig"),
    "runs.library": ("Evaluation", "RunResult", "evaluate", "load_run", "train"),
}


if not TYPE_CHECKING:  # a type checker that saw this would take any misspelt name

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
