"""What agents begin at: an adapter's base, and whether a start can be trained as a config asks. Loads neither torch's
models nor transformers, so that a run is refused, or found finished, within a second.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sparring.core.errors import ConfigError
from sparring.models import lora
from sparring.models.adapter_folders import is_adapter, read_adapter
from sparring.models.folders import check_folder, empty_model
from sparring.models.linear_layers import find_targets
from sparring.models.loading import ModelConfig, resolve_device, resolve_model
from sparring.models.lora import LoraConfig


def base_of(model: ModelConfig) -> ModelConfig:
    """Return the config of an adapter's base model, where a config names an adapter; else the config itself."""
    if not is_adapter(model.path):
        return model
    return replace(model, path=read_adapter(Path(model.path)).base, trust_remote_code=False)


def check_start(model: ModelConfig, config: LoraConfig, *, trains: bool) -> None:
    """Refuse a start that can't be trained as asked, before anything is loaded.

    Args:
        model: what every agent begins at.
        config: how it is trained.
        trains: whether it is trained at all.

    Raises:
        ConfigError: the device is not there; 4 bits where there is no GPU; targets that the model lacks; or an adapter
            that would be trained in full, or under another one.
    """
    lora.quantization(config, resolve_device(model.device))
    base = Path(resolve_model(base_of(model).path, trusts_code=model.trust_remote_code))
    if config.targets and base.is_dir() and not model.trust_remote_code:
        find_targets(empty_model(base, check_folder(base, trusts_code=False), trusts_code=False), config.targets)
    if not trains or not is_adapter(model.path):
        return
    rank = read_adapter(Path(model.path)).rank
    if config.rank is None:
        raise ConfigError(
            f"model.path: {model.path!r} is an adapter. Set lora.rank = {rank} to train it on, or merge it into its "
            "base model (sparring merge) to train all weights."
        )
    if config.rank != rank:
        raise ConfigError(
            f"lora.rank is {config.rank}, and the adapter {model.path!r} has rank {rank}; adapters are not stacked. "
            f"Set lora.rank = {rank} to train it on, or merge it into its base model first (sparring merge)."
        )


def check_adopted(checkpoint: str, model: ModelConfig, config: LoraConfig) -> None:
    """Refuse an agent of another run that can't play and be trained beside the others, before anything is loaded.

    Args:
        checkpoint: its folder.
        model: what the other agents begin at.
        config: how agents are trained.

    Raises:
        ConfigError: it is an adapter where all weights are trained, or the other way round, or one on another base.
    """
    check_start(replace(model, path=checkpoint), config, trains=True)
    if config.rank is None:
        return
    base = base_of(model).path
    if not is_adapter(checkpoint):
        raise ConfigError(
            f"partner.checkpoint: {checkpoint!r} is no adapter, and with lora.rank all agents are adapters on {base}. "
            "Name an adapter on it."
        )
    own = read_adapter(Path(checkpoint)).base
    if Path(own).expanduser().absolute() != Path(base).expanduser().absolute():
        raise ConfigError(
            f"partner.checkpoint: {checkpoint!r} is an adapter on {own!r}, and this run's base is {base!r}."
        )
