"""Options of other trainers, as users type them, and the key that is meant here.

Learned from the arguments of Hugging Face's Trainer, TRL, PEFT, verl and vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TRAINING = ("sft", "dpo", "rl")
"""The sections of a config that optimise; each has the same keys."""
PLAYING = ("rollout", "grpo", "ppo")
"""The sections that say how many episodes are played."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word of another trainer is here."""

    keys: tuple[str, ...] = ()
    """Keys by which it is set; one that begins with a dot is the key of each training section."""
    note: str = ""
    """What differs."""


_STEP = Meaning(
    (".batch_size",),
    "It is what one optimizer step takes, on all devices together. Memory is bounded by max_tokens_per_batch in the "
    "same section, and a step is split by it, so there are no batches a device and no accumulation to set.",
)
_LENGTH = Meaning(("chat.max_context",), "It counts a whole episode in tokens. A longer one ends; nothing is cut.")
_NEW = Meaning(("rollout.max_new_tokens",), "It counts the tokens of one action.")
_GROUP = Meaning(("grpo.num_per_task", "rollout.num_per_task"), "The first is GRPO's group.")
_KL = Meaning(("grpo.kl_weight", "ppo.kl_weight"))
_BITS = Meaning(("lora.quantize",))
_RANK = Meaning(("lora.rank",), "Without a rank all weights are trained.")
_SHARDED = Meaning(("engine.kind",), "`--engine.kind fsdp` under torchrun shards the model (docs/fsdp.md).")
_TYPE = Meaning(("model.dtype", ".autocast"), "The first is the type of the weights, the second that of the products.")
_MODEL = Meaning(("model.path",))
_SAVED = Meaning(("run.keep",), "It says which checkpoints stay. State to go on from is written by itself.")
_EVALUATED = Meaning(("loop.evaluate_every", "grpo.evaluate_every", "ppo.evaluate_every"), "They count rounds.")
_GOES_ON = Meaning(note="A run that was stopped goes on with the same command.")
_LOGGED = Meaning(note="Every step is logged, to log.jsonl in its phase's folder.")
_DATA = Meaning(("expert.path",), "It names a file of demonstrations (docs/your-environment.md).")

