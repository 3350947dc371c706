"""Whole runs whose agents are adapters on a server. What must hold:

- a greedy agent plays on the server as in this process;
- GRPO takes the server's log-probabilities as those of the policy that sampled, and they fit;
- a run that is killed, or whose server loses everything, goes on and ends with what was asked for;
- a server that plays other weights than were trained is found out before an episode is played.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparring.core.errors import ConfigError, TrainingError
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.models.loading import save_model
from sparring.policies.completions import ChatServer, OpenAIConfig
from sparring.policies.vllm.config import SamplerConfig, VllmConfig
from sparring.runs.config import Recipe
from sparring.runs.play import evaluate_models
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe, play_config, recipe_from_dict
from tests.methods import test_lora_runs, test_methods
from tests.methods.test_methods import DeadlyProgress, Killed, changed
from tests.serving import Answer, Seen, error
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.vllm_serving import ModelServer


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("sparring.policies.transport.BACKOFF_S", 0.02)


def served_by(recipe: Recipe, config: VllmConfig) -> Recipe:
    """Return a recipe whose agents are played by servers."""
    return changed(recipe, sampler=SamplerConfig(kind="vllm"), vllm=config)


def served(recipe: Recipe, server: ModelServer) -> Recipe:
    return served_by(recipe, VllmConfig(base_urls=(server.url,)))


def play(recipe: Recipe, out: Path, progress: SilentProgress | None = None) -> None:
    run_recipe(recipe, out, progress or SilentProgress(), with_report=False)


def played(out: Path, phase: str) -> list[tuple[str, list[str], float]]:
    found = read_trajectories(out / "seed-0" / phase / "trajectories.jsonl")
    return [(one.id, [turn.action for turn in one.turns], one.reward) for one in found]


def preference_recipe(server: ModelServer, *arms: str, **sections: dict[str, Any]) -> Recipe:
    return served(test_lora_runs.preference_recipe(server.folder, *arms, **sections), server)


def test_a_greedy_agent_plays_on_a_server_as_in_process(model_folder: Path, tmp_path: Path) -> None:
    arms = ("zero_shot", "sft")
    play(test_lora_runs.preference_recipe(model_folder, *arms), tmp_path / "here")
    with ModelServer(model_folder) as server:
        play(preference_recipe(server, *arms), tmp_path / "there")
    for arm in arms:
        phase = f"{arm}/round-0/evaluate-target"
        assert played(tmp_path / "there", phase) == played(tmp_path / "here", phase)
    assert not server.adapters, "the run lets go of its adapters"


def test_both_agents_of_co_evolving_agents_are_adapters_on_one_server(model_folder: Path, tmp_path: Path) -> None:
    with ModelServer(model_folder) as server:
        play(preference_recipe(server, "coevolving_agents"), tmp_path / "run")
    loaded = [seen.body["lora_path"] for seen in server.seen if seen.path == "/v1/load_lora_adapter"]
    agents = {Path(path).parent.name.rpartition("-")[0] for path in loaded}
    assert {"sft-target", "sft-partner", "train"} <= agents
    assert len({seen.body["lora_name"] for seen in server.seen if "lora_path" in (seen.body or {})}) == len(loaded)


def test_both_agents_play_at_the_same_time(model_folder: Path, tmp_path: Path) -> None:
    with ModelServer(model_folder) as server:
        play(preference_recipe(server, "coevolving_agents", loop={"rounds": 1}), tmp_path / "run")
    agents = [seen.body["model"] for seen in server.seen if seen.path == "/v1/completions" and "seed" in seen.body]
    others = [one for one in agents if one != agents[0]]  # greedy requests, of the evaluations, have seeds too
    partner = others[0]
    first, last = agents.index(partner), len(agents) - agents[::-1].index(partner)
    assert len(set(agents[first:last])) == 2
    phases = [json.loads(line)["phase"] for line in (tmp_path / "run/timings.jsonl").read_text().splitlines()]
    assert "round-1/rollout-target and round-1/rollout-partner" in phases
    for agent in ("target", "partner"):
        found = read_trajectories(tmp_path / f"run/seed-0/coevolving_agents/round-1/rollout-{agent}/trajectories.jsonl")
        assert found and {one.agent for one in found} == {agent}


@pytest.mark.parametrize(("largest", "gap"), [(None, "pg/log_ratio_max"), (2.0, "pg/server_gap_max")])
def test_grpo_takes_the_servers_log_probabilities(
    learnt_folder: Path, tmp_path: Path, largest: float | None, gap: str
) -> None:
    notes: list[str] = []
    with ModelServer(learnt_folder) as server:
        recipe = test_lora_runs.grpo_recipe(learnt_folder, grpo={"rounds": 2}, rollout={"temperature": 0.4})
        recipe = changed(recipe, rl=replace(recipe.arms["grpo"].config.rl, max_server_ratio=largest))
        arms = {"grpo": recipe.arms["grpo"]}
        play(served(replace(recipe, arms=arms), server), tmp_path / "run", SilentProgress(notes.append))
    assert not any("another probability" in note for note in notes), notes
    for number in (1, 2):
        log = tmp_path / f"run/seed-0/grpo/round-{number}/train-target/log.jsonl"
        first = json.loads(log.read_text().splitlines()[0])
        assert 0 < first[gap] < 1e-3


@pytest.mark.parametrize("arm", ["eto", "coevolving_agents"])
def test_a_run_goes_on_after_kills_and_a_server_that_lost_its_adapters(
    model_folder: Path, tmp_path: Path, arm: str
) -> None:
    out, num_kills = tmp_path / "run", 0
    with ModelServer(model_folder) as server:
        recipe = preference_recipe(server, arm)
        while True:
            try:
                play(recipe, out, DeadlyProgress(25))
                break
            except Killed:
                num_kills += 1
                forget_adapters(server)
    assert num_kills >= 3
    rollouts = [json.loads(done.read_text()) for done in out.glob("seed-0/**/done.json")]
    assert {phase["broken"] for phase in rollouts if "broken" in phase} == {0}
    assert (out / "results.json").exists()


def forget_adapters(server: ModelServer) -> None:
    """Lose what was loaded, as a server that was started again has."""
    for name in list(server.adapters):
        server.forget(name)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (
            Answer(status=404, body={"detail": "Not Found"}),
            "docs/vllm.md says how a server is started that takes adapters",
        ),
        (
            Answer(status=400, body=error("LoRA rank 4 is greater than max_lora_rank 2.")),
            "greater than max_lora_rank 2",
        ),
    ],
)
def test_a_server_that_takes_no_adapter_ends_the_run_with_one_message(
    model_folder: Path, tmp_path: Path, refusal: Answer, says: str
) -> None:
    with ModelServer(model_folder) as server:
        server.trouble = lambda request: refusal if request.path == "/v1/load_lora_adapter" else None
        with pytest.raises(ConfigError, match=re.escape(says)):
            play(preference_recipe(server, "sft"), tmp_path / "run")
    assert (tmp_path / "run/seed-0/sft/sft-target/checkpoint").exists(), "what was trained stays"


def test_an_adapter_that_is_lost_in_mid_rollout_is_loaded_again(model_folder: Path, tmp_path: Path) -> None:
    left = [5]

    def lose(request: Seen) -> Answer | None:
        if request.path == "/v1/completions" and "seed" in request.body:
            left[0] -= 1
            if left[0] == 0:
                forget_adapters(server)
        return None

    with ModelServer(model_folder) as server:
        server.trouble = lose
        play(preference_recipe(server, "sft"), tmp_path / "run")
    assert left[0] < 0
    found = read_trajectories(tmp_path / "run/seed-0/sft/round-0/evaluate-target/trajectories.jsonl")
    assert not [one for one in found if one.error]


def test_episodes_of_a_server_that_is_gone_move_to_the_others(model_folder: Path, tmp_path: Path) -> None:
    with ModelServer(model_folder) as one, ModelServer(model_folder) as other:
        left = [3]

        def leave(request: Seen) -> Answer | None:
            left[0] -= request.path == "/v1/completions" and "seed" in request.body
            return Answer(hangs_up=True) if left[0] < 0 else None

        one.trouble = leave
        recipe = test_lora_runs.preference_recipe(model_folder, "sft")
        recipe = served_by(recipe, VllmConfig(base_urls=(one.url, other.url), max_retries=1))
        play(recipe, tmp_path / "run")
    assert left[0] < 0
    found = read_trajectories(tmp_path / "run/seed-0/sft/round-0/evaluate-target/trajectories.jsonl")
    assert found and not [trajectory for trajectory in found if trajectory.error]


def test_a_server_that_plays_other_weights_is_found_out(model_folder: Path, tmp_path: Path) -> None:
    with ModelServer(model_folder) as server:
        server.plays = lambda _: "tiny"  # the base, whatever adapter is asked for
        with pytest.raises(TrainingError, match=r"other weights than were trained.*published before"):
            play(preference_recipe(server, "sft"), tmp_path / "run")
    files = (tmp_path / "run").glob("seed-0/**/trajectories.jsonl")
    assert not [one for file in files for one in read_trajectories(file)]


def test_a_server_of_another_vocabulary_or_a_short_context_is_refused(
    model_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("llama2"), other)  # pyright: ignore
    with ModelServer(other) as server, pytest.raises(ConfigError, match="another vocabulary"):
        play(served(test_lora_runs.preference_recipe(model_folder, "zero_shot"), server), tmp_path / "one")
    with ModelServer(model_folder, max_model_len=100) as server, pytest.raises(ConfigError, match="takes 100 tokens"):
        play(preference_recipe(server, "zero_shot"), tmp_path / "two")


@pytest.fixture
def launching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VllmConfig:
    """Settings under which `vllm serve` is a server of ours in a process of its own."""
    package = tmp_path / "packages/vllm/entrypoints/cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text("from tests.launched_vllm import main\nmain()\n")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "packages"), str(root)]))
    return VllmConfig(launch=True, python=sys.executable, startup_s=60.0, max_retries=1)


def test_all_weights_reach_a_server_that_the_run_starts(
    model_folder: Path, tmp_path: Path, launching: VllmConfig
) -> None:
    recipe = test_methods.make_recipe(model_folder, "zero_shot", "sft")
    play(recipe, tmp_path / "here")
    play(served_by(recipe, launching), tmp_path / "there")
    for arm in ("zero_shot", "sft"):
        phase = f"{arm}/round-0/evaluate-target"
        assert played(tmp_path / "there", phase) == played(tmp_path / "here", phase)
    assert servers_of(tmp_path / "there") == []


class Assassin(SilentProgress):
    """Kills the run's server at every n-th sign of progress."""

    def __init__(self, run: Path, every: int) -> None:
        super().__init__()
        self.run, self.every, self.num_signs, self.num_kills = run, every, 0, 0

    def advance(self, num: float = 1) -> None:
        self.num_signs += 1
        if self.num_signs % self.every == 0:
            for server in servers_of(self.run):
                server.kill()
                self.num_kills += 1


