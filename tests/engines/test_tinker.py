"""Agents behind the Tinker API, on a stand-in for the package over a small model of ours. What must hold:

- training there is training here: the same losses and weights, for every objective, whatever the server's reduction;
- an unfinished training goes on after the client or the server was killed, and ends alike;
- a sampler that has other weights, a server that is gone or has lost its states, end the run with one message.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ConfigError, DataError, EnvFault, SparringError, TrainingError
from sparring.data.batches import Group
from sparring.data.chat import ChatConfig
from sparring.engines.base import Compute, Learner
from sparring.engines.local import LoraEngine
from sparring.engines.tinker.engine import TinkerEngine
from sparring.engines.tinker.learner import TinkerLearner
from sparring.engines.tinker.states import PUBLISHED
from sparring.learning import trainer
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.policy_gradient import PolicyGradientObjective
from sparring.learning.trainer import Start, TrainConfig, Watch
from sparring.models.loading import ModelConfig, save_model
from sparring.models.lora import LoraConfig
from sparring.policies.factory import Prompt, Sampling
from sparring.policies.tinker import waiting
from sparring.policies.tinker.config import KEY_VARIABLE, TinkerConfig
from tests.tinker_service import TinkerService
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training_toys import lone_groups, sampled_groups, task_groups

RANK = 4
PROMPT = Prompt(config=ChatConfig(format="action", max_context=256), instruction="")
GREEDY = Sampling(temperature=0.0, max_new_tokens=4)
ONE_STEP = TrainConfig(lr=1e-3, epochs=1, batch_size=64, clip_norm=None, save_every_s=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=2.0), tiny_tokenizer("chatml"), made)  # pyright: ignore
    return made


@pytest.fixture
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TinkerService:
    found = TinkerService(folder)
    found.install(monkeypatch)
    return found


def engine_of(service: TinkerService, **options: Any) -> TinkerEngine:
    model = ModelConfig(path=str(service.folder), dtype="float32")
    return TinkerEngine(model, LoraConfig(rank=RANK), TinkerConfig(**options), PROMPT.chat)


def local_engine(service: TinkerService) -> LoraEngine:
    return LoraEngine(ModelConfig(path=str(service.folder), dtype="float32"), LoraConfig(rank=RANK), PROMPT.chat)


def fit(
    learner: Learner, groups: list[Group], objective: Any, config: TrainConfig, state_dir: Path, **more: Any
) -> Any:
    log: list[dict[str, Any]] = []
    trainer.fit(learner, groups, objective, config, Start(seed=0, state_dir=state_dir, **more), Watch(log=log.append))
    return log


def groups_for_policy_gradient(service: TinkerService) -> list[Group]:
    return sampled_groups(4, service.model)


OBJECTIVES: dict[str, tuple[Any, Callable[[TinkerService], list[Group]]]] = {
    "cloning": (SFTObjective(), lambda _: lone_groups(5)),
    "Eq. 9": (PreferenceObjective(config=LossConfig(beta=0.5, expert_sft=0.25)), lambda _: task_groups(3)),
    "GRPO": (PolicyGradientObjective(kl_weight=0.1), groups_for_policy_gradient),
}


@pytest.mark.parametrize("is_mean", [True, False], ids=["means", "sums"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_there_is_training_here(service: TinkerService, tmp_path: Path, name: str, is_mean: bool) -> None:
    service.is_mean = is_mean
    objective, make_groups = OBJECTIVES[name]
    groups = make_groups(service)
    config = TrainConfig(lr=1e-3, epochs=2, batch_size=3, clip_norm=None if is_mean else 0.5)
    far, _ = engine_of(service).learner(str(service.folder), seed=1)
    far.publish(tmp_path / "start")
    near, _ = local_engine(service).learner(str(tmp_path / "start"))
    there, here = (
        fit(one, groups, objective, config, tmp_path / where) for one, where in ((far, "far"), (near, "near"))
    )
    assert len(there) == len(here) > 2
    for one, other in zip(there, here, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    far.publish(tmp_path / "far-agent")
    near.publish(tmp_path / "near-agent")
    weights, expected = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("far-agent", "near-agent"))
    start = load_file(tmp_path / "start" / "adapter_model.safetensors")
    moved = sum((expected[key] - start[key]).abs().sum() for key in start)
    assert sum((weights[key] - expected[key]).abs().sum() for key in start) < 0.02 * moved


def test_the_server_s_cross_entropy_with_gradients_as_weights_would_be_another_gradient(service: TinkerService) -> None:
    """Why a backward pass is importance sampling: a rejected side's weights add up to less than nothing."""
    from sparring.policies.tinker.client import Pull, Service

    ids, counts = list(range(3, 11)), [False, True, True, False, True, True, True]
    adapter = Service(TinkerConfig()).create(str(service.folder), RANK, 0)
    logprobs = adapter.forward([ids]).result()[0]
    strengths = [0.0, -0.5, -1.0, 0.0, -0.25, -0.5, 0.75]
    pull = Pull(ids=ids, logprobs=logprobs, strengths=strengths, counts=counts)
    adapter.backward([pull], is_mean=True, num=1).result()
    (model,) = service.live
    found = {name: one.grad.clone() for name, one in service.parameters(model).items()}  # pyright: ignore
    service.model.zero_grad()
    (-(service.logprobs(ids) * torch.tensor(strengths)).sum()).backward()
    for name, one in service.parameters(model).items():
        assert torch.allclose(found[name], one.grad, atol=1e-6), name  # pyright: ignore
    service.model.zero_grad()
    datum = adapter._datum(ids, weights=strengths)
    service.pass_over(model, [datum], "cross_entropy", backward=True)
    norms = [sum(one.norm() for one in found.values()), 0.0]
    norms[1] = sum(one.grad.norm() for one in service.parameters(model).values())  # pyright: ignore
    assert norms[1] > 1e6 * norms[0]


