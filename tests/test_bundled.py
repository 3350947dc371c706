"""Recipes that come with Sparring: found from any folder, listed with what they take, copied to be edited."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from sparring.cli.recipes import takes
from sparring.core.bundled import locate, locate_recipe, recipe_names, recipes_folder
from sparring.core.errors import ConfigError
from sparring.envs.base import load_benchmark
from sparring.rollouts.demonstrations import ExpertConfig, expert_actions
from sparring.runs.recipe_files import load_recipe, play_config
from tests.test_cli import called, refused_here

ROOT = Path(__file__).parents[1]
EXPERTS = "recipes/quickstart-experts.jsonl.gz"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing of Sparring in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_of_the_checkout_is_bundled_and_says_what_it_takes() -> None:
    files = {str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in (ROOT / "recipes").rglob("*.toml")}
    assert set(recipe_names()) == files
    assert recipe_names()[:4] == ["quickstart", "quickstart-coevolve", "quickstart-sql", "quickstart-webshop"]
    for name in recipe_names():
        time, hardware = takes(name)
        assert re.search(r"minute|hour|not known", time), name
        assert re.match(r"\d+ (CPU cores|GPUs? of \d+ GB)", hardware), name


def test_the_wheel_takes_the_recipes_and_no_scripts_of_ours() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["only-include"] == ["sparring", "recipes"]
    assert build["sources"] == {"recipes": "sparring/recipes"}
    assert {path.parent.name for path in recipes_folder().rglob("*.toml")} == {"recipes", "paper", "real", "study"}
    assert not {f"/recipes/{name}" for name in ("paper", "real", "study")} & set(build["exclude"])


def test_a_path_of_a_recipe_is_here_first_and_else_comes_with_sparring(elsewhere: Path) -> None:
    assert locate(EXPERTS) == recipes_folder() / "quickstart-experts.jsonl.gz"
    assert locate("data/demonstrations.jsonl") == Path("data/demonstrations.jsonl")
    assert locate("recipes/../sparring/__init__.py") == Path("recipes/../sparring/__init__.py")
    assert locate("recipes/none.jsonl") == Path("recipes/none.jsonl")
    own = elsewhere / EXPERTS
    own.parent.mkdir()
    own.write_text("{}")
    assert locate(EXPERTS).resolve() == own


def test_a_recipe_is_found_by_name_by_its_path_in_a_checkout_and_as_a_file_first(elsewhere: Path) -> None:
    for place in ("quickstart", "recipes/quickstart.toml", str(ROOT / "recipes/quickstart.toml")):
        assert locate_recipe(place) == ROOT / "recipes/quickstart.toml"
    assert load_recipe("study/sql").name == "study-sql"
    assert play_config(Path("quickstart-sql")).env.id == "intercode_sql"
    (elsewhere / "quickstart").write_text('method = "sft"\nname = "own"')
    assert load_recipe("quickstart").name == "own"
    with pytest.raises(ConfigError, match=r"quikstart: no such recipe\. Did you mean 'quickstart'\?"):
        load_recipe("quikstart")


def test_what_a_run_records_does_not_tell_where_sparring_is_installed() -> None:
    recorded = json.dumps(load_recipe("quickstart").to_dict())
    assert f'"{EXPERTS}"' in recorded
    assert str(ROOT) not in recorded
    assert load_recipe("quickstart") == load_recipe(ROOT / "recipes/quickstart.toml")


def test_the_quickstarts_experts_are_read_from_any_folder() -> None:
    pytest.importorskip("scienceworld")
    world = load_benchmark("scienceworld")
    found = expert_actions(ExpertConfig(path=EXPERTS), world, world.tasks("train"))
    assert len(found) > 400


def test_recipes_are_listed_with_world_time_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(["recipes"], capsys)
    assert code == 0
    assert re.search(r"^quickstart +scienceworld +8 minutes +2 CPU cores *$", out, re.MULTILINE)
    assert all(re.search(rf"^{re.escape(name)} ", out, re.MULTILINE) for name in recipe_names())
    assert str(recipes_folder()) in out


def test_a_copy_works_where_it_lies(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["recipes", "copy", "quickstart"], capsys)[0] == 0
    assert load_recipe("quickstart.toml") == load_recipe("quickstart")
    code, out, _ = called(["recipes", "copy", "study/sql", "mine.toml"], capsys)
    assert (code, out) == (0, "mine.toml\nRun it: sparring run mine.toml\n")
    mine, original = load_recipe("mine.toml"), load_recipe("study/sql")
    assert (mine.name, mine.arms) == ("mine", original.arms)


def test_a_copy_overwrites_nothing_and_needs_a_recipe(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "mine.toml").write_text("")
    assert "mine.toml exists already" in refused_here(["recipes", "copy", "quickstart", "mine.toml"], capsys)
    assert "Did you mean 'quickstart'?" in refused_here(["recipes", "copy", "quikstart"], capsys)
    assert "expected nothing, or copy NAME [FILE]" in refused_here(["recipes", "print"], capsys)


def test_quickstart_is_the_recipe_of_that_name(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["quickstart"], ["run", "quickstart"]):
        message = refused_here([*command, "--env.kinds", "find-nothing"], capsys)
        assert "find-nothing" in message
        assert not (elsewhere / "runs").exists()