def servers_of(run: Path) -> list[psutil.Process]:
    """Return the servers whose log is in a run's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "vllm.entrypoints.cli.main" in (process.info["cmdline"] or ()) and run.exists():
            with suppress(psutil.Error):
                if any(str(run) in one.path for one in process.open_files()):
                    found.append(process)
    return found


def test_a_server_that_is_killed_is_started_again_and_no_episode_ends_for_it(
    model_folder: Path, tmp_path: Path, launching: VllmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.served.LEAST_LIFE_S", 0.0)
    killer = Assassin(tmp_path / "run", every=25)
    recipe = test_lora_runs.preference_recipe(model_folder, "sft", "eto")
    play(served_by(recipe, launching), tmp_path / "run", killer)
    assert killer.num_kills >= 2
    for file in (tmp_path / "run").glob("seed-0/**/trajectories.jsonl"):
        assert not [one for one in read_trajectories(file) if one.error]
    assert servers_of(tmp_path / "run") == []


def test_eval_plays_a_base_and_an_adapter_on_a_server(model_folder: Path, tmp_path: Path) -> None:
    play(test_lora_runs.preference_recipe(model_folder, "sft"), tmp_path / "run")
    adapter = str((tmp_path / "run/seed-0/sft/sft-target/checkpoint").resolve())
    models = [str(model_folder), adapter]
    config = play_config(tmp_path / "run", {}, arm_of=Path(adapter))
    here = evaluate_models(config, models, None, SilentProgress())
    with ModelServer(model_folder) as server:
        elsewhere = replace(config, sampler=SamplerConfig(kind="vllm"), vllm=VllmConfig(base_urls=(server.url,)))
        there = evaluate_models(elsewhere, models, tmp_path / "there.jsonl", SilentProgress())
    for model in models:
        assert [one.turns for one in there[model]] == [one.turns for one in here[model]]
    assert [one.turns for one in here[models[0]]] != [one.turns for one in here[models[1]]]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vllm.base_urls", ["ftp://x"], "base_urls: no web address"),
        ("vllm.base_urls", ["http://user:secret@host"], "takes no user, password"),
        ("vllm.extra_args", ["--trust_remote_code"], "extra_args: --trust-remote-code can't be set there"),
        ("vllm.extra_args", ["--host=0.0.0.0"], "extra_args: --host can't be set there"),
        ("sampler.kind", "vllm", "takes either running servers"),
        ("rl.max_server_ratio", 0.5, "rl.max_server_ratio"),
    ],
)
def test_bad_settings_are_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "toy"\nmethod = "sft"\n[env]\nid = "tests.toy_world:ToyWorld"\n')
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_recipe(recipe, {key: value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["base_urls", "python", "extra_args"])
def test_a_recipe_does_not_choose_what_is_run_here(key: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'name = "toy"\nmethod = "sft"\n[vllm]\n{key} = "x"\n')
    with pytest.raises(ConfigError, match=f"vllm.{key}' stands on the command line alone"):
        load_recipe(recipe)


def test_running_servers_take_no_new_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "toy"\nmethod = "sft"\n[sampler]\nkind = "vllm"\n')
    with pytest.raises(ConfigError, match="take new adapters, not new weights"):
        load_recipe(recipe, {"vllm.base_urls": ["http://localhost:8000"]})


def test_a_language_model_that_is_not_named_is_the_runs_base() -> None:
    server = ChatServer(url="http://127.0.0.1:8000/v1", model="base", key_variable="NONE", key="secret-of-the-run")
    asked = server.config(OpenAIConfig(timeout_s=7.0))
    assert (asked.base_url, asked.model, asked.timeout_s) == ("http://127.0.0.1:8000/v1", "base", 7.0)
    assert "secret" not in repr(server) and "secret" not in repr(asked)
    values = {"name": "grown", "method": "coevolve", "env": {"id": "bfcl"}, "synthesis": {"kind": "language-model"}}
    recipe_from_dict(values)  # in this process
    apart = values | {"engine": {"kind": "fsdp"}}
    with pytest.raises(ConfigError, match="a language model is asked, and none is named"):
        recipe_from_dict(apart)
    recipe_from_dict(apart | {"explorer": {"model": "sparring-tools"}})
    recipe_from_dict(values | {"sampler": {"kind": "vllm"}, "vllm": {"launch": True}})