def test_a_step_waits_for_the_gradients_that_belong_to_it(service: TinkerService, tmp_path: Path) -> None:
    """SkyRL takes a step that is asked for right behind a backward pass now and then before that pass."""
    learner, _ = engine_of(service).learner(str(service.folder), seed=1)
    expected = fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / "prompt")
    service.delay_s = 0.05
    learner, _ = engine_of(service).learner(str(service.folder), seed=1)
    assert fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / "late") == expected


def test_a_step_without_its_gradients_is_told_of(
    service: TinkerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, _ = engine_of(service).learner(str(service.folder), seed=1)
    take = service.step

    def forgetful(model: str, adam: Any) -> Any:
        service.live[model].optimizer.zero_grad(set_to_none=False)
        return take(model, adam)

    monkeypatch.setattr(service, "step", forgetful)
    with pytest.raises(TrainingError, match="took an optimizer step without the gradients"):
        fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / "state")


class Stopped(Exception):
    """The client is killed."""


def stopping_log(after: int) -> Watch:
    def log(record: dict[str, Any]) -> None:
        if record["step"] == after:
            raise Stopped

    return Watch(log=log)


@pytest.mark.parametrize("restarts", [False, True], ids=["client killed", "both killed"])
def test_an_unfinished_training_goes_on(service: TinkerService, tmp_path: Path, restarts: bool) -> None:
    groups, objective = task_groups(3), PreferenceObjective()
    config = TrainConfig(lr=1e-3, epochs=2, batch_size=3, save_every_s=0)
    begin = engine_of(service).learner(str(service.folder), seed=1)[0]
    begin.publish(tmp_path / "start")

    def learner() -> TinkerLearner:
        return engine_of(service).learner(str(tmp_path / "start"))[0]

    whole = learner()
    expected = fit(whole, groups, objective, config, tmp_path / "whole")
    whole.publish(tmp_path / "whole-agent")
    with pytest.raises(Stopped):
        start = Start(seed=0, state_dir=tmp_path / "cut")
        trainer.fit(learner(), groups, objective, config, start, stopping_log(3))
    if restarts:
        service.restart()
    resumed = learner()
    rest = fit(resumed, groups, objective, config, tmp_path / "cut")
    assert 0 < len(rest) < len(expected)
    for one, other in zip(rest, expected[-len(rest) :], strict=True):
        assert one["step"] == other["step"] and one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    resumed.publish(tmp_path / "resumed-agent")
    ended, whole_end = (load_file(tmp_path / f"{one}-agent/adapter_model.safetensors") for one in ("resumed", "whole"))
    assert all(torch.allclose(ended[key], whole_end[key], atol=1e-6) for key in ended)


def test_a_new_training_forgets_the_optimizer_and_a_continued_one_does_not(
    service: TinkerService, tmp_path: Path
) -> None:
    def second(name: str, *, is_continued: bool, through_files: bool) -> dict[str, torch.Tensor]:
        engine = engine_of(service)
        learner, _ = engine.learner(str(service.folder), seed=1)
        fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / f"{name}-1", is_continued=True)
        learner.publish(tmp_path / name, moments=tmp_path / "unused" if is_continued else None)
        if through_files:
            service.restart()
            learner, _ = engine_of(service).learner(str(tmp_path / name))
        fit(learner, lone_groups(3)[:1], SFTObjective(), ONE_STEP, tmp_path / f"{name}-2", is_continued=True)
        learner.publish(tmp_path / f"{name}-end")
        return load_file(tmp_path / f"{name}-end/adapter_model.safetensors")

    results = {
        (kept, files): second(f"{kept}-{files}", is_continued=kept, through_files=files)
        for kept in (True, False)
        for files in (True, False)
    }

    def gap(one: tuple[bool, bool], other: tuple[bool, bool]) -> float:
        return max((results[one][key] - value).abs().max().item() for key, value in results[other].items())

    assert gap((True, True), (True, False)) < 1e-6 and gap((False, True), (False, False)) < 1e-6
    assert gap((True, True), (False, True)) > 1e-5


