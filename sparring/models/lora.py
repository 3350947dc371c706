"""LoRA adapters on a loaded transformers model: several on one base, of which one is active.

They are put in by transformers' own PEFT integration, which leaves `model.base_model` the decoder itself, so whatever
runs the decoder and the head apart from each other goes on working. An adapter's tensors are float32 whatever the
base's dtype is. Nothing here changes the base's weights, nor an adapter that it is not told of.

Source: arXiv 2106.09685.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, ModelError
from sparring.core.ranges import Name, PositiveWeight, Range, ShareBelowOne
from sparring.models.adapter_folders import CONFIG, PREFIX, WEIGHTS, compare, read_adapter, read_tensors
from sparring.models.folders import one_line
from sparring.models.linear_layers import Targets, find_targets, linear_shapes
from sparring.models.saving import fresh_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INSTALL = "LoRA takes the peft package: pip install 'sparring[lora]'."
_PARAMETER = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])\.(?P<adapter>[^.]+)\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Train low-rank adapters beside frozen weights: both agents' on one base in memory."""

    rank: Annotated[int, Range(at_least=1, at_most=65536)] | None = None
    """Rank of the adapters' matrices; none: all weights are trained, and there are no adapters."""
    alpha: PositiveWeight | None = None
    """The adapters' output is scaled by alpha / rank; none: twice the rank."""
    targets: tuple[Name, ...] = ()
    """Ends of the names of the linear layers that get adapters (`q_proj`). Empty: all of the decoder's, but in a
    mixture of experts those of attention alone."""
    dropout: ShareBelowOne = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit`: the base lies in memory as 4-bit NormalFloat (QLoRA), which takes a GPU and the bitsandbytes package."""

    def __post_init__(self) -> None:
        check_values(self)
        if self.rank is None and (self.alpha is not None or self.targets or self.dropout or self.quantize != "none"):
            raise ConfigError("rank: is not set, so all weights are trained, and no other key of lora applies. Set it.")


# ── Adapters of a model ───────────────────────────────────────────────────────────────────────────────────────────────


def attach(model: PreTrainedModel, name: str, config: LoraConfig, seed: int) -> None:
    """Put a new adapter on a model, which changes nothing yet: B is zero. It is the active one afterwards.

    Args:
        model: with or without other adapters.
        name: the new adapter's; a name that is not in use.
        config: with a rank.
        seed: A is drawn from it alone; the state of torch's generator neither matters nor changes.

    Raises:
        ConfigError: a target that the model does not have, or no peft.
    """
    alpha, targets = _alpha(config), find_targets(model, config.targets)
    made = _peft().LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        target_modules=list(targets.short),
        fan_in_fan_out=targets.are_transposed,
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
    )
    _add(model, name, made, targets)
    _initialise(model, name, seed)


def copy(model: PreTrainedModel, source: str, name: str) -> None:
    """Put a new adapter on a model that begins with another one's weights. It is the active one afterwards."""
    _add(model, name, deepcopy(_configs(model)[source]), None)
    load_state(model, name, state(model, source))


def use(model: PreTrainedModel, name: str) -> None:
    """Make an adapter the active one: it alone takes part in the forward, and its parameters alone require gradients.

    A value head beside it still learns.
    """
    model.enable_adapters()  # whoever switched them off: the bare base is never played or scored unasked
    model.set_adapter(name)
    own = {id(parameter) for parameter in parameters(model, name).values()}
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in own or key.startswith("value_head."))


def active(model: PreTrainedModel) -> str | None:
    """Return the active adapter's name, none where there are no adapters."""
    return model.active_adapters()[0] if names(model) else None


def drop(model: PreTrainedModel, name: str) -> None:
    """Take an adapter off: one that is not active, or the last one. The base stays frozen."""
    assert name != active(model) or len(names(model)) == 1, f"{name!r} is active: use another one first"
    model.delete_adapter(name)


def names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of a model's adapters."""
    return tuple(_configs(model))


def parameters(model: PreTrainedModel, name: str) -> dict[str, torch.nn.Parameter]:
    """Return an adapter's parameters by PEFT's names, which are the same whatever the adapter is called."""
    found = {}
    for key, parameter in model.named_parameters():
        match = _PARAMETER.fullmatch(key)
        if match and match["adapter"] == name:
            found[f"{PREFIX}{match['layer']}.lora_{match['part']}.weight"] = parameter
    return found


def state(model: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """Return an adapter's tensors by PEFT's names: float32, and the live ones, which training goes on changing."""
    return {key: parameter.detach() for key, parameter in parameters(model, name).items()}


def load_state(model: PreTrainedModel, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors, named as in `state`, into an adapter.

    Raises:
        ModelError: they are not those of this adapter.
    """
    import torch

    own = parameters(model, name)
    if {key: tensor.shape for key, tensor in tensors.items()} != {key: p.shape for key, p in own.items()}:
        raise ModelError(f"adapter {name!r}: tensors of another rank, other layers or another base model.")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(tensors[key])


def drops(model: PreTrainedModel, name: str) -> bool:
    """Say whether an adapter drops some of its inputs in training."""
    return _configs(model)[name].lora_dropout > 0


@contextmanager
def dropping(model: PreTrainedModel, name: str, seed: int) -> Iterator[None]:
    """Let an adapter's dropout drop for a while; elsewhere it never does, since models stay in evaluation mode.

    What is dropped depends on the seed (give each step its own) and on the order of the forward passes, so a run is
    repeatable only where they run one after another. Reference log-probs are computed outside. With a `dropout` of 0
    nothing happens.
    """
    import torch

    drops = [part for key, part in model.named_modules() if key.endswith(f".lora_dropout.{name}")]
    drops = [part for part in drops if isinstance(part, torch.nn.Dropout)]
    if not drops:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            for part in drops:
                part.train()
            yield
        finally:
            for part in drops:
                part.eval()


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(
    model: PreTrainedModel, name: str, folder: Path, base: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Save an adapter as a PEFT folder, whole or not at all; one that is there is replaced.

    Args:
        model: the one that has it.
        name: the adapter's.
        folder: gets its config, its weights and the tokenizer's files.
        base: the base model's folder or Hub id, which the folder names.
        tokenizer: none: the base's own will do.
    """
    from safetensors.torch import save_file

    with fresh_folder(Path(folder)) as fresh:
        fresh.mkdir()
        plain = deepcopy(_configs(model)[name])
        plain.base_model_name_or_path, plain.inference_mode = str(base), True
        entries = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.to_dict().items()}
        (fresh / CONFIG).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        tensors = {key: tensor.float().contiguous().cpu() for key, tensor in state(model, name).items()}
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)


def load(model: PreTrainedModel, name: str, folder: Path) -> None:
    """Put the adapter of a PEFT folder on a model. It is the active one afterwards.

    Raises:
        ModelError: the folder is refused (`check_adapter`), or it belongs to another base model.
    """
    adapter = read_adapter(Path(folder))
    compare(adapter, linear_shapes(model))
    tensors = read_tensors(adapter)
    targets = find_targets(model, tuple(adapter.widths))
    made = _peft().LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(targets.short),
        fan_in_fan_out=targets.are_transposed,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.is_rank_stabilised,
        task_type="CAUSAL_LM",
    )
    _add(model, name, made, targets)
    load_state(model, name, tensors)


# ── Around the model ──────────────────────────────────────────────────────────────────────────────────────────────────


def quantization(config: LoraConfig, device: torch.device) -> dict[str, Any]:
    """Return the keywords with which transformers loads the base: none, or a 4-bit `quantization_config`.

    Source: arXiv 2305.14314.

    Raises:
        ConfigError: 4 bits are asked for without a GPU or without bitsandbytes.
    """
    if config.quantize == "none":
        return {}
    if device.type != "cuda":
        raise ConfigError(f"lora.quantize is '4bit', which needs a GPU; this is a {device.type}. Set it to 'none'.")
    if find_spec("bitsandbytes") is None:
        raise ConfigError("lora.quantize is '4bit', which takes bitsandbytes: pip install bitsandbytes; or set 'none'.")
    import torch
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": quantized}


def weight_of(layer: Any) -> Tensor:
    """Return a linear layer's weight as the active adapter makes it: itself without one, else a new tensor."""
    adapters = [name for name in getattr(layer, "active_adapters", ()) if name in layer.lora_A]
    weight = getattr(layer, "base_layer", layer).weight.detach()
    for name in adapters:
        delta = layer.lora_B[name].weight.detach() @ layer.lora_A[name].weight.detach() * layer.scaling[name]
        weight = (weight.float() + (delta.T if layer.fan_in_fan_out else delta)).to(weight.dtype)
    return weight


def has_adapters(model: torch.nn.Module) -> bool:
    """Say whether any of a model's layers carries adapters, active or not."""
    return any(hasattr(part, "lora_A") for part in model.modules())


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ConfigError(INSTALL) from None
    return peft


def _alpha(config: LoraConfig) -> float:
    """Return alpha: what an adapter's output is multiplied by, times the rank; a whole number as such."""
    assert config.rank is not None, "an adapter needs a rank"
    alpha = 2 * config.rank if config.alpha is None else config.alpha
    return int(alpha) if alpha == int(alpha) else alpha


def _configs(model: PreTrainedModel) -> dict[str, Any]:
    return getattr(model, "peft_config", {}) if getattr(model, "_hf_peft_config_loaded", False) else {}


def _add(model: PreTrainedModel, name: str, config: Any, targets: Targets | None) -> None:
    """Put an adapter in, by PEFT's config, and make it the active one."""
    import torch

    assert name.isidentifier() and name not in names(model), f"{name!r}: no name for a new adapter"
    before = torch.get_rng_state()  # PEFT draws weights that are written over at once
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.add_adapter(config, adapter_name=name)
    except ValueError as error:
        raise ConfigError(f"lora.targets: {one_line(error)}") from error
    finally:
        torch.set_rng_state(before)
    for key, part in model.named_modules():
        if key.endswith((f".lora_A.{name}", f".lora_B.{name}")):
            part.float()
        if ".lora_" in key:
            part.train(model.training)
    use(model, name)
    layers = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in parameters(model, name)}
    assert targets is None or layers == set(targets.full), "PEFT chose other layers"


def _initialise(model: PreTrainedModel, name: str, seed: int) -> None:
    """Draw A as PEFT does (uniform, bounded by 1 / √ its width), layer after layer; make B zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(parameters(model, name).items()):
            if key.endswith(".lora_B.weight"):
                parameter.zero_()
                continue
            bound = 1 / math.sqrt(parameter.shape[1])
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.copy_(drawn)
