"""How many tokens the trajectories of a task share, on real rollouts, and what forwarding them once would save.

    python -m benchmarks.prefixes --run runs/quickstart

A prefix is shared where two trajectories of a task agree token for token from the start. With a worked example before
the task, the example's tokens are shared by all trajectories of a group. The trial forwards what all trajectories of a
group share as one row, and the rest as a batch whose keys and values begin with that row's; forward and backward passes
are timed against `Forward`, and their log-probabilities compared.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import in_child, parse, save, show
from benchmarks.training import CASES, load, make_groups


def tree_size(sequences: Sequence[Sequence[int]]) -> int:
    """Count the nodes of the sequences' prefix tree: the tokens to forward if every shared prefix is forwarded once."""
    ordered = sorted(sequences)
    size = len(ordered[0])
    for one, other in itertools.pairwise(ordered):
        same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        size += len(other) - same
    return size


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Count the leading tokens that all sequences share; at least one token of each is left."""
    columns = enumerate(zip(*sequences, strict=False))
    limit = min(map(len, sequences)) - 1
    return next((i for i, column in columns if i == limit or len(set(column)) > 1), limit)


def forward_once(model: Any, groups: Sequence[Sequence[Any]]) -> list[Any]:
    """Compute log π of every node's action tokens, forwarding what a group's nodes share once."""
    import torch
    from transformers import DynamicCache

    from sparring.engines.head import token_logprobs

    results: list[Any] = []
    for nodes in groups:
        num, shared = len(nodes), shared_length([node.ids for node in nodes])
        width = max(len(node.ids) for node in nodes) - shared
        cache = DynamicCache()
        prefix_1P = torch.tensor([nodes[0].ids[:shared]])
        prefix_PD = model.base_model(input_ids=prefix_1P, past_key_values=cache, use_cache=True).last_hidden_state[0]
        cache.batch_repeat_interleave(num)
        rest_BT = torch.tensor([[*node.ids[shared:], *[0] * (width + shared - len(node.ids))] for node in nodes])
        is_seen_TW = torch.ones(width, shared + width, dtype=torch.bool).tril(shared)
        mask_TW = torch.zeros(is_seen_TW.shape).masked_fill_(~is_seen_TW, torch.finfo(torch.float32).min)
        rest_BTD = model.base_model(
            input_ids=rest_BT,
            past_key_values=cache,
            use_cache=True,
            attention_mask=mask_TW[None, None].expand(num, 1, -1, -1),
            position_ids=(torch.arange(width) + shared)[None].expand(num, -1),
        ).last_hidden_state
        hidden = torch.cat([prefix_PD, rest_BTD.flatten(0, 1)])
        wanted = [[at for start, end in node.spans for at in range(start, end)] for node in nodes]
        places = [at - 1 if at <= shared else at - 1 + row * width for row, ats in enumerate(wanted) for at in ats]
        targets_N = torch.tensor([node.ids[at] for node, ats in zip(nodes, wanted, strict=True) for at in ats])
        logprobs_N = token_logprobs(hidden[torch.tensor(places)], model.get_output_embeddings().weight, targets_N)
        results += logprobs_N.split(list(map(len, wanted)))
    return results


def child(request: dict[str, Any]) -> list[list[Any]]:
    """Count tokens and measure CPU-seconds per case."""
    from sparring.data.chat import Encoded
    from sparring.engines.scoring import Forward

    model, _, tasks = load(Path(request["run"]))
    example = next(iter(tasks.values()))[0].ids
    forward = Forward(model, max_tokens=8192)

    def seconds(compute: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
        times = []
        for _ in range(3):
            started = time.process_time()
            logprobs = compute()
            sum(logprobs_N.sum() for logprobs_N in logprobs).backward()
            times.append(time.process_time() - started)
            model.zero_grad()
        return min(times), logprobs

    rows = []
    for case in CASES:
        groups = make_groups(tasks, case, 10_000)
        for shown in (0, 1):
            lead = example * shown
            moved = [
                [
                    Encoded(
                        (*lead, *node.ids), tuple((start + len(lead), end + len(lead)) for start, end in node.spans)
                    )
                    for node in group.nodes
                ]
                for group in groups
            ]
            ids = [[node.ids for node in nodes] for nodes in moved]
            total = sum(len(sequence) for group in ids for sequence in group)
            timed = moved[: request["num_timed"]]
            once_s, once = seconds(lambda timed=timed: forward_once(model, timed))
            each_s, each = seconds(lambda timed=timed: forward([node for nodes in timed for node in nodes]))
            gap = max(float((a - b).abs().max()) for a, b in zip(once, each, strict=True))
            counts = [total, 1 - sum(map(tree_size, ids)) / total]
            rows.append([case, shown, len(groups), *counts, each_s, once_s, each_s / once_s, gap])
    return rows


def main() -> None:
    """Count, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="runs/quickstart", help="a finished run folder (make demo)")
    parser.add_argument("--num-timed", type=int, default=16, help="groups that are timed")
    args = parse(parser, child)
    rows = in_child("benchmarks.prefixes", {"run": args.run, "num_timed": args.num_timed})
    times = ["each forwarded, CPU-s", "prefix once, CPU-s", "ratio", "gap, nats"]
    header = ["case", "worked examples", "groups", "tokens", "shared in a tree", *times]
    show("Tokens that a task's trajectories share, and a trial of forwarding them once", header, rows)
    save("prefixes", {"rows": rows})


if __name__ == "__main__":
    main()
