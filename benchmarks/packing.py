"""Packed passes against padded ones: training's forward and backward of a model too large for the lean forward.

    python -m benchmarks.packing

The bundled model, padded to 108 million parameters, on sequences of random tokens, as long and with as many actions as
real ones. Both sides take the same sequences and the same budget of tokens a pass, in turns. On a GPU seconds are those
of the clock, on a CPU those of the process. Utilisation is 6 · parameters · tokens a second, padding and attention not
counted, nor embedding and head, over the rate at which the device multiplies square matrices of the same dtype.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from benchmarks.measure import Clock, in_child, parse, save, show

LENGTHS = (150, 900)
"""Tokens of the shortest and the longest sequence."""
OBSERVATION, ACTION = 86, 14
"""Tokens of them between two actions, and of an action."""
NUM = {"cpu": 6, "cuda": 256}
"""Sequences, where the command line doesn't say."""
REPEATS = 3
PASS_TOKENS = 16384
"""Tokens per pass on a GPU; on a CPU there are fewer, as always."""
MATRIX = {"cpu": 1536, "cuda": 8192}
"""Width of the matrices whose product is timed."""


def draw(num: int, num_tokens: int) -> list[Any]:
    """Draw sequences of random length and tokens, an action at the end of every hundred tokens and of the whole."""
    from sparring.data.chat import Encoded

    rng = random.Random(0)
    nodes = []
    for _ in range(num):
        length = rng.randint(*LENGTHS)
        ends = range(length, ACTION, -(OBSERVATION + ACTION))
        spans = tuple((end - ACTION, end) for end in sorted(ends))
        nodes.append(Encoded(ids=tuple(rng.randrange(num_tokens) for _ in range(length)), spans=spans))
    return nodes


def matrix_rate(device: Any, dtype: Any) -> float:
    """Return the operations a second of a product of square matrices, the best of some."""
    import torch

    width, clock = MATRIX[device.type], Clock(device)
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = clock()
        for _ in range(3):
            a @ b
        seconds.append((clock() - started) / 3)
    return 2 * width**3 / min(seconds)


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Measure both sides in turns, and what they make of the same sequences."""
    import torch

    from benchmarks.padding import padded
    from sparring.data.batches import pack_together, pad_together
    from sparring.engines.scoring import Forward, autocast_dtype
    from sparring.models.loading import ModelConfig, load_model

    device = torch.device(request["device"])
    small, _ = load_model(ModelConfig(path=request["model"], dtype="float32"))
    model = (padded(small) if request["is_padded"] else small).to(device)
    autocast = autocast_dtype(device, "auto")
    nodes = draw(request["num"] or NUM[device.type], model.config.vocab_size)
    lengths = [len(node.ids) for node in nodes]
    clock = Clock(device)
    sides = {name: Forward(model, max_tokens=PASS_TOKENS, autocast=autocast) for name in ("padded", "packed")}
    sides["packed"].check(nodes[0])
    assert sides["packed"].packing is not None, "the model is none that packing serves"
    sides["padded"].packing = None

    def seconds(forward: Forward, some: list[Any]) -> tuple[float, Any]:
        started = clock()
        logprobs_N = torch.cat(forward(some))
        logprobs_N.sum().backward()
        taken = clock() - started
        model.zero_grad(set_to_none=True)
        return taken, logprobs_N.detach()

    times: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, Any] = {}
    for forward in sides.values():
        seconds(forward, nodes[: request["num_warm_up"]])
    for _ in range(REPEATS):  # in turns, so that both meet the same noise
        for name, forward in sides.items():
            taken, found[name] = seconds(forward, nodes)
            times[name].append(taken)
    rate = matrix_rate(device, autocast or torch.float32)
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    pads, packs = (cut(lengths, sides["packed"].max_tokens) for cut in (pad_together, pack_together))
    computed = {"padded": sum(max(lengths[i] for i in one) * len(one) for one in pads), "packed": sum(lengths)}
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(autocast or torch.float32).removeprefix("torch."),
        "parameters": body,
        "tokens": sum(lengths),
        "sequences": len(nodes),
        "action_tokens": len(found["packed"]),
        "matrix_flops": rate,
        "logprob_gap": float((found["packed"] - found["padded"]).abs().max()),
        "sides": {
            name: {
                "passes": len(pads if name == "padded" else packs),
                "tokens_with_padding": computed[name],
                "seconds": times[name],
                "utilisation": 6 * body * sum(lengths) / sorted(times[name])[len(times[name]) // 2] / rate,
            }
            for name in sides
        },
    }


def main() -> None:
    """Measure both sides, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="sparring-worlds", help="a small Qwen3 model, which is padded")
    parser.add_argument("--as-it-is", action="store_true", help="do not pad the model")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one")
    parser.add_argument("--num", type=int, default=0, help="sequences; 0: as many as suit the device")
    args = parse(parser, child)
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    request = {"model": args.model, "is_padded": not args.as_it_is, "device": device, "num": args.num}
    found = in_child("benchmarks.packing", {**request, "num_warm_up": 1 if device == "cpu" else 64})
    rows = []
    for name, side in found["sides"].items():
        fastest, taken, slowest = (sorted(side["seconds"])[i] for i in (0, REPEATS // 2, -1))
        padding, spread = 1 - found["tokens"] / side["tokens_with_padding"], f"{fastest:.3g} to {slowest:.3g}"
        speed = found["tokens"] / taken
        rows.append([name, side["passes"], f"{padding:.1%}", taken, spread, speed, side["utilisation"]])
    rows.append(["ratio", "", "", rows[0][3] / rows[1][3], "", rows[1][5] / rows[0][5], ""])
    show(
        f"{found['sequences']} sequences, {found['tokens']} tokens, {found['parameters'] / 1e6:.0f} M parameters, "
        f"{found['device']}, {found['dtype']}; largest difference {found['logprob_gap']:.1g} nats",
        ["passes are", "passes", "padding", "seconds", "of all repeats", "tokens a second", "utilisation"],
        rows,
    )
    save("packing", found)


if __name__ == "__main__":
    main()
