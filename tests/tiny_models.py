"""Small tokenizers and random models for tests, made on the spot; and the chat templates that are out there.

The templates are written in the manner of well-known families, not copied: what matters is what they do to the text.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.toy_world import TOY_RECIPE

CORPUS = [
    "You stand at a machine. Actions: press COLOUR, look. Press the colours in the order you are told.",
    "Press in this order: red green blue white.\n\nYou see buttons: red green blue white.",
    "The red button clicks.\nThe machine jams.\nNothing happens.\n1 of 4 done.",
    "Thought: I press the next colour.\nAction: press green\n",
    "Answer with one thought and one action, in this form:\nThought: why you act so\nAction: the action",
    "<think>\nI should look first.\n</think>\n\npress blue user assistant system [INST] [/INST]",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/…') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date_string }} {{ strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% else %}{% set content = m.content %}{% set reason = '' %}{% if '</think>' in content %}"
    "{% set reason = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last %}<think>\n{{ reason }}\n</think>\n\n{% endif %}{{ content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN25 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou stand at a machine.<|im_end|>\n{% endif %}" + CHATML
)
PLAIN = (
    "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content.strip() }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
BARE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
GLM = (
    "[gMASK]{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHANNELS = (
    "<|start|>system<|message|>Be brief.<|end|>{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
    "qwen2.5": QWEN25,
    "plain": PLAIN,
    "bare": BARE,
    "glm": GLM,
    "channels": CHANNELS,
}
"""`llama2` refuses consecutive user turns, and it, `llama3` and `plain` strip content. `qwen2.5` begins with a system
message of its own, as SmolLM2's does. `bare` has no generation prompt, `glm` ends an answer with the opener of the
user's turn, `channels` names a channel before it and ends the last one in another way."""
PROMPT_OPENS_REASONING = {"r1": R1}
"""Here an answer begins inside reasoning."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL_OF = {
    "llama2": ("<s>", "</s>", "<unk>"),
    "glm": ("<|endoftext|>", "<|user|>", "<|assistant|>"),
    "channels": ("<|return|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
    "r1": ("<|end|>", "<|User|>", "<|Assistant|>", "<think>", "</think>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


@cache
def tiny_tokenizer(name: str = "chatml") -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer on a few lines: byte-level, or in Llama-2's manner (a ▁ before each piece)."""
    special = SPECIAL_OF.get(name, SPECIAL)
    if name == "llama2":
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(special),
            initial_alphabet=[chr(code) for code in range(33, 127)] + ["\n", "▁"],
            show_progress=False,
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.train_from_iterator(CORPUS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>" if name == "llama2" else special[1])
    if name in ("chatml", "qwen3", "qwen2.5", "bare"):
        tokenizer.eos_token = "<|im_end|>"
    elif name in ("plain", "glm", "channels", "r1"):
        tokenizer.eos_token = special[0]
    elif name in SPECIAL_OF:
        tokenizer.bos_token = special[0]
    if name == "qwen3":
        tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = (TEMPLATES | PROMPT_OPENS_REASONING)[name]
    return tokenizer


def with_gap(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer with its special tokens' ids raised above all others, and `size` ids free below them."""
    layout = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, first = layout["model"]["vocab"], len(tokenizer) + size
    for i, added in enumerate(layout["added_tokens"]):
        added["id"] = vocabulary[added["content"]] = first + i
    backend = Tokenizer.from_str(json.dumps(layout))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=tokenizer.eos_token, chat_template=tokenizer.chat_template
    )


def tiny_model(
    kind: str = "qwen3", *, num_tokens: int = 400, seed: int = 0, scale: float = 4.0, head_dim: int = 16
) -> torch.nn.Module:
    """Make a random model whose logits are spread out by `scale`, so that argmax is no matter of rounding.

    `head_dim` is Qwen3's; vLLM takes 32 and more on a CPU.
    """
    shape = {
        "vocab_size": num_tokens,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    torch.manual_seed(seed)
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=head_dim, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model.eval()


def toy_recipe(folder: Path) -> Path:
    """Write a small model into a folder, and beside it a recipe that trains it in the toy world; return the recipe."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    path = folder / "toy.toml"
    path.write_text(TOY_RECIPE.format(model=folder / "model"))
    return path
