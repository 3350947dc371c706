"""Compare the estimate of memory with what a training step takes at its peak, on a CPU.

    python -m benchmarks.memory_estimate            all cases, each in a process of its own, gaps left out
    python -m benchmarks.memory_estimate CASE       one of them, with the gaps

A step of AdamW over a micro-batch of pairs is followed by one over two: then moments are there, and gradients too while
the second micro-batch's activations are. What is measured is the process's largest resident set, less what it was
before the model was loaded. glibc keeps what was freed in gaps between what is in use; in all cases but one named by
itself its thresholds are set so that blocks go back at once, since gaps are no part of the estimate.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOKENS = {"bundled": 8192, "llama-100M": 1024, "qwen3-100M": 1024}
"""Of a micro-batch."""
CASES = {
    f"{model} {'lora' if rank else 'full'}{' recompute' if recompute else ''}": (model, rank, recompute)
    for model in ("bundled", "llama-100M", "qwen3-100M")
    for rank in (None, 16)
    for recompute in (False, True)
}
NO_GAPS = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
SHAPE: dict[str, Any] = {
    "vocab_size": 16384,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


def folder_of(model: str, place: Path) -> Path:
    """Return the bundled model's folder, or write one of a random model."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from sparring.models.loading import BUNDLED

    bundled = BUNDLED["sparring-worlds"]
    if model == "bundled":
        return bundled
    if model.startswith("llama"):
        made: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    else:
        made = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True))
    made.save_pretrained(place)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(place)
    return place


def groups_of(num_tokens: int) -> list[Any]:
    """Make pairs of two sequences of 512 tokens, a quarter of which are actions."""
    from sparring.core.types import PairKind
    from sparring.data.batches import Edge, Group
    from sparring.data.chat import Encoded

    draw = random.Random(0)
    spans = tuple((start, start + 16) for start in range(32, 512, 64))
    drawn = [tuple(draw.randrange(4000) for _ in range(512)) for _ in range(num_tokens // 512)]
    nodes = [Encoded(ids=ids, spans=spans) for ids in drawn]
    edge = Edge(
        chosen=0,
        rejected=1,
        chosen_turns=len(spans),
        rejected_turns=len(spans),
        kind=PairKind.EXPERT_TARGET,
        shared_turns=0,
    )
    return [Group(task_id=str(i), nodes=tuple(nodes[2 * i : 2 * i + 2]), edges=(edge,)) for i in range(len(nodes) // 2)]


def resident() -> int:
    """Return the bytes that the process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(folder: Path, tokens: int, rank: int | None, recompute: bool) -> int:
    """Take a training step, and return what it took at its peak."""
    import torch

    from sparring.data.batches import num_action_tokens
    from sparring.engines.recomputation import recompute_layers
    from sparring.engines.scoring import Forward
    from sparring.learning.objectives import LossConfig, PreferenceObjective
    from sparring.models import lora
    from sparring.models.loading import ModelConfig, load_model

    before = resident()
    model, _ = load_model(ModelConfig(path=str(folder), dtype="float32", device="cpu"))
    if rank:
        lora.attach(model, "target", lora.LoraConfig(rank=rank), 0)
    if recompute:
        recompute_layers(model)
    objective, groups = PreferenceObjective(config=LossConfig()), groups_of(tokens)
    forward = Forward(model, max_tokens=tokens)
    reference = [torch.full((num_action_tokens(node),), -9.0) for group in groups for node in group.nodes]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, fused=True)
    for num_batches in (1, 2):
        for _ in range(num_batches):
            logprobs = forward([node for group in groups for node in group.nodes])
            loss, _ = objective(groups, logprobs, reference)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def main() -> None:
    """Print a row for each case."""
    if len(sys.argv) < 2:
        for case in CASES:
            words = [sys.executable, "-m", "benchmarks.memory_estimate", case]
            subprocess.run(words, check=True, env=os.environ | NO_GAPS)
        return
    import torch

    torch.set_num_threads(1)
    from sparring.models.lora import LoraConfig
    from sparring.models.memory import Demand, estimate

    model, rank, recompute = CASES[sys.argv[1]]
    with tempfile.TemporaryDirectory() as place:
        # Made elsewhere, so that neither the random model nor the counting is in this process's largest resident set.
        code = "import sys, pathlib; from benchmarks.memory_estimate import folder_of as f; "
        code += "print(f(sys.argv[1], pathlib.Path(sys.argv[2])))"
        words = [sys.executable, "-c", code, model, place]
        folder = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
        demand = Demand(
            folder=folder,
            lora=LoraConfig(rank=rank),
            max_tokens_per_batch=TOKENS[model],
            recompute=recompute,
            num_agents=1,
            num_envs=1,
            max_context=1,
        )
        found = estimate(demand)  # it also imports what the step needs
        taken = measure(folder, TOKENS[model], rank, recompute)
    ratio = found.total / taken
    sizes = f"estimated {found.total / 1e6:5.0f} MB, taken {taken / 1e6:5.0f} MB"
    print(f"{sys.argv[1]:28} {sizes}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
