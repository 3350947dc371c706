"""Tiny models and encoded trajectories for tests of training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sparring.core.types import PairKind
from sparring.data.batches import Edge, Group, Sample, groups_from_samples
from sparring.data.chat import Encoded
from sparring.engines import checkpoint, value_head
from sparring.engines.base import Objective
from sparring.engines.learner import LocalLearner
from sparring.engines.value_head import ValueHead
from sparring.learning import trainer
from sparring.learning.trainer import FitResult, Start, TrainConfig, Watch

# Models as small as these gain nothing from threads, and lose much when threads wait for each other on a busy machine.
torch.set_num_threads(1)

VOCABULARY = 61


def qwen(seed: int = 0, *, dtype: torch.dtype = torch.float32, **changes: object) -> Qwen3ForCausalLM:
    """Make a random two-layer Qwen3 with grouped queries and a tied head."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    return Qwen3ForCausalLM(Qwen3Config(**(shape | changes))).to(dtype).eval()


def node(seed: int, num_turns: int, *, prefix: Sequence[int] = ()) -> Encoded:
    """Draw an episode: a first observation, then actions of 2 to 4 tokens with observations of 2 to 8 between them."""
    rng = random.Random(seed)
    ids, spans = list(prefix) or [rng.randrange(VOCABULARY) for _ in range(rng.randrange(4, 9))], []
    for turn in range(num_turns):
        if turn:
            ids += [rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 9))]
        start = len(ids)
        ids += [rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 5))]
        spans.append((start, len(ids)))
    return Encoded(ids=tuple(ids), spans=tuple(spans))


def edge(kind: PairKind, chosen: int, rejected: int, chosen_turns: int, rejected_turns: int, shared: int = 0) -> Edge:
    return Edge(
        chosen=chosen,
        rejected=rejected,
        chosen_turns=chosen_turns,
        rejected_turns=rejected_turns,
        kind=kind,
        shared_turns=shared,
    )


def task_group(number: int) -> Group:
    """Make an expert of 3 turns, a target of 5, a partner of 4, and Eq. 8's three pairs, one of them cut."""
    nodes = tuple(node(10 * number + i, turns) for i, turns in enumerate((3, 5, 4)))
    return Group(
        task_id=f"task-{number}",
        nodes=nodes,
        edges=(
            edge(PairKind.EXPERT_TARGET, 0, 1, 3, 4),
            edge(PairKind.EXPERT_PARTNER, 0, 2, 3, 4),
            edge(PairKind.FAILURE_FAILURE, 1, 2, 5, 4),
        ),
    )


def task_groups(num: int) -> list[Group]:
    return [task_group(number) for number in range(num)]


def lone_groups(num: int) -> list[Group]:
    """Make groups of one trajectory, for cloning."""
    return [Group(task_id=f"task-{i}", nodes=(node(i, 2 + i % 4),)) for i in range(num)]


def action_mask(encoded: Encoded) -> list[int]:
    return [int(any(start <= i < end for start, end in encoded.spans)) for i in range(len(encoded.ids))]


def plain_logprobs(model: torch.nn.Module, encoded: Encoded, *, temperature: float = 1.0) -> torch.Tensor:
    """Compute log π of the action tokens the simple way: one sequence, full logits, the model's own forward."""
    ids = torch.tensor([encoded.ids])
    logits = model(input_ids=ids).logits[0, :-1] / temperature
    logprobs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    return logprobs[torch.tensor(action_mask(encoded)[1:], dtype=torch.bool)]


def fit(
    model: torch.nn.Module,
    groups: Sequence[Group],
    objective: Objective,
    config: TrainConfig,
    *,
    seed: int,
    state_dir: Path,
    moments: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FitResult:
    """Train a model in this process; with moments, from where another training's optimizer stood."""
    start = Start(seed=seed, state_dir=state_dir, is_continued=moments is not None)
    watch = Watch(log=log, progress=progress)
    learner = LocalLearner(model)
    if moments is not None:
        learner.go_on_from(moments)
    return trainer.fit(learner, groups, objective, config, start, watch)


def attach_value_head(model: torch.nn.Module, folder: Path = Path("nowhere"), *, lr: float = 0.01) -> ValueHead:
    """Hang a value head on a model: that of a checkpoint's folder, or a new one."""
    head = value_head.load(model, folder, lr=lr)
    model.add_module("value_head", head)
    return head


def newest_moments(state_dir: Path) -> Path:
    """Return the optimizer's file in the state that was saved last."""
    state = checkpoint.newest_state(state_dir)
    assert state
    return state.path / "optimizer.safetensors"


def sampled_groups(num: int, model: torch.nn.Module, *, temperature: float = 1.0) -> list[Group]:
    """Make groups of one trajectory for policy gradient: log-probs are the model's, advantages alternate in sign."""
    nodes = [node(seed, 2 + seed % 4) for seed in range(num)]
    samples = []
    for number, encoded in enumerate(nodes):
        with torch.no_grad():
            logprobs = plain_logprobs(model, encoded, temperature=temperature).tolist()
        num_tokens = len(logprobs)
        samples.append(
            Sample(
                advantages=((-1.0) ** number * (0.5 + number % 3),) * num_tokens,
                logprobs=tuple(logprobs),
                reference=tuple(value - 0.1 for value in logprobs),
                values=(0.25,) * num_tokens,
                returns=(float(number % 2),) * num_tokens,
            )
        )
    return groups_from_samples(
        (f"task-{number}", encoded, sample) for number, (encoded, sample) in enumerate(zip(nodes, samples, strict=True))
    )
