"""Pretrain the bundled model on the walks: plain language modelling on every token, Qwen3 architecture.

In: a folder of walks (`gather.py`). Out: an ordinary Hugging Face folder with the model, its tokenizer, and a manifest
of the task ids that the corpus contains and of the training's figures.

    python recipes/pretrain/train.py --walks runs/pretrain/walks --out runs/pretrain/stage-1 --threads 3

Killed, it goes on from its last checkpoint (every two minutes) with the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizer import END_OF_TURN, extend_tokenizer, read_walks, train_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

INVENTED = "/invented/"
"""In the ids of tasks over data that was invented for the corpus: no benchmark has them, and no manifest lists them."""

HELD_OUT = 100
"""Most walks of each folder that are kept for the validation loss; a tenth of it where that is less."""


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, num_layers: int) -> Qwen3ForCausalLM:
    """Return a small Qwen3 with random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 48,
        num_key_value_heads=width // 96,
        head_dim=48,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END_OF_TURN),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).float()


def grow(model: Qwen3ForCausalLM, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> None:
    """Add rows to the embedding: a further token starts as the mean of what the old tokenizer made of its text."""
    num_old = len(old)
    if len(new) == num_old:
        return
    model.resize_token_embeddings(len(new), mean_resizing=False)
    rows_VD = model.get_input_embeddings().weight
    with torch.no_grad():
        for token in range(num_old, len(new)):
            rows_VD[token] = rows_VD[old(new.decode([token]), add_special_tokens=False).input_ids].mean(0)


def draw(walks: list[dict], most: int | None) -> list[dict]:
    """Draw at most so many walks, always the same ones, in random order."""
    return random.Random(0).sample(walks, min(most or len(walks), len(walks)))


def known_tasks(init: Path | None) -> set[str]:
    """Return the tasks that a model has seen that is gone on from, as its manifest lists them."""
    manifest = init and init / "manifest.json"
    return set(json.loads(manifest.read_text(encoding="utf-8"))["tasks"]) if manifest and manifest.exists() else set()


class Tokens(list[int]):
    """A walk's tokens; `actions` says which of them an agent writes."""

    actions: list[bool]


def encode(walks: list[dict], tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> list[Tokens]:
    """Render walks as chats and tokenise them; a longer one is cut at the end of a message, never within."""
    sequences = []
    for walk in walks:
        messages = []
        for turn in walk["turns"]:
            messages.append({"role": "user", "content": turn["observation"]})
            messages += [{"role": "assistant", "content": turn["action"]}] if turn["action"] else []
        ids, actions = Tokens(), []
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        for message in str(text).split("<|im_start|>")[1:]:
            piece = tokenizer(f"<|im_start|>{message}", add_special_tokens=False).input_ids
            if len(ids) + len(piece) > max_tokens:
                break
            ids += piece
            actions += [message.startswith("assistant")] * len(piece)
        ids.actions = actions
        sequences.append(ids)
    return sequences


def batches(sequences: list[Tokens], tokens: int, rng: random.Random) -> list[list[int]]:
    """Return index batches of at most `tokens` padded tokens, like lengths together, in random order."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]) + rng.random() * 40, i))
    found: list[list[int]] = [[]]
    for index in order:
        if found[-1] and (len(found[-1]) + 1) * len(sequences[index]) > tokens:
            found.append([])
        found[-1].append(index)
    rng.shuffle(found)
    return found


def loss_of(
    model: Qwen3ForCausalLM, rows: list[Tokens], pad: int, action_weight: float = 1.0, world_share: float = 1.0
) -> tuple[torch.Tensor, float]:
    """Return the summed loss in nats and the number of predicted tokens, those of actions weighted.

    Of what the world says only a random share is predicted: a large vocabulary's logits cost as much as all the rest.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    is_there = torch.tensor([[i + 1 < len(row) for i in range(longest - 1)] for row in rows])
    is_action = torch.tensor([[*row.actions[1:], *[False] * (longest - len(row))] for row in rows])
    keep = is_there & (is_action | (torch.rand(is_there.shape) < world_share))
    logits = model.lm_head(hidden[keep])
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][keep], reduction="none")
    weights = torch.where(is_action[keep], action_weight, 1.0)
    return (losses * weights).sum(), float(weights.sum())


