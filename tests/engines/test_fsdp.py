"""Weights over ranks: what they compute is what one process computes, whatever the split; and who may start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ConfigError
from sparring.core.progress import SilentProgress
from sparring.data.batches import pack_together
from sparring.engines.fsdp import codec
from sparring.engines.fsdp.codec import Message
from sparring.engines.fsdp.files import Entry, Stream, open_rows
from sparring.engines.fsdp.plan import deal, plan_batches, plan_passes
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
from sparring.runs.config import Recipe
from sparring.runs.ranks import sent_kinds
from sparring.runs.recipe import run_recipe
from tests.engines import ranked
from tests.engines.rank_checks import CASES, FEWER
from tests.methods.test_methods import make_recipe
from tests.training_toys import qwen, sampled_groups, task_groups

TOLERANCE = 1e-5
SUMS = 5e-5
"""Of metrics, which are sums over pairs of differences of log-probabilities of a hundred nats."""


# ── Numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def groups(folder: Path) -> list[dict[str, Any]]:
    """What two ranks found, and what three did."""
    return ranked.call("2,3", "everything", folder)


def test_two_and_three_ranks_compute_what_one_process_does(groups: list[dict[str, Any]]) -> None:
    for found, cases in zip(groups, (CASES, FEWER), strict=True):
        assert set(found["equality"]) == set(cases)
        for name, gaps in found["equality"].items():
            for what, gap in gaps.items():
                assert gap <= (SUMS if what == "metrics" else TOLERANCE), (name, what, gap)


def test_states_go_on_with_another_number_of_ranks(groups: list[dict[str, Any]]) -> None:
    two, three = (found["states"] for found in groups)
    assert two["next"] == pytest.approx(two["expected"], rel=TOLERANCE)
    for key in ("next", "on one device", "from one device"):
        assert three[key] == pytest.approx(two["next"], rel=TOLERANCE), key
    assert three["saved"] == [[2, {"epoch": 1}]] * 2
    assert three["continued"] == pytest.approx(three["expected"], rel=TOLERANCE)
    assert max(three["gaps"]) <= TOLERANCE


@pytest.mark.usefixtures("groups")
def test_checkpoints_are_the_same_folders(folder: Path) -> None:
    """Of a model that came in half precision."""
    sharded, local = folder / "FsdpLearner/checkpoint", folder / "LocalLearner/checkpoint"
    assert {path.name for path in sharded.iterdir()} == {path.name for path in local.iterdir()}
    for path in local.iterdir():
        if path.suffix == ".safetensors":
            one, other = load_file(sharded / path.name), load_file(path)
            assert one.keys() == other.keys()
            for name, tensor in other.items():
                assert one[name].dtype == tensor.dtype == torch.bfloat16
                torch.testing.assert_close(one[name], tensor, rtol=0.01, atol=1e-3)
        else:
            assert (sharded / path.name).read_bytes() == path.read_bytes()


def test_what_goes_wrong_on_a_rank_is_told_on_the_first(groups: list[dict[str, Any]]) -> None:
    found = groups[1]["broken"]
    loss, task, refusal = found["said"]
    assert "loss is" in loss and task == "task-1" and "by the config" in refusal
    assert found["norm"] == found["gap"] == 0.0


# ── Plans ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_are_dealt_by_their_tokens() -> None:
    assert deal([5, 4, 3, 2], 2) == [[0, 3], [1, 2]]
    assert deal([9, 1, 1], 3) == [[0], [1], [2]]


def test_every_rank_has_as_many_passes() -> None:
    def cut(lengths: Any) -> list[list[int]]:
        return pack_together(lengths, 100)

    groups = [[90, 90], [60], [50, 50], [10]]
    plan = plan_batches(groups, 2, 120, cut)
    assert sorted(index for batches in plan for batch in batches for index in batch.items) == [0, 1, 2, 3]
    assert [batch.num_passes for batch in plan[0]] == [batch.num_passes for batch in plan[1]]
    for batches in plan:
        for batch in batches:
            nodes = [length for index in batch.items for length in groups[index]]
            assert len(cut(nodes)) <= batch.num_passes if nodes else batch.num_passes > 0
    lone = plan_batches([[30]], 3, 120, cut)
    assert [batches[0].items for batches in lone] == [(0,), (), ()] and all(one[0].num_passes == 1 for one in lone)
    assert [batch.num_passes for batch in plan_passes([90, 90, 90], 2, cut)] == [2, 2]


# ── Messages and files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_groups_and_objectives_arrive_as_they_were_sent() -> None:
    groups = [*task_groups(2), *sampled_groups(3, qwen())]
    assert codec.groups_of(codec.unpack(codec.pack(codec.groups_message(groups)))) == groups
    critic = ActorCriticObjective(policy=PolicyGradientObjective(max_server_ratio=2.0, temperature=0.3))
    for objective in (SFTObjective(), PreferenceObjective(config=LossConfig(beta=0.3)), critic):
        plain = codec.unpack(codec.pack(Message({"it": codec.to_plain(objective, sent_kinds())}))).values["it"]
        assert codec.from_plain(plain, sent_kinds()) == objective


def test_an_objective_that_ranks_do_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't send a LossConfig"):
        codec.to_plain(LossConfig(), codec.kinds_of(SFTObjective))


def test_a_file_is_written_tensor_by_tensor_and_read_row_by_row(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(5, 3),
        "b": torch.randn(4).bfloat16(),
        "c": torch.tensor(7.0),
        "d": torch.zeros(0, 3),
    }
    entries = [Entry(name=name, shape=tuple(one.shape), dtype=one.dtype) for name, one in tensors.items()]
    stream = Stream(tmp_path / "file.safetensors", entries)
    for tensor in tensors.values():
        stream.add(tensor)
    stream.close()
    assert stream.error is None
    read = load_file(tmp_path / "file.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    with open_rows(tmp_path / "file.safetensors") as rows:
        assert torch.equal(rows.read("a", slice(2, 4)), tensors["a"][2:4]) and rows.shape("a") == (5, 3)


def test_a_disk_that_is_full_is_told_at_the_end(tmp_path: Path) -> None:
    stream = Stream(Path("/dev/full"), [Entry(name="a", shape=(10**5,), dtype=torch.float32)])
    stream.add(torch.zeros(10**5))
    stream.close()
    assert stream.error is not None and stream.error.filename == "/dev/full"


# ── Who may start ─────────────────────────────────────────────────────────────────────────────────────────────────────


def toy(engine: str) -> Recipe:
    return make_recipe(Path("nowhere"), "eto", engine={"kind": engine}, lora={"rank": 4})


def test_ranks_take_torchrun(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torchrun --nproc-per-node NUM_GPUS -m sparring run RECIPE"):
        run_recipe(toy("fsdp"), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_torchrun_takes_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for kind in ("local", "tinker"):
        with pytest.raises(ConfigError, match=rf"torchrun started 2 processes, and engine.kind is '{kind}'"):
            run_recipe(toy(kind), tmp_path / "run", SilentProgress())
    with pytest.raises(ConfigError, match="one job at a time"):
        run_recipe(toy("fsdp"), tmp_path / "run", SilentProgress(), num_jobs=2)
