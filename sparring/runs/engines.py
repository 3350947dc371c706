"""The engines of a run: arms with the same model, adapters, prompt and sampler share one, and its live weights."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sparring.policies.factory import Prompt
from sparring.runs.seeds import digest

if TYPE_CHECKING:
    from sparring.core.folder import Run
    from sparring.engines.base import Engine
    from sparring.engines.fsdp.engine import FsdpEngine, Leader
    from sparring.engines.local import FullEngine, LoraEngine
    from sparring.models.lora import LoraConfig
    from sparring.runs.config import Config, PlayConfig
    from sparring.runs.world import World

SERVER_LOG = "vllm.log"
"""In the run's folder: what a vLLM server that is started here writes."""


class Engines:
    """Makes engines as arms ask for them. Use as a context manager: servers end with it."""

    def __init__(self, run: Run, world: World, leader: Leader | None = None) -> None:
        """Args:
        run: whose arms they are for.
        world: what is played.
        leader: of the ranks that engines may use.
        """
        self._run, self._world, self._leader = run, world, leader
        self._engines: dict[str, Engine] = {}

    def of(self, config: Config) -> Engine:
        """Return an arm's engine. Servers that another engine has started end first: one device holds one of them."""
        key = digest(config.model, config.lora, config.engine, config.tinker, config.chat, config.sampler, config.vllm)
        for other, engine in self._engines.items():
            if other != key:
                engine.close()
        if key not in self._engines:
            self._engines[key] = make_engine(config, self._world, self._run, self._leader)
        return self._engines[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self._engines.values():
            engine.close()


def is_served(config: Config) -> bool:
    """Say whether a server draws the agents' actions, so that each episode is answered by itself."""
    return config.sampler.kind == "vllm" or config.engine.kind == "tinker"


def make_engine(config: Config, world: World, run: Run, leader: Leader | None = None) -> Engine:
    """Return the engine that a config asks for, whose agents read what the world says first.

    Args:
        config: of an arm.
        world: what is played.
        run: its folder gets the log of a server that the engine may start.
        leader: of the ranks over which weights are spread, where the config says so.
    """
    from sparring.engines import local

    prompt = Prompt(
        config=config.chat,
        instruction=world.benchmark.instruction,
        examples=world.experts[: config.chat.num_examples],
    )
    if config.engine.kind == "tinker":
        from sparring.engines.tinker.engine import TinkerEngine

        return TinkerEngine(config.model, config.lora, config.tinker, prompt.chat)
    if config.engine.kind == "fsdp":
        engine = _over_ranks(config, prompt, leader)
    else:
        engine = local.make_engine(config.model, config.lora, prompt.chat)
    return sampled_by(config, engine, config.lora, run.folder / SERVER_LOG)


def _over_ranks(config: Config, prompt: Prompt, leader: Leader | None) -> FsdpEngine:
    from sparring.engines.fsdp.engine import FsdpEngine

    assert leader is not None, "the ranks are met first"
    trainings = (config.sft, config.dpo, config.rl)
    return FsdpEngine(
        leader,
        config.model,
        config.lora,
        prompt.chat,
        max_context=config.chat.max_context,
        computes_in_half=all(one.autocast == "auto" for one in trainings),
    )


def make_playing_engine(config: PlayConfig, prompt: Prompt, log_file: Path) -> Engine:
    """Return an engine for playing alone; its model may be an adapter."""
    from sparring.engines.local import FullEngine
    from sparring.models.adapter_folders import is_adapter, read_adapter
    from sparring.models.lora import LoraConfig

    path = config.model.path
    lora = LoraConfig(rank=read_adapter(Path(path)).rank) if is_adapter(path) else LoraConfig()
    return sampled_by(config, FullEngine(config.model, prompt.chat), lora, log_file)


def sampled_by(
    config: Config | PlayConfig, engine: FullEngine | LoraEngine | FsdpEngine, lora: LoraConfig, log_file: Path
) -> Engine:
    """Return an engine whose policies draw where `sampler.kind` says."""
    from sparring.engines.served import ServedEngine, Serving

    if config.sampler.kind == "local":
        return engine
    serving = Serving(
        sampler=config.sampler,
        vllm=config.vllm,
        max_context=config.chat.max_context,
        num_envs=config.env.num_envs,
        log_file=log_file,
    )
    return ServedEngine(engine, config.model, lora, serving)
