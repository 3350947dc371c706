"""A recipe's TOML and the command line's overrides come in, one frozen `Config` per arm and the `Recipe` go out.

The dataclasses live beside their owners; here they are only composed. An *arm* is a method under a name, with a config
of its own: the recipe's base sections, then the arm's, then the command line's, each over the one before.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.analysis.failures import AnalysisConfig
from sparring.analysis.statistics import EvalConfig
from sparring.core.convert import check_values, convert, from_dict, suggest, to_dict
from sparring.core.errors import ConfigError, DataError, quote
from sparring.core.journal import read_json
from sparring.core.ranges import Name, Seed
from sparring.data.chat import ChatConfig
from sparring.data.pairs import PairConfig
from sparring.envs.base import EnvConfig
from sparring.learning.objectives import LossConfig
from sparring.learning.trainer import TrainConfig
from sparring.methods.coevolving_agents import FailConfig, PartnerConfig
from sparring.methods.grpo import GrpoConfig
from sparring.methods.loop import EtoConfig, LoopConfig
from sparring.methods.ppo import PpoConfig
from sparring.methods.rft import RftConfig
from sparring.methods.table import METHODS
from sparring.models.loading import ModelConfig
from sparring.policies.completions import OpenAIConfig
from sparring.rollouts.demonstrations import ExpertConfig
from sparring.rollouts.loop import RolloutConfig
from sparring.runs.keeping import RunConfig
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.curriculum import SynthesisConfig
from sparring.synthesis.language_model import LanguageModelConfig
from sparring.synthesis.pool import PoolConfig
from sparring.synthesis.signals import SignalConfig

MAX_RECIPE = 10_000_000
"""Most bytes of a recipe."""
MAX_FOLDER_NAME = 100
"""Most bytes of a run's or an arm's name."""
DPO_DEFAULTS = TrainConfig(lr=1e-6, epochs=3, batch_size=32, schedule="constant", warmup_ratio=0.1)
"""The paper's DPO settings where they differ from its SFT settings, which are `TrainConfig`'s own defaults."""
RL_DEFAULTS = TrainConfig(lr=1e-6, epochs=1, batch_size=256, schedule="constant", warmup_ratio=0.0)
"""CoEvolve's settings: one step a round over all trajectories of 32 tasks, eight times each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that one arm of a run depends on, besides the seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The base model that every agent starts from."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The world, its tasks and its live envs."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """How turns become tokens."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """Where the expert trajectories come from."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How agents play."""
    sft: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation of the supervised start, and of RFT."""
    dpo: TrainConfig = DPO_DEFAULTS
    """Optimisation on preference pairs, of both agents."""
    rl: TrainConfig = RL_DEFAULTS
    """Optimisation on sampled trajectories (GRPO, PPO), each round anew; `batch_size` counts trajectories."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The preference loss and its weights."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """How trajectories become preference pairs."""
    partner: PartnerConfig = field(default_factory=PartnerConfig)
    """The target agent's partner (Co-Evolving Agents)."""
    fail: FailConfig = field(default_factory=FailConfig)
    """The failure agent's own training set (Co-Evolving Agents)."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The outer loop (ETO, Co-Evolving Agents)."""
    eto: EtoConfig = field(default_factory=EtoConfig)
    """ETO's loss weights."""
    rft: RftConfig = field(default_factory=RftConfig)
    """Rejection sampling (RFT)."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """Group-relative policy optimisation (GRPO)."""
    ppo: PpoConfig = field(default_factory=PpoConfig)
    """Proximal policy optimisation (PPO)."""
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
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Which tasks are held out."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A method under a name, with its config."""

    method: str
    """`zero_shot`, `sft`, `rft`, `eto`, `coevolving_agents`, `ppo`, `grpo`, `coevolve`,
    `coevolving_agents_and_tasks`."""
    label: str
    """The name that tables and figures show."""
    config: Config

    @property
    def makes_tasks(self) -> bool:
        """Whether the method makes new tasks, which the world must have a part in."""
        return METHODS[self.method].makes_tasks and self.config.synthesis.kind != "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One thing that a person would run: arms, each with every seed."""

    name: str
    """The run's name, and its folder's below `runs/`."""
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]

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


