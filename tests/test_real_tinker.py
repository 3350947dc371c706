"""SkyRL's Tinker server on JAX and a CPU, with a small random model. What must hold:

- training there is training here, from the same adapter, for cloning and for Eq. 9;
- what its sampler says is what the learner says, and sampling leaves live weights as they are;
- a training goes on after the client and the server were killed, and loses no step that was saved;
- a server that is killed ends a training with one message.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import EnvFault
from sparring.data.chat import ChatConfig, Encoded
from sparring.engines.base import Compute
from sparring.engines.local import LoraEngine
from sparring.engines.tinker.engine import TinkerEngine
from sparring.learning import trainer
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.trainer import Start, TrainConfig, Watch
from sparring.models.loading import ModelConfig, save_model
from sparring.models.lora import LoraConfig
from sparring.policies.factory import Prompt, Sampling
from sparring.policies.tinker.config import KEY_VARIABLE, TinkerConfig
from tests.skyrl import SkyRL
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training_toys import lone_groups, task_groups

pytestmark = [pytest.mark.tinker, pytest.mark.slow]

RANK = 4
PROMPT = Prompt(config=ChatConfig(format="action", max_context=256), instruction="")


@pytest.fixture(scope="module")
def server(skyrl_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkyRL]:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=2.0), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    found = SkyRL(skyrl_python, folder, tmp_path_factory.mktemp("skyrl"))
    found.start()
    yield found
    found.kill()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "tml-none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def engine_of(server: SkyRL, **options: Any) -> TinkerEngine:
    model = ModelConfig(path=str(server.model), dtype="float32")
    return TinkerEngine(model, LoraConfig(rank=RANK), TinkerConfig(base_url=server.url, **options), PROMPT.chat)


def nodes() -> list[Encoded]:
    return [node for group in task_groups(3) for node in group.nodes]


OBJECTIVES = {
    "cloning": (SFTObjective(), lone_groups(6)),
    "Eq. 9": (PreferenceObjective(config=LossConfig(beta=0.3)), task_groups(3)),
}
GENTLE = TrainConfig(lr=1e-4, epochs=2, batch_size=3, clip_norm=None, save_every_s=0)
"""A small rate: rounding grows with every step of Adam."""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_there_is_training_here(server: SkyRL, tmp_path: Path, name: str) -> None:
    objective, groups = OBJECTIVES[name]
    engine = engine_of(server)
    far, _ = engine.learner(str(server.model), seed=1)
    far.publish(tmp_path / "start")
    model = ModelConfig(path=str(server.model), dtype="float32")
    near, _ = LoraEngine(model, LoraConfig(rank=RANK), PROMPT.chat).learner(str(tmp_path / "start"))
    logs: list[list[dict[str, Any]]] = []
    for who, where in ((far, "far"), (near, "near")):
        logs.append([])
        trainer.fit(
            who, groups, objective, GENTLE, Start(seed=0, state_dir=tmp_path / where), Watch(log=logs[-1].append)
        )
    for one, other in zip(*logs, strict=True):
        print(f"{name} {one['step']}: loss {one['loss']:.6f} {other['loss']:.6f}", end="; ")
        print(f"norm {one['grad_norm']:.5f} {other['grad_norm']:.5f}")
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-5)
    assert logs[0][0]["grad_norm"] == pytest.approx(logs[1][0]["grad_norm"], rel=1e-4)
    gaps = [
        (one - other).abs().max().item()
        for one, other in zip(far.score(nodes(), Compute())[0], near.score(nodes(), Compute())[0], strict=True)
    ]
    print(f"{name}: log-probabilities differ by {max(gaps):.1e} at most")
    assert max(gaps) < 0.02
    engine.close()


def test_its_sampler_has_the_learner_s_weights_and_leaves_them(server: SkyRL, tmp_path: Path) -> None:
    engine = engine_of(server, tolerance=1e-3)
    learner, _ = engine.learner(str(server.model), seed=2)
    trainer.fit(learner, lone_groups(3), SFTObjective(), GENTLE, Start(seed=0, state_dir=tmp_path / "state"))
    learner.publish(tmp_path / "agent")
    engine.trained(learner, str(tmp_path / "agent"))
    before, _ = learner.score(nodes(), Compute())
    engine.policy(str(tmp_path / "agent"), Sampling(temperature=1.0, max_new_tokens=4, keep_logprobs=True))
    after, _ = learner.score(nodes(), Compute())
    assert max((one - other).abs().max().item() for one, other in zip(before, after, strict=True)) < 1e-5
    engine.close()


class Stopped(Exception):
    """The client is killed."""


def test_a_training_goes_on_after_client_and_server_were_killed(server: SkyRL, tmp_path: Path) -> None:
    objective, groups = OBJECTIVES["Eq. 9"]
    engine_of(server).learner(str(server.model), seed=3)[0].publish(tmp_path / "start")

    def train(where: str, log: Any, **options: Any) -> None:
        learner, _ = engine_of(server, **options).learner(str(tmp_path / "start"))
        trainer.fit(learner, groups, objective, GENTLE, Start(seed=0, state_dir=tmp_path / where), Watch(log=log))

    whole: list[dict[str, Any]] = []
    train("whole", whole.append)

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train("cut", stop)

    def kill(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            server.kill()

    started = time.monotonic()
    with pytest.raises(EnvFault, match=r"no sign of life for 5 s|does not answer"):
        train("cut", kill, lost_after_s=5)
    print(f"told after {time.monotonic() - started:.0f} s that the server is gone")
    server.start()
    rest: list[dict[str, Any]] = []
    train("cut", rest.append)
    assert rest and rest[0]["step"] > 2
    for one, other in zip(rest, whole[-len(rest) :], strict=True):
        assert one["step"] == other["step"] and one["loss"] == pytest.approx(other["loss"], rel=1e-3)
