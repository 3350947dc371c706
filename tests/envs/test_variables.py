"""What of the environment is passed on: an allow-list, and what is named."""

from __future__ import annotations

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.pool import EnvPool
from sparring.envs.variables import clean_environment, withheld_hint

KEYS = (
    *("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "TINKER_API_KEY"),
    *("SPARRING_MYSQL_PASSWORD", "https_proxy", "PIP_INDEX_URL", "PYTHON_TOKEN", "JAVA_KEY", "path"),
)


@pytest.mark.parametrize("name", KEYS)
def test_no_key_is_passed_on_unless_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "secret")
    assert name not in clean_environment()
    assert clean_environment([name])[name] == "secret"


@pytest.mark.parametrize("name", ["PATH", "HOME", "LC_CTYPE", "JAVA_TOOL_OPTIONS", "OMP_WAIT_POLICY", "PYTHONPATH"])
def test_what_programs_need_is_passed_on(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "needed")
    assert clean_environment()[name] == "needed"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY=sk-1234", "", "A B", "9", "PATH\0"])
def test_what_is_no_name_is_refused_without_telling_a_value(name: str):
    with pytest.raises(ConfigError, match=r"env\.variables.*Give names alone") as caught:
        clean_environment([name])
    assert "sk-1234" not in str(caught.value)


def test_a_name_that_is_not_set_is_told_before_any_env_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_THING", raising=False)
    with pytest.raises(ConfigError, match=r"env\.variables: NO_SUCH_THING is not set"):
        EnvPool("tests.toy_world:ToyWorld", {}, num_envs=1, variables=["NO_SUCH_THING"])


def test_an_error_that_names_a_withheld_variable_gets_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GAME_LICENCE", "x")
    assert 'variables = ["GAME_LICENCE"] under [env]' in withheld_hint("KeyError: 'GAME_LICENCE'")
    assert withheld_hint("KeyError: 'GAME_LICENCE'", ["GAME_LICENCE"]) == ""
    assert withheld_hint("KeyError: 'GAME_LICENCES' PATH") == ""