MEANINGS: Mapping[str, Meaning] = {
    "learning_rate": Meaning((".lr",)),
    "actor_lr": Meaning((".lr",)),
    "num_train_epochs": Meaning((".epochs",)),
    "num_epochs": Meaning((".epochs",)),
    "total_epochs": Meaning((".epochs",)),
    "max_steps": Meaning((".epochs",), "The number of steps follows from epochs and batch_size."),
    "per_device_train_batch_size": _STEP,
    "per_device_eval_batch_size": Meaning(("env.num_envs",), "Evaluation plays episodes, as many at a time as envs."),
    "train_batch_size": _STEP,
    "global_batch_size": _STEP,
    "micro_batch_size": _STEP,
    "mini_batch_size": _STEP,
    "ppo_mini_batch_size": _STEP,
    "ppo_micro_batch_size_per_gpu": _STEP,
    "gradient_accumulation_steps": _STEP,
    "lr_scheduler_type": Meaning((".schedule",)),
    "lr_scheduler": Meaning((".schedule",)),
    "warmup_steps": Meaning((".warmup_ratio",), "It is a share of the steps."),
    "max_grad_norm": Meaning((".clip_norm",)),
    "grad_clip": Meaning((".clip_norm",)),
    "gradient_checkpointing": Meaning((".recompute",)),
    "bf16": _TYPE,
    "fp16": _TYPE,
    "torch_dtype": _TYPE,
    "precision": _TYPE,
    "model_name_or_path": _MODEL,
    "model_name": _MODEL,
    "pretrained_model_name_or_path": _MODEL,
    "base_model": _MODEL,
    "model_id": _MODEL,
    "ref_model": Meaning(("loop.restart",), "The reference is the agent as the round found it."),
    "max_length": _LENGTH,
    "max_len": _LENGTH,
    "max_seq_length": _LENGTH,
    "max_seq_len": _LENGTH,
    "max_model_len": _LENGTH,
    "max_prompt_length": _LENGTH,
    "max_completion_length": _NEW,
    "max_response_length": _NEW,
    "max_new_tokens": _NEW,
    "max_tokens": _NEW,
    "temperature": Meaning(("rollout.temperature",)),
    "num_generations": _GROUP,
    "group_size": _GROUP,
    "rollout_n": _GROUP,
    "num_envs": Meaning(("env.num_envs",)),
    "max_turns": Meaning(note="The world says it, by its benchmark's turn_limit; some worlds have an option for it."),
    "beta": Meaning(("loss.beta", *_KL.keys), "The first is DPO's, the others weigh the KL term of GRPO and PPO."),
    "kl_coef": _KL,
    "kl_loss_coef": _KL,
    "init_kl_coef": _KL,
    "epsilon": Meaning(("grpo.clip_low", "grpo.clip_high", "ppo.clip")),
    "epsilon_high": Meaning(("grpo.clip_high",)),
    "cliprange": Meaning(("ppo.clip",)),
    "cliprange_value": Meaning(("ppo.value_clip",)),
    "vf_coef": Meaning(("ppo.value_weight",)),
    "loss_type": Meaning(("loss.variant",)),
    "rpo_alpha": Meaning(("eto.sft_weight", "loss.expert_sft"), "The first is ETO's, the second weighs expert pairs."),
    "scale_rewards": Meaning(("grpo.scale",)),
    "num_iterations": Meaning(("rl.epochs",)),
    "use_peft": _RANK,
    "lora_r": _RANK,
    "lora_rank": _RANK,
    "r": _RANK,
    "lora_alpha": Meaning(("lora.alpha",)),
    "lora_dropout": Meaning(("lora.dropout",)),
    "lora_target_modules": Meaning(("lora.targets",)),
    "target_modules": Meaning(("lora.targets",)),
    "load_in_4bit": _BITS,
    "load_in_8bit": _BITS,
    "use_vllm": Meaning(("sampler.kind",), "`--sampler.kind vllm` (docs/vllm.md)."),
    "vllm_mode": Meaning(("vllm.launch",), "True starts a server here; vllm.base_urls names ones that run."),
    "vllm_gpu_memory_utilization": Meaning(("vllm.gpu_memory_utilization",)),
    "tensor_parallel_size": Meaning(("vllm.tensor_parallel",)),
    "data_parallel_size": Meaning(("vllm.data_parallel",)),
    "deepspeed": _SHARDED,
    "fsdp": _SHARDED,
    "use_cpu": Meaning(("model.device",)),
    "device_map": Meaning(("model.device",)),
    "eval_steps": _EVALUATED,
    "eval_strategy": _EVALUATED,
    "evaluation_strategy": _EVALUATED,
    "test_freq": _EVALUATED,
    "save_steps": _SAVED,
    "save_freq": _SAVED,
    "save_strategy": _SAVED,
    "save_total_limit": _SAVED,
    "logging_steps": _LOGGED,
    "logging_dir": _LOGGED,
    "resume_from_checkpoint": _GOES_ON,
    "resume": _GOES_ON,
    "resume_mode": _GOES_ON,
    "output_dir": Meaning(note="It is --out, on the command line."),
    "out_dir": Meaning(note="It is --out, on the command line."),
    "seed": Meaning(note="It is `seeds = [0]` at the top of a recipe, and --seeds 0 on the command line."),
    "run_name": Meaning(note="It is the recipe's `name`, or --out for another folder."),
    "dataset_name": _DATA,
    "dataset_path": _DATA,
    "train_file": _DATA,
    "train_files": _DATA,
    "env_name": Meaning(("env.id",)),
    "env_id": Meaning(("env.id",)),
    "eval_dataset": Meaning(("eval.split",)),
    "chat_template": Meaning(("chat.template",)),
    "total_training_steps": Meaning(("grpo.rounds", "ppo.rounds", "loop.rounds"), "They count rounds of playing."),
}


def meant_by(word: str, section: str = "", *, dashes: str = "") -> str | None:
    """Say which key a word of another trainer is here.

    Args:
        word: as typed, without its section and without dashes before it.
        section: the section in which it was typed; empty: in none.
        dashes: put before each key, for the command line.

    Returns:
        A sentence or two, or None for words that no other trainer has.
    """
    meaning = MEANINGS.get(word.replace("-", "_").lower())
    if meaning is None:
        return None
    here = (section,) if section in TRAINING else TRAINING
    keys = [
        f"{dashes}{one}"
        for key in meaning.keys
        for one in ([f"{own}{key}" for own in here] if key[0] == "." else [key])
    ]
    named = f"Here it is {_listed(keys)}." if keys else ""
    return " ".join(filter(None, (named, meaning.note)))


def _listed(keys: list[str]) -> str:
    return " or ".join([", ".join(keys[:-1]), keys[-1]] if len(keys) > 1 else keys)