def load_recipe(
    path: Path | str,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
) -> Recipe:
    """Read a recipe file and resolve it.

    Args:
        path: a TOML file: `name`, `seeds`, base sections, and either `method` or tables `[arms.NAME]`.
        overrides: values by dotted key, for instance `{"dpo.lr": 1e-6}`; they win over the file, in every arm.
        seeds: in place of the file's.
        arms: keep only these arms.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, or a value is wrong; the message names it.
    """
    path = Path(path)
    convert(path, Path, where="recipe")
    values = _read_toml(path)
    tables = values.get("arms")
    own = [values, *(tables.values() if isinstance(tables, Mapping) else ())]
    if any(isinstance(table, Mapping) and "openai" in table for table in own):
        raise ConfigError(
            f"{path}: 'openai' stands on the command line alone (--openai.base-url …): a recipe must not choose where "
            "your API key is sent."
        )
    values.setdefault("name", path.stem)
    return recipe_from_dict(values, overrides, seeds=seeds, arms=arms, source=str(path))


def recipe_from_dict(
    values: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    source: str = "recipe",
) -> Recipe:
    """Resolve a recipe from plain values; arguments and errors as for `load_recipe`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: holds no recipe.")
    own = ("name", "seeds", "method", "label", "arms")
    base_values = {key: value for key, value in values.items() if key not in own}
    _check_keys(base_values, own, source)
    base = from_dict(Config(), base_values, source=source)
    tables = convert(values.get("arms", {}), dict[str, Any], where=f"{source}: arms")
    if not tables:
        if "method" not in values:
            raise ConfigError(f'{source}: names no method. Add `method = "eto"` at the top, or tables [arms.NAME].')
        method = convert(values["method"], Name, where=f"{source}: method")
        tables = {method: {"method": method, "label": values.get("label")}}
        prefix = ""
    elif misplaced := [key for key in ("method", "label") if key in values]:
        raise ConfigError(f"{source}: {misplaced[0]!r} at the top and tables [arms.…] exclude each other.")
    else:
        prefix = "arms.{}."
    kept = _keep(tables, arms, source)
    resolved = {
        name: _arm(base, tables[name], overrides or {}, source=source, prefix=prefix.format(name)) for name in kept
    }
    wanted = values.get("seeds", [0]) if seeds is None else list(seeds)
    found_seeds = convert(wanted, tuple[Seed, ...], where=f"{source}: seeds")
    if not found_seeds or len(set(found_seeds)) < len(found_seeds):
        raise ConfigError(f"{source}: seeds: expected distinct numbers from 0 on, found {quote(list(found_seeds))}.")
    name = convert(values.get("name", "run"), str, where=f"{source}: name")
    _check_folder_name(name, f"{source}: name")
    return Recipe(name=name, seeds=found_seeds, arms=resolved)


def play_config(
    source: Path | None, overrides: Mapping[str, Any] | None = None, *, arm_of: Path | None = None
) -> PlayConfig:
    """Return what playing depends on, from a recipe or a run's folder.

    Args:
        source: a recipe file, or a run's folder; none: the defaults.
        overrides: values by dotted key, which win.
        arm_of: a path within the run's folder; the settings are those of the arm that it belongs to, else of the first.

    Raises:
        ConfigError: as for `load_recipe`.
        DataError: the run's folder has no readable config.
    """
    config = PlayConfig()
    if source is not None:
        if source.is_dir():
            recipe = recipe_from_dict(read_json(source / "config.json"), source=str(source / "config.json"))
        else:
            recipe = load_recipe(source)
        place = arm_of.absolute() if arm_of else source.absolute()
        names = place.relative_to(source.absolute()).parts if place.is_relative_to(source.absolute()) else ()
        arm = next((arm for name, arm in recipe.arms.items() if name in names), next(iter(recipe.arms.values())))
        shared = (PlayConfig.__dataclass_fields__.keys() & Config.__dataclass_fields__.keys()) - {"openai"}
        config = PlayConfig(**{name: getattr(arm.config, name) for name in shared})
    return from_dict(config, _nest(overrides or {}), source="command line")


def find_config(path: Path) -> Path | None:
    """Return the run's folder that `path` lies in, if it does."""
    for folder in path.absolute().parents:
        try:
            found = read_json(folder / "config.json")
        except DataError:  # none, or one that is not ours
            continue
        if isinstance(found, dict) and {"arms", "seeds"} <= set(found):
            return folder
    return None


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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE + 1)
        if len(content) > MAX_RECIPE:
            raise ConfigError(f"{path}: has more than {MAX_RECIPE} bytes, so it is no recipe.")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        others = sorted(str(other) for other in Path("recipes").glob("**/*.toml"))
        hint = f" Recipes here: {', '.join(others)}." if others else ""
        raise ConfigError(f"{path}: no such recipe.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        where, what = (f"{path}:{place[1]}", str(error)[: place.start()]) if place else (path, error)
        raise ConfigError(f"{where}: not TOML: {what}.") from None
    except ConfigError:
        raise
    except ValueError:  # of `int`, which reads no more than some thousand digits
        raise ConfigError(f"{path}: holds a whole number of thousands of digits.") from None
    except RecursionError:
        raise ConfigError(f"{path}: tables or lists are nested too deep.") from None


def _check_folder_name(name: str, where: str) -> None:
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > MAX_FOLDER_NAME or name == "shared":
        raise ConfigError(
            f"{where}: becomes a folder's name, so it takes letters, digits and -_.+, a letter or digit first, at most "
            f"{MAX_FOLDER_NAME} bytes, and not 'shared'; found {quote(name)}."
        )


def _arm(base: Config, table: Any, overrides: Mapping[str, Any], *, source: str, prefix: str) -> Arm:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')}: expected a table of keys.")
    if "method" not in table:
        raise ConfigError(f"{source}: {prefix}method is missing. Methods: {', '.join(METHODS)}.")
    method = convert(table["method"], Name, where=f"{source}: {prefix}method")
    if method not in METHODS:
        raise ConfigError(f"{source}: {prefix}method: unknown method {quote(method)}. {suggest(method, METHODS)}")
    label = convert(table.get("label") or METHODS[method].label, Name, where=f"{source}: {prefix}label")
    own = {key: value for key, value in table.items() if key not in ("method", "label")}
    _check_keys(own, ("method", "label"), source, prefix)
    config = from_dict(base, own, source=source, prefix=prefix)
    arm = Arm(method=method, label=label, config=from_dict(config, _nest(overrides), source="command line"))
    _check_arm(arm, f"{source}: {prefix}")
    return arm


def _check_arm(arm: Arm, where: str) -> None:
    """Refuse values that don't go together, or with the method."""
    config = arm.config
    check_room(config, where)
    if METHODS[arm.method].is_on_policy and config.rollout.temperature == 0:
        raise ConfigError(f"{where}rollout.temperature: {arm.method} samples, so it must be above 0.")
    if arm.method == "coevolving_agents_and_tasks" and config.loop.buffer_rounds > 1:
        raise ConfigError(
            f"{where}loop.buffer_rounds: with a pool of tasks each round's trajectories count once; leave it 1."
        )
    if arm.makes_tasks and config.synthesis.kind == "language-model" and not config.openai.model:
        raise ConfigError(f"{where}synthesis.kind: a language model is asked, and none is named: --openai.model NAME.")


def _check_keys(values: Mapping[str, Any], own: Iterable[str], source: str, prefix: str = "") -> None:
    # `from_dict` knows the sections alone; a misspelt key of the recipe itself is suggested here.
    sections = Config.__dataclass_fields__
    for key in values:
        if key not in sections:
            raise ConfigError(
                f"{source}: unknown key {quote(prefix + key)}. "
                + suggest(key, [*own, *sections], Config(), prefix=prefix)
            )


def _keep(tables: Mapping[str, Any], arms: Sequence[str] | None, source: str) -> list[str]:
    for name in tables:
        _check_folder_name(name, f"{source}: arms.{quote(name, bare=True)}")
    for name in arms or ():
        if name not in tables:
            raise ConfigError(f"{source}: has no arm {quote(name)}. {suggest(name, tables)}")
    return [name for name in tables if not arms or name in arms]


def _nest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return nested
