"""A recipe's TOML and the command line's overrides are resolved to a `Recipe`, or to what playing depends on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.bundled import locate_recipe, recipe_names
from sparring.core.convert import convert, from_dict, suggest
from sparring.core.errors import ConfigError, DataError, SparringError, quote
from sparring.core.journal import read_json
from sparring.core.ranges import Name, Seed
from sparring.core.references import resolve_function, short_name
from sparring.data.chat import ChatConfig
from sparring.envs.base import EnvConfig
from sparring.envs.nowhere import NOWHERE
from sparring.methods.partners import find_partner
from sparring.methods.table import METHODS, find_method
from sparring.policies.vllm.config import TAKE_ADAPTERS, check_servers
from sparring.runs.config import Arm, Config, PlayConfig, Recipe, check_room
from sparring.runs.tinker_checks import check_tinker
from sparring.synthesis.curriculum import SynthesisConfig
from sparring.synthesis.presets import PRESETS

MAX_RECIPE = 10_000_000
"""Most bytes of a recipe."""
MAX_FOLDER_NAME = 100
"""Most bytes of a run's or an arm's name."""
PERSONAL = (("vllm", "base_urls"), ("vllm", "python"), ("vllm", "extra_args"), ("tinker", "base_url"))
"""Section and key of what only the person at the machine may say."""
ELSEWHERE = {"openai", "sampler", "vllm"}
"""Sections of a run that playing its checkpoints does not take over: who draws the actions is asked anew."""


def load_recipe(
    path: Path | str,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
) -> Recipe:
    """Read a recipe file and resolve it.

    Args:
        path: a TOML file: `name`, `seeds`, base sections, and either `method` or tables `[arms.NAME]`; or the name of
            a bundled recipe, such as `quickstart`.
        overrides: values by dotted key, for instance `{"dpo.lr": 1e-6}`; they win over the file, in every arm.
        seeds: in place of the file's.
        arms: keep only these arms.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, or a value is wrong; the message names it.
    """
    convert(Path(path), Path, where="recipe")
    path = locate_recipe(path)
    values = _read_toml(path)
    tables = values.get("arms")
    _check_own_keys(values, path)
    for table in tables.values() if isinstance(tables, Mapping) else ():
        _check_own_keys(table, path)
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
    tables = convert(values.get("arms", {}), dict[str, Any], where=f"{source}: arms")
    if not tables:
        if "method" not in values:
            raise ConfigError(f'{source}: names no method. Add `method = "eto"` at the top, or tables [arms.NAME].')
        method = convert(values["method"], Name, where=f"{source}: method")
        tables = {short_name(method): {"method": method, "label": values.get("label")}}
        prefix = ""
    elif misplaced := [key for key in ("method", "label") if key in values]:
        raise ConfigError(f"{source}: {misplaced[0]!r} at the top and tables [arms.…] exclude each other.")
    else:
        prefix = "arms.{}."
    kept = _keep(tables, arms, source)
    resolved = {
        name: _arm(base_values, tables[name], overrides or {}, source=source, prefix=prefix.format(name))
        for name in kept
    }
    wanted = values.get("seeds", [0]) if seeds is None else list(seeds)
    found_seeds = convert(wanted, tuple[Seed, ...], where=f"{source}: seeds")
    if not found_seeds or len(set(found_seeds)) < len(found_seeds):
        raise ConfigError(f"{source}: seeds: expected distinct numbers from 0 on, found {quote(list(found_seeds))}.")
    name = convert(values.get("name", "run"), str, where=f"{source}: name")
    _check_folder_name(name, f"{source}: name")
    return Recipe(name=name, seeds=found_seeds, arms=resolved)


def completed(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recipe that an earlier version saved with the keys that have come since, at their defaults.

    One that can't be read is returned as it is.
    """
    try:
        return recipe_from_dict(saved).to_dict()
    except SparringError:
        return saved


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
        shared = (PlayConfig.__dataclass_fields__.keys() & Config.__dataclass_fields__.keys()) - ELSEWHERE
        config = PlayConfig(**{name: getattr(arm.config, name) for name in shared})
    config = from_dict(config, _nest(overrides or {}), source="command line")
    if config.env.id == NOWHERE:
        raise ConfigError(
            "env.id: this checkpoint's run played no world. Name a recipe of one (--recipe), or --env.id."
        )
    check_servers(config.sampler, config.vllm)
    return config


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


def _read_toml(path: Path) -> dict[str, Any]:
    if (path / "config.json").is_file():
        raise ConfigError(
            f"{path}: is a run's folder, not a recipe. To go on with it: the command that began it, or sparring run "
            f"RECIPE --out {path}"
        )
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a recipe: name a TOML file.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE + 1)
        if len(content) > MAX_RECIPE:
            raise ConfigError(f"{path}: has more than {MAX_RECIPE} bytes, so it is no recipe.")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        hint = suggest(str(path).removesuffix(".toml").removeprefix("recipes/"), recipe_names())
        raise ConfigError(f"{path}: no such recipe. {hint} `sparring recipes` lists them.") from None
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


def _arm(base: Mapping[str, Any], table: Any, overrides: Mapping[str, Any], *, source: str, prefix: str) -> Arm:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')}: expected a table of keys.")
    if "method" not in table:
        raise ConfigError(f"{source}: {prefix}method is missing. Methods: {', '.join(METHODS)}.")
    method = convert(table["method"], Name, where=f"{source}: {prefix}method")
    known = find_method(method, where=f"{source}: {prefix}")
    label = convert(table.get("label") or known.label, Name, where=f"{source}: {prefix}label")
    own = {key: value for key, value in table.items() if key not in ("method", "label")}
    _check_keys(own, ("method", "label"), source, prefix)
    typed = _nest(overrides)
    config = from_dict(_beneath(method, [base, own, typed]), base, source=source)
    config = from_dict(config, own, source=source, prefix=prefix)
    arm = Arm(method=method, label=label, config=from_dict(config, typed, source="command line"))
    _check_arm(arm, f"{source}: {prefix}")
    return arm


