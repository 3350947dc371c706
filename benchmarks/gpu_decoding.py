"""Decoding with recorded steps and without, against the bound that memory sets: tokens per second of `SlotDecoder`.

    python -m benchmarks.gpu_decoding
    python -m benchmarks.gpu_decoding --device cpu --batches 1 4  # the same code; nothing is saved

The model is the bundled one, padded to 108 million parameters: in bfloat16 on a GPU, where steps are replayed as CUDA
graphs; in float32 on a CPU, where they are merely called again. A step has to read all weights, and the keys and values
of all rows up to where they are; the bound is what the device's measured copying, reads and writes together, would take
for these bytes. Sampling, masks and ends are in the figures.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Clock, in_child, parse, save, show

if TYPE_CHECKING:
    from sparring.policies.local.decoding import SlotDecoder

BATCHES = (1, 16, 64, 256)
HISTORY, STEPS, REPEATS = 400, 64, 5
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}
"""Copied to measure the memory's speed: far more than any cache holds."""


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Measure tokens per second, ordinary and replayed, and the bound on them."""
    import torch

    from benchmarks.padding import padded
    from sparring.models.loading import ModelConfig, load_model
    from sparring.policies.local.decoding import SlotDecoder
    from sparring.policies.local.graphs import PlainRecorder

    device, batch = torch.device(request["device"]), request["batch"]
    is_cuda = device.type == "cuda"
    dtype = "bfloat16" if is_cuda else "float32"
    model, tokenizer = load_model(ModelConfig(path=request["model"], dtype=dtype, device="cpu"))
    model = (padded(model) if request["is_padded"] else model).to(device)
    generator, num_tokens = torch.Generator().manual_seed(0), len(tokenizer)
    rows = torch.randint(num_tokens, (batch, HISTORY), generator=generator).tolist()

    recorders = {"ordinary": None, "replayed": "auto" if is_cuda else PlainRecorder()}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Decoding goes on without CUDA graphs")
        decoders = {
            name: SlotDecoder(
                model, num_tokens=num_tokens, end_ids=(), max_positions=HISTORY + STEPS + 1, recorder=recorder
            )
            for name, recorder in recorders.items()
        }
        times, drawn = decode_in_turns(decoders, rows, Clock(device))
    speed = copy_speed(device, COPY_BYTES[device.type])
    pairs = [pair for one, other in zip(*drawn.values(), strict=True) for pair in zip(one, other, strict=True)]
    num_bytes = step_bytes(model, batch, HISTORY + STEPS / 2)
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "dtype": dtype,
        "copy_bytes_per_s": speed,
        "bytes_per_step": num_bytes,
        "bound_tokens_per_s": batch * speed / num_bytes,
        "tokens_per_s": {name: batch * STEPS / sorted(found)[len(found) // 2] for name, found in times.items()},
        "same_tokens": sum(one == other for one, other in pairs) / len(pairs),
    }


def decode_in_turns(
    decoders: Mapping[str, SlotDecoder], rows: list[list[int]], clock: Clock
) -> tuple[dict[str, list[float]], dict[str, list[list[int]]]]:
    """Let each decoder continue the same rows some times; return the seconds of each, and what it drew."""
    batch = len(rows)
    logits_BV = {name: decoder.prefill(range(batch), [0] * batch, rows) for name, decoder in decoders.items()}
    times: dict[str, list[float]] = {name: [] for name in decoders}
    drawn: dict[str, list[list[int]]] = {}
    for repeat in range(-1, REPEATS):  # in turns, so that both meet the same noise; the first records
        for name, decoder in decoders.items():
            started = clock()
            found = decoder.decode(logits_BV[name], [HISTORY] * batch, [0] * batch, STEPS + 1, 0.0, None, enough=batch)
            if repeat >= 0:
                times[name].append(clock() - started)
            drawn[name] = found.tokens
    return times, drawn


def copy_speed(device: Any, num_bytes: int) -> float:
    """Return the bytes that a large copy reads and writes in a second, the best of a few."""
    import torch

    clock, source = Clock(device), torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target, seconds = torch.zeros_like(source), []
    for _ in range(REPEATS + 1):
        started = clock()
        target.copy_(source)
        seconds.append(clock() - started)
    return 2 * num_bytes / min(seconds)


def step_bytes(model: Any, batch: int, length: float) -> float:
    """Return what a step has to read: the weights once, and the keys and values of `length` positions a row."""
    config = model.config
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        weights -= model.get_input_embeddings().weight.nbytes  # of which a step reads a line a row
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return weights + batch * length * numbers * model.dtype.itemsize


def main() -> None:
    """Measure all batch sizes, print the table and, on a GPU, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="sparring-worlds")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    args = parse(parser, child)
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here. To run the same code on the CPU: --device cpu --batches 1 4")
    request = {"model": args.model, "device": args.device, "is_padded": True}
    found = {batch: in_child("benchmarks.gpu_decoding", {**request, "batch": batch}) for batch in args.batches}
    rows = []
    for batch, one in found.items():
        ordinary, replayed = one["tokens_per_s"].values()
        bound = one["bound_tokens_per_s"]
        rows.append([batch, ordinary, replayed, replayed / ordinary, bound, replayed / bound, one["same_tokens"]])
    header = ["batch", "ordinary", "replayed", "ratio", "bound", "replayed / bound", "same tokens"]
    first = next(iter(found.values()))
    show(f"Tokens a second on {first['device']}, {first['dtype']}, {HISTORY} tokens of history", header, rows)
    if first["device"] != "cpu":
        save("gpu_decoding", {"model": args.model, "history": HISTORY, "steps": STEPS, "batches": found})


if __name__ == "__main__":
    main()
