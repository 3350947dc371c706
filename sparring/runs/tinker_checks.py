"""What a Tinker server can't do is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError
from sparring.methods.table import find_method
from sparring.models.adapter_folders import is_adapter
from sparring.policies.tinker.config import ALPHA

if TYPE_CHECKING:
    from sparring.runs.config import Arm, Config


def check_tinker(arm: Arm, where: str = "") -> None:
    """Refuse settings of an arm that a Tinker server does not have.

    Raises:
        ConfigError: the message begins with `where`, and names the key and the remedy.
    """
    config = arm.config
    if config.engine.kind != "tinker":
        return
    method = find_method(arm.method)
    problems = [*_of_weights(config), *_of_sampling(config, is_on_policy=method.is_on_policy)]
    if arm.method == "ppo":
        problems.append("method: PPO's critic needs a value head, which a Tinker server does not have. Use grpo.")
    if method.trains:
        sections = (
            {"sft": config.sft, "rl": config.rl} if method.is_on_policy else {"sft": config.sft, "dpo": config.dpo}
        )
        for name, train in sections.items():
            for key in ("weight_decay", "router_balance"):
                if getattr(train, key):
                    problems.append(f"{name}.{key}: not with engine.kind tinker (docs/tinker.md). Set it to 0.")
    if problems:
        raise ConfigError(f"{where}{problems[0]}")


def _of_weights(config: Config) -> Iterator[str]:
    lora, path = config.lora, config.model.path
    if lora.rank is None:
        yield "lora.rank: engine.kind tinker trains adapters alone, never all weights. Set it."
    if lora.alpha not in (None, ALPHA):
        yield f"lora.alpha: a Tinker server scales adapters by {ALPHA:g} / rank, whatever is set. Leave it out."
    for key, plain in (("targets", ()), ("dropout", 0.0), ("quantize", "none")):
        if getattr(lora, key) != plain:
            yield f"lora.{key}: is the Tinker server's own affair. Leave it out."
    if is_adapter(path):
        yield f"model.path: {path!r} is an adapter, and a Tinker server takes none. Start from its base."


def _of_sampling(config: Config, *, is_on_policy: bool) -> Iterator[str]:
    if config.sampler.kind != "local":
        yield f"sampler.kind: engine.kind tinker samples on its own server. Leave {config.sampler.kind!r} out."
    if is_on_policy and config.rollout.temperature != 1:
        yield (
            f"rollout.temperature: is {config.rollout.temperature:g}, and a Tinker server gives log-probabilities at "
            "temperature 1 alone, which policy gradient compares with those of sampling. Set it to 1."
        )
