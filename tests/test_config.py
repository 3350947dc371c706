"""Recipes resolve as documented, every recipe in the repository parses, and a wrong key or value is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sparring.core.convert import from_dict, to_dict, type_hints
from sparring.core.errors import ConfigError
from sparring.envs.base import EnvConfig
from sparring.runs.config import Config
from sparring.runs.recipe_files import load_recipe, recipe_from_dict

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("**/*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "trial.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.arms
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_key_says_what_it_means() -> None:
    """Each config key has a docstring beneath it, which is what `--help` shows."""
    import ast
    import inspect

    classes = {Config, *(type(getattr(Config(), field.name)) for field in dataclasses.fields(Config))}
    for cls in classes:
        (body,) = [node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)]
        for field, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{cls.__name__}.{ast.unparse(field.target)} has no docstring"


def test_defaults_are_the_papers() -> None:
    config = Config()
    assert (config.sft.lr, config.sft.epochs, config.sft.batch_size, config.sft.schedule) == (2e-5, 3, 64, "cosine")
    assert (config.dpo.lr, config.dpo.epochs, config.dpo.batch_size, config.dpo.schedule) == (1e-6, 3, 32, "constant")
    assert (config.sft.warmup_ratio, config.dpo.warmup_ratio) == (0.03, 0.1)
    assert config.loss.beta == 0.1
    assert (config.loss.expert_dpo, config.loss.expert_sft) == (0.5, 0.5)
    assert (config.loss.failure_dpo, config.loss.failure_sft) == (1.0, 0.0)
    assert (config.loop.rounds, config.rollout.num_per_task) == (3, 1)
    assert (config.partner.kind, config.partner.start, config.fail.pair_scope) == ("failure", "independent", "cross")


def test_arms_go_over_the_base_and_the_command_line_over_both(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        seeds = [3, 4]
        [dpo]
        lr = 1e-4
        batch_size = 7
        [loss]
        beta = 0.2
        [arms.one]
        method = "eto"
        [arms.two]
        method = "coevolving_agents"
        label = "Frozen"
        dpo.lr = 2e-4
        partner.kind = "frozen"
        """,
    )
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seeds, list(recipe.arms)) == ("trial", (3, 4), ["one", "two"])
    one, two = recipe.arms["one"], recipe.arms["two"]
    assert (one.method, one.label, two.method, two.label) == ("eto", "ETO", "coevolving_agents", "Frozen")
    assert (one.config.dpo.lr, two.config.dpo.lr) == (1e-4, 2e-4)
    assert (one.config.partner.kind, two.config.partner.kind) == ("failure", "frozen")
    assert one.config.loss.beta == two.config.loss.beta == 0.2
    assert two.config.dpo.batch_size == 7, "an arm's table changes single keys"
    assert two.config.dpo.schedule == "constant", "the base's defaults stay"

    recipe = load_recipe(path, {"dpo.lr": 5e-4, "loss.beta": 1}, seeds=[9], arms=["two"])
    assert (recipe.seeds, list(recipe.arms)) == ((9,), ["two"])
    assert (recipe.arms["two"].config.dpo.lr, recipe.arms["two"].config.loss.beta) == (5e-4, 1.0)
    assert recipe.arms["two"].config.partner.kind == "frozen"


