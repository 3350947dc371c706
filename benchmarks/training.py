"""A round's preference training against TRL's DPOTrainer: same pairs, objective, optimizer, steps, dtype and threads.

    python -m benchmarks.training --run runs/quickstart
    python -m benchmarks.training --run runs/quickstart --model FOLDER --lora 16     # another model's adapters

The trajectories are those of a run's first round; both sides start from its SFT weights. TRL is made to compute the
same objective: observations are masked by a collator that emits `completion_mask`, the reference is precomputed,
nothing is cut. TRL's micro-batch is the fastest of several. Pure DPO, since TRL's NLL term is averaged otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.measure import in_child, parse, peak, reset_peak, save, show

TASKS_PER_STEP = 4
LR, BETA, CLIP = 1e-4, 0.1, 1.0
MICRO_BATCHES = (1, 2, 4, 12)
ADAPTER = "trained"
CASES = {
    "one pair a task": (1, ((0, 1),)),
    "three pairs a task": (2, ((0, 1), (0, 2), (1, 2))),
    "four trajectories, three expert pairs": (3, ((0, 1), (0, 2), (0, 3))),
    "four trajectories, all six pairs": (3, tuple(combinations(range(4), 2))),
}
"""Name → failures a task besides the expert's trajectory, and which of them pair."""


# ── The work ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(run: Path, model_path: str = "", rank: int | None = None) -> tuple[Any, Any, dict[str, list[Any]]]:
    """Return a model, its tokenizer, and per task the tokens of expert and failures.

    Args:
        run: whose trajectories are taken.
        model_path: the model; empty: that of the run, at its SFT weights.
        rank: of a new adapter, which alone is trained then.
    """
    from sparring.core.records import read_trajectories
    from sparring.data.chat import Chat, ChatConfig
    from sparring.models import lora
    from sparring.models.loading import ModelConfig, load_model

    seed = min(run.glob("seed-*"))
    config = next(iter(json.loads((run / "config.json").read_text())["arms"].values()))
    checkpoint = min((seed / "shared").glob("sft-target-*")) / "checkpoint"
    model, tokenizer = load_model(ModelConfig(path=model_path or str(checkpoint), dtype="float32"))
    if rank is not None:
        lora.attach(model, ADAPTER, lora.LoraConfig(rank=rank), 0)
    chat = Chat(tokenizer, ChatConfig(**config["chat"]), instruction="")
    tasks = {expert.task.id: [expert] for expert in read_trajectories(run / "experts.jsonl")}
    for file in sorted((seed / "shared").glob("round-1-rollout-*/trajectories.jsonl")):
        for played in read_trajectories(file):
            others = tasks.get(played.task.id, ())
            new = all([t.action for t in played.turns] != [t.action for t in other.turns] for other in others)
            if others and new and played.reward < 1 and played.turns:
                others.append(played)
    ordered = {task: [found[0], *sorted(found[1:], key=lambda t: -t.reward)] for task, found in tasks.items()}
    if model_path:  # another tokenizer
        ordered = {task: list(map(without_ids, found)) for task, found in ordered.items()}
    return model, tokenizer, {task: [chat.encode(t) for t in found] for task, found in ordered.items()}


def without_ids(trajectory: Any) -> Any:
    """Return a trajectory whose actions are text alone."""
    return replace(trajectory, turns=tuple(replace(turn, token_ids=(), logprobs=()) for turn in trajectory.turns))