def _beneath(method: str, layers: Sequence[Mapping[str, Any]]) -> Config:
    """Return what lies beneath all layers of keys: the defaults, with the preset that the last layer to name one names.

    So a key that is given anywhere wins over the preset, wherever the preset is named. Without a world nothing stands
    before what a file says, and all of an answer counts.
    """
    if not find_method(method).needs_world:
        return Config(env=EnvConfig(id=NOWHERE), chat=ChatConfig(format="code", instruction=""))
    name: Any = SynthesisConfig().preset
    for layer in layers:
        section = layer.get("synthesis")
        name = section.get("preset", name) if isinstance(section, Mapping) else name
    values = PRESETS.get(name, {}) if isinstance(name, str) else {}  # a word that is none is refused with its layer
    return from_dict(Config(), values, source="preset")


def _check_arm(arm: Arm, where: str) -> None:
    """Refuse values that don't go together, or with the method."""
    config, method = arm.config, find_method(arm.method)
    if method.needs_world:
        check_room(config, where)
    else:
        _check_nowhere(config, where)
    _check_own_parts(config, has_partner=method.has_partner, where=where)
    if method.is_on_policy and config.rollout.temperature == 0:
        raise ConfigError(f"{where}rollout.temperature: {arm.method} samples, so it must be above 0.")
    if arm.method == "coevolving_agents_and_tasks" and config.loop.buffer_rounds > 1:
        raise ConfigError(
            f"{where}loop.buffer_rounds: with a pool of tasks each round's trajectories count once; leave it 1."
        )
    if arm.method == "coevolve" and config.synthesis.clone_solutions and config.grpo.start == "base":
        raise ConfigError(
            f"{where}synthesis.clone_solutions: solutions are cloned beside the experts' episodes, and an agent that "
            'starts at the base model learns from none. Take grpo.start = "imitation".'
        )
    check_servers(config.sampler, config.vllm, where)
    check_tinker(arm, where)
    if config.sampler.kind == "vllm" and method.trains and not (config.lora.rank or config.vllm.launch):
        raise ConfigError(f"{where}{TAKE_ADAPTERS}")
    own = config.bootstrap
    asking = {
        "synthesis.kind": arm.makes_tasks and config.synthesis.kind == "language-model",
        "bootstrap.explorer": arm.explores and own.explorer == "language-model",
        "validation.query_agent": (arm.makes_tasks and config.validation.asks_explorer)
        or (arm.explores and own.validation(config.validation).asks_explorer),
    }
    is_apart = config.engine.kind != "local" and config.sampler.kind == "local"  # no base lies whole in this process
    names_none = not (config.openai.model or config.explorer.model) and is_apart
    for key in (key for key, asks in asking.items() if asks and names_none):
        raise ConfigError(
            f"{where}{key}: a language model is asked, and none is named: --openai.model NAME, or explorer.model for "
            "one in this process."
        )


def _check_nowhere(config: Config, where: str) -> None:
    """Refuse what only a world could use, and a method without data."""
    if config.env.id != NOWHERE:
        raise ConfigError(
            f"{where}env.id: this method plays no world. Leave [env] out, put arms that play into another recipe, and "
            "play this one's checkpoints with sparring eval."
        )
    if config.expert.path is not None:
        raise ConfigError(f"{where}expert.path: there is no world to be an expert in. Take prefer.messages.")
    if config.prefer.path is None and config.prefer.messages is None:
        raise ConfigError(f"{where}prefer.path: names no file. Name one of preferences, or of prefer.messages.")


def _check_own_parts(config: Config, *, has_partner: bool, where: str) -> None:
    """Import what is named by `package.module:name`, and refuse a partner that can't do what is asked of it."""
    try:
        if ":" in config.loss.variant:
            resolve_function(config.loss.variant, key="loss.variant")
        if ":" in config.pairs.rule:
            resolve_function(config.pairs.rule, key="pairs.rule")
        if has_partner:
            find_partner(config.partner.kind).check(config.partner, config.late.num)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def _check_own_keys(table: Any, path: Path) -> None:
    """Refuse what only the person at the machine may say.

    Raises:
        ConfigError: the table has such a key.
    """
    if not isinstance(table, Mapping):
        return
    if "openai" in table:
        raise ConfigError(
            f"{path}: 'openai' stands on the command line alone (--openai.base-url …): a recipe must not choose where "
            "your API key is sent."
        )
    for section, key in PERSONAL:
        servers = table.get(section)
        if isinstance(servers, Mapping) and key in servers:
            raise ConfigError(
                f"{path}: '{section}.{key}' stands on the command line alone (--{section}.{key} …): a recipe must not "
                "choose what is run on your machine, or where your data is sent."
            )
    env = table.get("env")
    options = env.get("options") if isinstance(env, Mapping) else None
    if isinstance(options, Mapping) and isinstance(options.get("server"), list):
        raise ConfigError(
            f"{path}: env.options.server: a recipe must not choose what is run on your machine. Name a module that is "
            "installed, or the URL of a server that runs; docs/adapters.md says how a class of yours gives a command."
        )


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