PAPER = {
    "synthesis": {"kind": "language-model", "guidance": "flags", "every": 10, "warmup": 0, "fresh_weight": 1.0},
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
"""All that the preset sets."""


def curriculum_of(**values: Any) -> dict[str, dict[str, Any]]:
    """Resolve a recipe of one arm and return the sections that a preset may touch."""
    arm = {"method": "coevolve", **values.pop("arm", {})}
    overrides = {"openai.model": "explorer"} | values.pop("typed", {})
    (found,) = recipe_from_dict({"name": "one", **values, "arms": {"one": arm}}, overrides).arms.values()
    return {name: dataclasses.asdict(getattr(found.config, name)) for name in PAPER}


def test_the_papers_preset_sets_these_values_and_no_other() -> None:
    ours, paper = curriculum_of(), curriculum_of(synthesis={"preset": "paper"})
    assert paper == {name: {**ours[name], **PAPER[name]} for name in PAPER} | {
        "synthesis": {**ours["synthesis"], **PAPER["synthesis"], "preset": "paper"}
    }
    assert paper != ours


def test_a_preset_lies_beneath_every_key_wherever_it_is_named() -> None:
    paper = {"preset": "paper"}
    for named in (
        {"synthesis": {**paper, "every": 4}},
        {"synthesis": {"every": 4}, "arm": {"synthesis": paper}},
        {"synthesis": {"every": 4}, "typed": {"synthesis.preset": "paper"}},
        {"synthesis": paper, "arm": {"synthesis": {"every": 4}}},
        {"synthesis": paper, "typed": {"synthesis.every": 4}},
        {"arm": {"synthesis": paper}, "typed": {"synthesis.every": 4}},
    ):
        found = curriculum_of(**named)
        assert (found["synthesis"]["every"], found["synthesis"]["fresh_weight"]) == (4, 1.0)
        assert found["validation"]["checks"] == ("query",)
    # Legal with the paper's bound for hopeless tasks alone, so that the preset must lie beneath from the start.
    assert curriculum_of(synthesis=paper, pool={"solved_above": 0.01})["pool"]["hopeless_below"] == 0.0
    # The last word counts.
    assert curriculum_of(synthesis=paper, arm={"synthesis": {"preset": "ours"}}) == curriculum_of()


def test_a_preset_is_shown_resolved_and_does_not_apply_twice() -> None:
    recipe = recipe_from_dict(
        {"name": "one", "method": "coevolve", "synthesis": {"preset": "paper"}, "validation": {"num_query_tries": 3}},
        {"openai.model": "explorer"},
    )
    shown = json.loads(json.dumps(recipe.to_dict()))
    assert (
        shown["arms"]["coevolve"]["validation"] | {"checks": ["query"], "num_query_tries": 3, "keep_partial": True}
        == (shown["arms"]["coevolve"]["validation"])
    )
    assert recipe_from_dict(shown) == recipe


def test_a_preset_that_is_none_is_named_with_those_that_are() -> None:
    for word in ("papre", ["paper"]):
        with pytest.raises(ConfigError, match=r"synthesis\.preset: expected one of 'ours', 'paper'"):
            curriculum_of(synthesis={"preset": word})


def test_a_recipe_of_one_method_needs_no_arms(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'name = "x"\nmethod = "rft"\n[rft]\nnum_samples = 9'))
    assert (recipe.name, recipe.seeds, list(recipe.arms)) == ("x", (0,), ["rft"])
    assert (recipe.arms["rft"].label, recipe.arms["rft"].config.rft.num_samples) == ("RFT", 9)


def test_tables_are_values_replaced_as_a_whole() -> None:
    base = from_dict(Config(), {"env": {"options": {"a": 1, "b": [1, 2]}}}, source="x")
    assert from_dict(base, {"env": {"num_envs": 2}}, source="x").env.options == {"a": 1, "b": [1, 2]}
    assert from_dict(base, {"env": {"options": {"c": 1}}}, source="x").env.options == {"c": 1}