def make_groups(tasks: dict[str, list[Any]], case: str, num_tasks: int) -> list[Any]:
    """Make the task groups of a case: those tasks that have as many failures as it wants."""
    from sparring.core.types import PairKind
    from sparring.data.batches import Edge, Group, shared_turns

    num_failures, pairs = CASES[case]
    enough = {task: found[: num_failures + 1] for task, found in tasks.items() if len(found) > num_failures}
    chosen = list(enough.items())[: min(num_tasks, len(enough)) // TASKS_PER_STEP * TASKS_PER_STEP]
    return [
        Group(
            task_id=task,
            nodes=tuple(nodes),
            edges=tuple(
                Edge(
                    chosen=a,
                    rejected=b,
                    chosen_turns=len(nodes[a].spans),
                    rejected_turns=len(nodes[b].spans),
                    kind=PairKind.FAILURE_FAILURE if a else PairKind.EXPERT_TARGET,
                    shared_turns=shared_turns(nodes[a], nodes[b]),
                )
                for a, b in pairs
            ),
        )
        for task, nodes in chosen
    ]


# ── The two sides ─────────────────────────────────────────────────────────────────────────────────────────────────────


def train_ours(model: Any, groups: Sequence[Any], *, adapter: str, max_tokens: int) -> list[float]:
    """Train one epoch, in the order of `groups`, and return the losses."""
    from sparring.engines.learner import LocalLearner
    from sparring.learning.objectives import LossConfig, PreferenceObjective
    from sparring.learning.trainer import Start, TrainConfig, Watch, fit

    loss = LossConfig(beta=BETA, expert_dpo=1.0, expert_sft=0.0)
    config = TrainConfig(
        lr=LR,
        epochs=1,
        batch_size=TASKS_PER_STEP * len(groups[0].edges),
        schedule="constant",
        warmup_ratio=0,
        clip_norm=CLIP,
        shuffle=False,
        max_tokens_per_batch=max_tokens,
        autocast="off",
        save_every_s=1e9,
    )
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            LocalLearner(model, adapter=adapter),
            groups,
            PreferenceObjective(config=loss),
            config,
            Start(seed=0, state_dir=Path(folder)),
            Watch(log=lambda record: losses.append(record["loss"])),
        )
    return losses


