"""What a run depends on: one frozen `Config` per arm, the `Recipe` of arms and seeds, and what playing depends on.

The dataclasses live beside their owners; here they are only composed. An *arm* is a method under a name, with a config
of its own: the recipe's base sections, then the arm's, then the command line's, each over the one before, and all over
the preset that the last of them names (`synthesis.preset`), which lies over the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparring.analysis.failures import AnalysisConfig
from sparring.analysis.statistics import EvalConfig
from sparring.core.convert import check_values, to_dict
from sparring.core.errors import ConfigError
from sparring.data.chat import ChatConfig
from sparring.data.late import LateConfig
from sparring.data.pairs import PairConfig
from sparring.data.pivots import PivotConfig
from sparring.engines.config import EngineConfig
from sparring.envs.base import EnvConfig
from sparring.learning.objectives import LossConfig
from sparring.learning.trainer import RlConfig, TrainConfig
from sparring.methods.coevolving_agents import FailConfig
from sparring.methods.grpo import GrpoConfig
from sparring.methods.ipr import IprConfig
from sparring.methods.loop import EtoConfig, LoopConfig
from sparring.methods.partners import PartnerConfig
from sparring.methods.ppo import PpoConfig
from sparring.methods.prefer import PreferConfig
from sparring.methods.rft import RftConfig
from sparring.methods.table import find_method
from sparring.models.loading import ModelConfig
from sparring.models.lora import LoraConfig
from sparring.policies.completions import OpenAIConfig
from sparring.policies.tinker.config import TinkerConfig
from sparring.policies.vllm.config import SamplerConfig, VllmConfig
from sparring.rollouts.demonstrations import ExpertConfig
from sparring.rollouts.loop import RolloutConfig
from sparring.runs.keeping import RunConfig
from sparring.synthesis.asking import LanguageModelConfig
from sparring.synthesis.bootstrap import BootstrapConfig
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.curriculum import SynthesisConfig
from sparring.synthesis.pool import PoolConfig
from sparring.synthesis.signals import SignalConfig

DPO_DEFAULTS = TrainConfig(lr=1e-6, epochs=3, batch_size=32, schedule="constant", warmup_ratio=0.1)
"""The paper's DPO settings where they differ from its SFT settings, which are `TrainConfig`'s own defaults."""
RL_DEFAULTS = RlConfig(lr=1e-6, epochs=1, batch_size=256, schedule="constant", warmup_ratio=0.0)
"""CoEvolve's settings: one step a round over all trajectories of 32 tasks, eight times each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that one arm of a run depends on, besides the seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The base model that every agent starts from."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Train adapters instead of all weights."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Where weights live and are trained."""
    tinker: TinkerConfig = field(default_factory=TinkerConfig)
    """The server, with `engine.kind = "tinker"`."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The world, its tasks and its live envs."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """How turns become tokens."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """Where the expert trajectories come from."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How agents play."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Who draws the agents' actions: the model in this process, or vLLM servers."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """The vLLM servers, with `sampler.kind = "vllm"`."""
    sft: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation of the supervised start, and of RFT."""
    dpo: TrainConfig = DPO_DEFAULTS
    """Optimisation on preference pairs, of both agents."""
    rl: RlConfig = RL_DEFAULTS
    """Optimisation on sampled trajectories (GRPO, PPO), each round anew."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The preference loss and its weights."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """How trajectories become preference pairs."""
    pivot: PivotConfig = field(default_factory=PivotConfig)
    """Pairs that begin where near misses went wrong (ETO, Co-Evolving Agents)."""
    late: LateConfig = field(default_factory=LateConfig)
    """Episodes of the failure agent that begin late in experts' episodes (Co-Evolving Agents)."""
    partner: PartnerConfig = field(default_factory=PartnerConfig)
    """The target agent's partner (Co-Evolving Agents)."""
    fail: FailConfig = field(default_factory=FailConfig)
    """The failure agent's own training set (Co-Evolving Agents)."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The outer loop (ETO, IPR, Co-Evolving Agents)."""
    eto: EtoConfig = field(default_factory=EtoConfig)
    """ETO's loss weights."""
    ipr: IprConfig = field(default_factory=IprConfig)
    """Step-level pairs (IPR)."""
    rft: RftConfig = field(default_factory=RftConfig)
    """Rejection sampling (RFT)."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """Group-relative policy optimisation (GRPO)."""
    ppo: PpoConfig = field(default_factory=PpoConfig)
    """Proximal policy optimisation (PPO)."""
    prefer: PreferConfig = field(default_factory=PreferConfig)
    """Preferences out of files, without a world (`prefer`)."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """Initial tasks from exploration (GRPO, CoEvolve)."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """How often, from what and by whom tasks are made (CoEvolve)."""
    signals: SignalConfig = field(default_factory=SignalConfig)
    """What flags a trajectory (CoEvolve)."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What a new task must pass (CoEvolve)."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """How the pool of tasks grows and shrinks (CoEvolve)."""
    explorer: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """How a language model makes tasks (CoEvolve with `synthesis.kind = "language-model"`)."""
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)
    """The server of that language model; given on the command line, never in a recipe."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation on held-out tasks."""
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    """What is counted among the failures."""
    run: RunConfig = field(default_factory=RunConfig)
    """What a run writes."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayConfig:
    """The part of a config that playing depends on, without training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model that plays."""
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)
    """The server whose model plays with `--policy openai`; no recipe sets this."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The world, its tasks and its live envs."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """How turns become tokens."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """Where the expert trajectories come from: those that are shown as worked examples."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How the model plays."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Who draws the model's actions: the model in this process, or vLLM servers."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """The vLLM servers, with `sampler.kind = "vllm"`."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Which tasks are held out."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A method under a name, with its config."""

    method: str
    """`zero_shot`, `sft`, `rft`, `eto`, `ipr`, `coevolving_agents`, `ppo`, `grpo`, `coevolve`,
    `coevolving_agents_and_tasks`, `prefer`; or one of yours, `package.module:function` (docs/extending.md)."""
    label: str
    """The name that tables and figures show."""
    config: Config

    @property
    def makes_tasks(self) -> bool:
        """Whether the method makes new tasks, which the world must have a part in."""
        return find_method(self.method).makes_tasks and self.config.synthesis.kind != "replay"

    @property
    def learns_from_experts(self) -> bool:
        """Whether it clones experts' episodes."""
        method = find_method(self.method)
        starts_at_base = method.may_start_at_base and self.config.grpo.start == "base"
        return method.trains and method.needs_world and not starts_at_base

    @property
    def needs_experts(self) -> bool:
        """Whether it shows experts' episodes or learns from them."""
        return self.config.chat.num_examples > 0 or self.learns_from_experts

    @property
    def explores(self) -> bool:
        """Whether its first tasks are made by exploring, for which the world must have a part, too."""
        return find_method(self.method).has_initial_tasks and self.config.bootstrap.num > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One thing that a person would run: arms, each with every seed."""

    name: str
    """The run's name, and its folder's below `runs/`."""
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]

    @property
    def needs_experts(self) -> bool:
        """Whether an arm does."""
        return any(arm.needs_experts for arm in self.arms.values())

    def shared_config(self) -> Config:
        """Return the config whose world all arms share.

        Raises:
            ConfigError: two arms differ in their world, so that they could not be compared.
        """
        (first_name, first), *rest = self.arms.items()
        for name, arm in rest:
            for section in ("env", "expert", "eval"):
                if getattr(arm.config, section) != getattr(first.config, section):
                    raise ConfigError(
                        f"arms.{name}: [{section}] differs from arm {first_name!r}. Arms of a recipe share their world "
                        "and its tasks; use two recipes."
                    )
        return first.config

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe as JSON values, in the shape of a recipe file; `recipe_from_dict` reads it."""
        arms = {
            name: {"method": arm.method, "label": arm.label, **to_dict(arm.config)} for name, arm in self.arms.items()
        }
        return {"name": self.name, "seeds": list(self.seeds), "arms": arms}


def check_room(config: Config | PlayConfig, where: str = "") -> None:
    """Refuse a context that no action fits into.

    Raises:
        ConfigError: `rollout.max_new_tokens` is not below `chat.max_context`, so that no episode would have a turn.
    """
    if config.rollout.max_new_tokens >= config.chat.max_context:
        raise ConfigError(
            f"{where}rollout.max_new_tokens: is {config.rollout.max_new_tokens}, and chat.max_context "
            f"{config.chat.max_context}: an action must fit into the context, with what it answers."
        )