def test_a_fetched_adapter_plays_here(service: TinkerService, tmp_path: Path) -> None:
    engine = engine_of(service)
    learner, _ = engine.learner(str(service.folder), seed=1)
    fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / "state")
    learner.publish(tmp_path / "agent")
    near, _ = local_engine(service).learner(str(tmp_path / "agent"))
    nodes = [group.nodes[0] for group in lone_groups(3)]
    for one, other in zip(learner.score(nodes, Compute())[0], near.score(nodes, Compute())[0], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_without_archives_an_agent_is_a_record_alone(service: TinkerService, tmp_path: Path) -> None:
    service.gives_archives = False
    learner, _ = engine_of(service).learner(str(service.folder), seed=1)
    learner.publish(tmp_path / "agent")
    assert [one.name for one in (tmp_path / "agent").iterdir()] == [PUBLISHED]
    assert "secret" not in (tmp_path / "agent" / PUBLISHED).read_text()


def trained_agent(engine: TinkerEngine, service: TinkerService, tmp_path: Path) -> str:
    learner, _ = engine.learner(str(service.folder), seed=1)
    config = TrainConfig(lr=5e-2, epochs=4, batch_size=8)
    fit(learner, lone_groups(3), SFTObjective(), config, tmp_path / "state")
    learner.publish(tmp_path / "agent")
    engine.trained(learner, str(tmp_path / "agent"))
    return str(tmp_path / "agent")


def test_a_sampler_that_plays_the_base_is_found_out(service: TinkerService, tmp_path: Path) -> None:
    engine = engine_of(service)
    agent = trained_agent(engine, service, tmp_path)
    engine.policy(agent, GREEDY)
    service.samples_base = True
    engine = engine_of(service)
    with pytest.raises(TrainingError, match="samples with other weights than were trained"):
        engine.policy(agent, GREEDY)


def test_a_lost_server_is_told_of_in_time(
    service: TinkerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    learner, _ = engine_of(service, lost_after_s=0.2).learner(str(service.folder), seed=1)
    service.is_down = True
    with pytest.raises(EnvFault, match=r"no sign of life for 0\.2 s\. Start it again"):
        fit(learner, lone_groups(3), SFTObjective(), ONE_STEP, tmp_path / "state")


def test_a_slow_answer_is_waited_for_as_long_as_the_server_lives(
    service: TinkerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    asked: Future[int] = Future()
    watch = waiting.Watch(lambda: None, lambda error: SparringError(), timeout_s=0.5, lost_after_s=0.1, lost="lost")
    with pytest.raises(EnvFault, match=r"is alive and has not answered a request within 0\.5 s"):
        watch.over(asked).result(timeout=5)


def test_live_weights_that_are_lost_are_told_of(service: TinkerService, tmp_path: Path) -> None:
    learner, _ = engine_of(service).learner(str(service.folder), seed=1)
    with learner.training(Compute(), lone_groups(1)[0].nodes[0]):
        service.restart()
        with pytest.raises(EnvFault, match=r"lost the run's live weights.*same command again"):
            learner.logprobs(lone_groups(1)[0].nodes)


def test_states_that_are_lost_are_told_of(service: TinkerService, tmp_path: Path) -> None:
    agent = trained_agent(engine_of(service), service, tmp_path)
    service.states.clear()
    learner, _ = engine_of(service).learner(agent)
    with pytest.raises(DataError, match="does not have the saved state tinker://"):
        learner.score(lone_groups(1)[0].nodes, Compute())


def test_the_key_stands_in_no_message(service: TinkerService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "tml-wrong")
    with pytest.raises(ConfigError) as raised:
        engine_of(service).learner(str(service.folder), seed=1)[0].score(lone_groups(1)[0].nodes, Compute())
    assert KEY_VARIABLE in str(raised.value) and "tml-wrong" not in str(raised.value)


def test_another_model_on_the_server_is_refused(service: TinkerService, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), other)  # pyright: ignore
    model = ModelConfig(path=str(other), dtype="float32")
    with pytest.raises(ConfigError, match=r"serve the run's own model, or name it as the server does"):
        TinkerEngine(model, LoraConfig(rank=RANK), TinkerConfig(), PROMPT.chat).learner(str(other))
    named = TinkerConfig(base_model=str(service.folder))
    TinkerEngine(model, LoraConfig(rank=RANK), named, PROMPT.chat).learner(str(other))


@pytest.mark.parametrize("key", ["", "plain"])
def test_a_missing_key_is_told_of_at_once(service: TinkerService, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE}: .* begins with 'tml-'"):
        engine_of(service)
    assert not service.calls