class Checkpoint:
    """Model and optimizer as safetensors, and the step, replaced as a whole."""

    def __init__(self, folder: Path, model: Qwen3ForCausalLM, optimizer: torch.optim.AdamW) -> None:
        self.path, self.model, self.optimizer = folder / "pretrain.safetensors", model, optimizer
        # In the optimizer's order: matrices, then vectors.
        self.names = [name for name, _ in sorted(model.named_parameters(), key=lambda item: item[1].dim() <= 1)]

    def save(self, step: int) -> None:
        tensors = {f"model/{k}": v for k, v in self.model.named_parameters()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{key}/{self.names[index]}": value for key, value in state.items()}
        temporary = self.path.with_suffix(".tmp")
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, {"step": str(step)})
        temporary.replace(self.path)

    def load(self) -> int:
        if not self.path.exists():
            return 0
        tensors = load_file(self.path)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
        state = {
            i: {key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i, name in enumerate(self.names)
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        return int(tensors["step/" + self.names[0]].item())


def make_optimizer(model: Qwen3ForCausalLM, lr: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def train(model: Qwen3ForCausalLM, sequences: list[Tokens], pad: int, args: argparse.Namespace) -> None:
    """Train in place, from the last checkpoint where there is one."""
    optimizer = make_optimizer(model, args.lr)
    plan = [b for e in range(math.ceil(args.epochs)) for b in batches(sequences, args.batch_tokens, random.Random(e))]
    plan = plan[: round(len(plan) * args.epochs / math.ceil(args.epochs))]
    checkpoint = Checkpoint(args.work, model, optimizer)
    started, saved, seen = time.monotonic(), time.monotonic(), 0
    for step in range(checkpoint.load(), len(plan)):
        warm_up, done = min(1.0, (step + 1) / 50), step / len(plan)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm_up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        torch.manual_seed(step)  # which tokens are predicted is the same after a restart
        loss, count = loss_of(model, [sequences[i] for i in plan[step]], pad, args.action_weight, args.world_share)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += sum(len(sequences[i]) for i in plan[step])
        if step % 20 == 0:
            rate = seen / (time.monotonic() - started)
            print(f"step {step}/{len(plan)} loss {loss.item() / count:.4f} {rate:.0f} tok/s", flush=True)
        if time.monotonic() - saved > 120:
            checkpoint.save(step + 1)
            saved = time.monotonic()


def validate(model: Qwen3ForCausalLM, sequences: list[Tokens], pad: int) -> float:
    """Return the mean loss, in nats per token."""
    model.eval()
    with torch.no_grad():
        parts = [loss_of(model, sequences[i : i + 10], pad) for i in range(0, len(sequences), 10)]
    return sum(float(loss) for loss, _ in parts) / sum(count for _, count in parts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walks", type=Path, nargs="+", required=True, help="folders of walks")
    parser.add_argument(
        "--most-walks", type=int, nargs="+", help="at most so many walks of each folder, drawn at random; one for each"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="folder of the checkpoint")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--batch-tokens", type=int, default=8_192, help="padded tokens a step")
    parser.add_argument("--max-tokens", type=int, default=1_536, help="tokens a walk")
    parser.add_argument("--action-weight", type=float, default=1.0, help="weight of a token that an agent writes")
    parser.add_argument("--world-share", type=float, default=1.0, help="share of the world's tokens that are predicted")
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--init", type=Path, help="go on from this model folder; its tokenizer grows to --vocab-size")
    parser.add_argument("--learn-from", type=Path, nargs="*", default=[], help="walks that name the further tokens")
    parser.add_argument("--whole", type=Path, help="JSON list of texts that become a token each (whole_texts.py)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.init and args.learn_from:
        whole = json.loads(args.whole.read_text(encoding="utf-8")) if args.whole else []
        extend_tokenizer(args.init, args.learn_from, args.out, args.vocab_size, whole)
    elif args.init:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(args.init / name, args.out / name)
    elif not (args.out / "tokenizer.json").exists():
        train_tokenizer(args.walks, args.out, args.vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    walks, held_out, tasks = [], {}, known_tasks(args.init)
    for folder, most in zip(args.walks, args.most_walks or [None] * len(args.walks), strict=True):
        drawn = draw(list(read_walks(folder)), most)
        num_held_out = min(HELD_OUT, len(drawn) // 10)
        held_out[folder.name] = encode(drawn[:num_held_out], tokenizer, args.max_tokens)
        walks += drawn[num_held_out:]
        tasks |= {walk["task"] for walk in drawn if INVENTED not in walk["task"]}
    sequences = encode(walks, tokenizer, args.max_tokens)
    if args.init:
        model = Qwen3ForCausalLM.from_pretrained(args.init, dtype=torch.float32)
        grow(model, AutoTokenizer.from_pretrained(args.init), tokenizer)
    else:
        model = build_model(tokenizer, args.width, args.num_layers)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(walks)} walks, {sum(map(len, sequences)):,} tokens, {num_parameters:,} parameters", flush=True)

    train(model, sequences, tokenizer.pad_token_id, args)
    validation = {name: round(validate(model, part, tokenizer.pad_token_id), 4) for name, part in held_out.items()}
    model.save_pretrained(args.out)
    facts = {
        "tasks": sorted(tasks),
        "walks": len(walks),
        "tokens": sum(map(len, sequences)),
        "epochs": args.epochs,
        "parameters": num_parameters,
        "validation_nats_per_token": validation,
    }
    (args.out / "manifest.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"validation {validation} nats/token; saved to {args.out}")


if __name__ == "__main__":
    main()