@dataclass(frozen=True, slots=True)
class MaskedPairs:
    """Collates rows, each a pair's index and its reference's log-probabilities, into TRL's batch."""

    pairs: Sequence[tuple[Any, Any]]
    """Chosen and rejected tokens, each cut after the last turn that counts."""

    @staticmethod
    def of(groups: Sequence[Any]) -> MaskedPairs:
        """Cut both sides of all pairs."""
        from sparring.data.batches import cut

        edges = [(group.nodes, edge) for group in groups for edge in group.edges]
        return MaskedPairs(
            [(cut(nodes[e.chosen], e.chosen_turns), cut(nodes[e.rejected], e.rejected_turns)) for nodes, e in edges]
        )

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pad the chosen sides, then the rejected ones; `completion_mask` is 1 at action tokens."""
        import torch

        sides = [self.pairs[row["index"]][side] for side in (0, 1) for row in rows]
        shape = (len(sides), max(len(side.ids) for side in sides))
        names = ("input_ids", "attention_mask", "completion_mask")
        batch = {name: torch.zeros(shape, dtype=torch.long) for name in names}
        for row, side in enumerate(sides):
            batch["input_ids"][row, : len(side.ids)] = torch.tensor(side.ids)
            batch["attention_mask"][row, : len(side.ids)] = 1
            for start, end in side.spans:
                batch["completion_mask"][row, start:end] = 1
        references = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in rows[0]]
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in references}


def trl_config(folder: str, *, per_step: int, micro_batch: int) -> Any:
    """Configure TRL as Sparring is; what it does besides training (saving, bars, reports) is off."""
    import trl

    return trl.DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=per_step // micro_batch,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=micro_batch,
        num_train_epochs=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
        beta=BETA,
        optim="adamw_torch",
        weight_decay=0.0,
        max_length=None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def train_trl(model: Any, tokenizer: Any, groups: Sequence[Any], *, micro_batch: int) -> list[float]:
    """Train one epoch with TRL, in the order of `groups`, and return the losses; the reference comes first."""
    import datasets
    import trl

    collate = MaskedPairs.of(groups)
    num = len(collate.pairs)
    texts = {name: [text] * num for name, text in (("prompt", "a"), ("chosen", " b"), ("rejected", " c"))}
    per_step = TASKS_PER_STEP * len(groups[0].edges)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=model,
            args=trl_config(folder, per_step=per_step, micro_batch=micro_batch),
            train_dataset=datasets.Dataset.from_dict(texts | {"index": list(range(num))}),
            data_collator=collate,
            processing_class=tokenizer,
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def child(request: dict[str, Any]) -> Any:
    """Train one side of one case, and return losses, CPU-seconds and memory beyond the loaded model."""
    import sparring.learning.objectives  # what importing costs is not training
    import sparring.learning.trainer  # noqa: F401

    if request["side"] == "trl":
        import trl  # noqa: F401
    model, tokenizer, tasks = load(Path(request["run"]), request["model"], request["lora"])
    groups = make_groups(tasks, request["case"], request["num_tasks"])
    before = reset_peak()
    started, wall = time.process_time(), time.perf_counter()
    if request["side"] == "ours":
        adapter = "" if request["lora"] is None else ADAPTER
        losses = train_ours(model, groups, adapter=adapter, max_tokens=request["max_tokens"])
    else:
        losses = train_trl(model, tokenizer, groups, micro_batch=request["micro_batch"])
    return {
        "cpu_s": time.process_time() - started,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": (peak() - before) / 2**20,
        "losses": losses,
        "num_tasks": len(groups),
        "num_pairs": sum(len(group.edges) for group in groups),
        "tokens": sum(group.num_tokens for group in groups),
        "mean_length": sum(group.num_tokens for group in groups) / sum(len(group.nodes) for group in groups),
    }


# ── The table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(request: dict[str, Any], *, threads: int, repeats: int, micro_batches: Sequence[int]) -> dict[str, Any]:
    """Run both sides of a case: TRL at all micro-batches, then what is compared, in turns, the fastest of `repeats`."""

    def run(**more: Any) -> dict[str, Any]:
        return in_child("benchmarks.training", {**request, **more}, threads=threads)

    per_step = TASKS_PER_STEP * len(CASES[request["case"]][1])
    sizes = [size for size in micro_batches if per_step % size == 0]
    ours = run(side="ours")
    theirs = {size: run(side="trl", micro_batch=size) for size in sizes}
    best = min(sizes, key=lambda size: theirs[size]["cpu_s"])
    for _ in range(repeats - 1):
        ours = min(ours, run(side="ours"), key=lambda found: found["cpu_s"])
        theirs[best] = min(theirs[best], run(side="trl", micro_batch=best), key=lambda found: found["cpu_s"])
    whole = max(sizes)  # as many pairs at once as Sparring has
    gap = max(abs(a - b) for a, b in zip(ours["losses"], theirs[best]["losses"], strict=True))
    return {
        "case": request["case"],
        "ours": ours,
        "trl": theirs,
        "trl_best_micro_batch": best,
        "cpu_ratio": theirs[best]["cpu_s"] / ours["cpu_s"],
        "trl_whole_step": whole,
        "memory_ratio": ours["peak_mb"] / theirs[whole]["peak_mb"],
        "loss_gap": gap,
    }


def main() -> None:
    """Compare all cases, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="runs/quickstart", help="a finished run folder (make demo)")
    parser.add_argument("--model", default="", help="a model folder in place of the run's SFT weights")
    parser.add_argument("--lora", type=int, help="train an adapter of this rank, in TRL through PEFT's layers")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--num-tasks", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=8192, help="of Sparring, whose activations are kept at once")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, of which the fastest counts")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=MICRO_BATCHES, help="of TRL, in pairs")
    args = parse(parser, child)
    asked = {name: getattr(args, name) for name in ("run", "num_tasks", "model", "lora", "max_tokens")}
    options = {"threads": args.threads, "repeats": args.repeats, "micro_batches": args.micro_batches}
    found = [compare({**asked, "case": case}, **options) for case in args.cases]
    header = [
        "case",
        "tasks",
        "ours, CPU-s",
        "TRL, CPU-s",
        "ratio",
        "ours, MB",
        "TRL, MB",
        "TRL, a step at once, MB",
        "ratio",
        "loss gap",
    ]
    rows = []
    for row in found:
        ours, trl = row["ours"], row["trl"][row["trl_best_micro_batch"]]
        cpu = (ours["cpu_s"], trl["cpu_s"], row["cpu_ratio"])
        whole = row["trl"][row["trl_whole_step"]]
        memory = (ours["peak_mb"], trl["peak_mb"], whole["peak_mb"], row["memory_ratio"])
        rows.append([row["case"], ours["num_tasks"], *cpu, *memory, row["loss_gap"]])
    show("Preference training against TRL's DPOTrainer (TRL at its fastest micro-batch)", header, rows)
    costs = {row["case"].rpartition(", ")[2]: row["ours"]["cpu_s"] for row in found}
    if {"all six pairs", "three expert pairs"} <= costs.keys():
        ratio = costs["all six pairs"] / costs["three expert pairs"]
        print(f"\nsix pairs / three expert pairs: {ratio:.2f} of the CPU-seconds")
    name = "training" if args.lora is None else "training_lora"
    save(name, {**options, "model": Path(args.model).name, "lora": args.lora, "cases": found})


if __name__ == "__main__":
    main()
