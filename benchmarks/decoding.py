"""Decoding against the bare model: tokens per CPU-second of `SlotDecoder` and of the model's own forward, same batch.

    python -m benchmarks.decoding

The bare side is transformers' forward of one token a row over its `DynamicCache`, with nothing around it: no sampling,
no masks, no ends. `transformers` is Sparring's decoder over the model's own forward, as large models use it; `lean` is
what small models of known families get.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any
from unittest import mock

from benchmarks.measure import in_child, parse, save, show

BATCHES = (2, 4, 8, 16, 64)
HISTORY, STEPS, REPEATS = 400, 24, 8


def child(request: dict[str, Any]) -> dict[str, float]:
    """Measure milliseconds a step: bare, and Sparring's."""
    import torch
    from transformers import DynamicCache

    from sparring.models import threads
    from sparring.models.loading import ModelConfig, load_model
    from sparring.policies.local.decoding import SlotDecoder

    model, _ = load_model(ModelConfig(path=request["model"], dtype="float32"))
    batch, rng = request["batch"], random.Random(0)
    rows = [[rng.randrange(1000) for _ in range(HISTORY)] for _ in range(batch)]

    def bare() -> float:
        ids_BT, cache = torch.tensor(rows), DynamicCache()
        model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        started = time.process_time()
        for _ in range(STEPS):
            model(input_ids=ids_BT[:, :1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return (time.process_time() - started) / STEPS

    def ours(decoder: Any) -> float:
        logits_BV = decoder.prefill(range(batch), [0] * batch, rows)
        started = time.process_time()
        decoder.decode(logits_BV, [HISTORY] * batch, [0] * batch, STEPS + 1, 0.0, None, enough=batch)
        return (time.process_time() - started) / STEPS

    def decoder() -> Any:
        return SlotDecoder(model, num_tokens=1000, end_ids=(), max_positions=1024)

    lean = decoder()
    with mock.patch.object(threads, "SMALL_MODEL", 0):
        plain = decoder()
    times: dict[str, list[float]] = {"bare": [], "transformers": [], "lean": []}
    with torch.inference_mode():
        for _ in range(REPEATS):  # in turns, so that all of them meet the same noise
            times["bare"].append(bare())
            times["transformers"].append(ours(plain))
            times["lean"].append(ours(lean))
    return {name: 1000 * sorted(found)[len(found) // 2] for name, found in times.items()}


def main() -> None:
    """Measure all batch sizes, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="sparring-worlds")
    args = parse(parser, child)
    found = {batch: in_child("benchmarks.decoding", {"model": args.model, "batch": batch}) for batch in BATCHES}
    rows = [
        [batch, ms["bare"], ms["transformers"], ms["lean"], ms["bare"] / ms["transformers"], ms["bare"] / ms["lean"]]
        for batch, ms in found.items()
    ]
    header = ["batch", "bare", "over transformers", "lean", "bare / over transformers", "bare / lean"]
    show(f"CPU-milliseconds a decoding step, {HISTORY} tokens of history, one thread", header, rows)
    save("decoding", {"model": args.model, "history": HISTORY, "ms_per_step": found})


if __name__ == "__main__":
    main()