def test_none_can_be_said_in_toml(tmp_path: Path) -> None:
    path = write(tmp_path, 'method = "eto"\n[env]\nnum_train = "none"\n[pairs]\nmax_extra_turns = "none"')
    config = load_recipe(path).arms["eto"].config
    assert config.env.num_train is None
    assert config.pairs.max_extra_turns is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dpo]\nlrr = 1", r"trial\.toml: unknown key 'dpo\.lrr'\. Did you mean 'dpo\.lr'\?"),
        ("[dpoo]\nlr = 1", r"trial\.toml: unknown key 'dpoo'\. Did you mean 'dpo'\?"),
        ("seed = 1", r"trial\.toml: unknown key 'seed'\. It is `seeds = \[0\]` at the top of a recipe"),
        ("beta = 0.5", r"unknown key 'beta'\. Here it is loss\.beta, "),
        ("[arms.x]\nmethod='eto'\ndpo.lrr=1", r"unknown key 'arms\.x\.dpo\.lrr'\. Did you mean 'arms\.x\.dpo\.lr'\?"),
        ("[arms.x]\nmethod='eto'\n[arms.x.dop]\nlr=1", r"unknown key 'arms\.x\.dop'\. Did you mean 'arms\.x\.dpo'\?"),
        (
            "[dpo]\nlr = 'high'",
            r"trial\.toml: dpo\.lr: expected a finite number above 0, at most 10, found the text",
        ),
        ("[dpo]\nlr = nan", r"dpo\.lr: expected a finite number"),
        ("[dpo]\nlr = true", r"dpo\.lr: expected a finite number above 0, at most 10, found true"),
        ("[dpo]\nepochs = 2.5", r"dpo\.epochs: expected a whole number from 1 to 10,000, found the number 2\.5"),
        ("[dpo]\nepochs = true", r"dpo\.epochs: expected a whole number from 1 to 10,000, found true"),
        ("[dpo]\nshuffle = 1", r"dpo\.shuffle: expected true or false, found the number 1"),
        ("[dpo]\nschedule = 'linear'", r"dpo\.schedule: expected one of 'cosine', 'constant', found the text 'linear'"),
        ("[env]\nkinds = 'find-plant'", r"env\.kinds: expected a list, each item text, found the text 'find-plant'"),
        ("[env]\nkinds = ['a', 3]", r"env\.kinds\[1\]: expected text, found the number 3"),
        (
            "[env]\nnum_train = 'many'",
            r"env\.num_train: expected a whole number from 1 to .* or none, found the text 'many'",
        ),
        ("[env]\noptions = 3", r"env\.options: expected a table of keys, found the number 3"),
        ("dpo = 3", r"trial\.toml: dpo: expected a table of keys, found the number 3"),
        ("[dpo]\nlr = -1.0", r"trial\.toml: dpo\.lr: expected a finite number above 0"),
        ("[loss]\nbeta = 0", r"trial\.toml: loss\.beta: expected a finite number above 0"),
        ("[loop]\nrounds = 0", r"trial\.toml: loop\.rounds: expected a whole number from 1"),
        ("seeds = 'all'", r"trial\.toml: seeds: expected a list"),
        ("seeds = [1, 1]", r"trial\.toml: seeds: expected distinct numbers"),
        ("seeds = []", r"trial\.toml: seeds: expected distinct numbers"),
        ("name = 'a/b'", r"trial\.toml: name: becomes a folder's name"),
        ("[arms.x]\nlabel = 'X'", r"trial\.toml: arms\.x\.method is missing"),
        ("[arms.x]\nmethod = 'etoo'", r"arms\.x\.method: unknown method 'etoo'\. Did you mean 'eto'\?"),
        ("[arms.shared]\nmethod = 'eto'", r"arms\.shared: becomes a folder's name"),
        ("[arms]\nx = 1", r"arms\.x: expected a table of keys"),
        ("label = 'X'\n[arms.x]\nmethod = 'eto'", r"'label' at the top and tables \[arms\.…\] exclude each other"),
        ("name = \n[dpo]", r"trial\.toml:2: not TOML: Invalid value"),
        ("[dpo]\nlr = 1.5\nlr = 2\n[sft]", r"trial\.toml:4: not TOML: Cannot overwrite a value\.$"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text if "arms" in text else 'method = "eto"\n' + text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_recipe_without_a_method_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trial\.toml: names no method"):
        load_recipe(write(tmp_path, "[dpo]\nlr = 1.0"))


def test_missing_recipe_and_unknown_arm_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a folder, not a recipe"):
        load_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"has no arm 'etoo'\. Did you mean 'eto'\?"):
        load_recipe(write(tmp_path, 'method = "eto"'), arms=["etoo"])


def test_overrides_are_checked_like_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'method = "eto"')
    with pytest.raises(ConfigError, match=r"command line: unknown key 'dpo\.lrr'\. Did you mean 'dpo\.lr'\?"):
        load_recipe(path, {"dpo.lrr": 1})
    with pytest.raises(ConfigError, match=r"command line: dpo\.epochs: expected a whole number"):
        load_recipe(path, {"dpo.epochs": "three"})


def test_config_survives_json() -> None:
    def walk(value: Any) -> None:
        for name in type_hints(type(value)):
            if dataclasses.is_dataclass(getattr(value, name)):
                walk(getattr(value, name))

    walk(Config())
    assert from_dict(Config(), json.loads(json.dumps(to_dict(Config()))), source="x") == Config()


def test_a_path_of_data_reaches_the_world_once() -> None:
    assert EnvConfig(path="d", options={"depth": 1}).constructor_options() == {"path": "d", "depth": 1}
    assert EnvConfig(options={"path": "d"}).constructor_options() == {"path": "d"}
    with pytest.raises(ConfigError, match=r"env\.path is given, and a path in env\.options too"):
        EnvConfig(path="d", options={"path": "e"}).constructor_options()
