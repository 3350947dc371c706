"""A model of which each rank has some rows of every weight: how it is made from a folder, and gathered again.

It is built without memory for its weights, sharded, and then filled with the rows that each rank reads from the
folder's files. What is hung on it later (adapters, a value head) is whole on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from sparring.core.errors import ConfigError, ModelError
from sparring.engines.fsdp.files import Rows, open_rows
from sparring.engines.fsdp.forward import WITHIN
from sparring.engines.recomputation import layers_of
from sparring.models.agreement import check_agreement
from sparring.models.folders import check_folder, check_size, fetch_folder, one_line, weight_files
from sparring.models.loading import check_tokenizer, resolve_model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from sparring.models.loading import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where and how a model is sharded."""

    mesh: DeviceMesh
    device: torch.device
    """This rank's."""
    computes_in_half: bool
    """Gathered weights are bfloat16, the shards float32."""
    tick: Callable[[], None] = lambda: None
    """Called as work goes on."""

    def rows(self, length: int) -> slice:
        """Return this rank's share of a tensor's rows."""
        size = -(-length // self.mesh.size())
        start = min(length, self.mesh.get_local_rank() * size)
        return slice(start, min(length, start + size))


def load_sharded(config: ModelConfig, layout: Layout, *, dtype: torch.dtype, is_frozen: bool) -> tuple[Any, Any]:
    """Return a sharded model and its tokenizer.

    Args:
        config: which one.
        layout: where.
        dtype: of the shards.
        is_frozen: no weight of it is trained.

    Raises:
        ModelError: the folder is refused, or its files name weights otherwise than the model does.
    """
    trusts_code, folder = config.trust_remote_code, folder_of(config)
    weights = check_folder(folder, trusts_code=trusts_code)
    check_size(folder, weights, trusts_code=trusts_code)
    model, tokenizer = _empty(folder, config.path, dtype, trusts_code=trusts_code)
    check_tokenizer(model, tokenizer, config.path)
    model.requires_grad_(not is_frozen)
    _shard(model, layout)
    with open_rows(*weight_files(folder)) as files:
        _check(model, files, config.path)
        _fill(model, files, layout, dtype)
    model.to(layout.device)  # buffers
    model.stored_dtype = weights.dtype
    return model.eval(), tokenizer


def folder_of(config: ModelConfig) -> Path:
    """Return a model's folder, which is downloaded where it is a Hub id.

    Raises:
        ModelError: it can't be had.
    """
    trusts_code = config.trust_remote_code
    path = resolve_model(config.path, trusts_code=trusts_code)
    return Path(path) if Path(path).is_dir() else fetch_folder(path, trusts_code=trusts_code)


def _empty(folder: Path, path: str, dtype: torch.dtype, *, trusts_code: bool) -> tuple[Any, Any]:
    """Build the model that a folder describes; its buffers have their values, its weights take no memory."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusts_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusts_code)
        with _weights_on_meta():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusts_code)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return model, tokenizer
    except Exception as error:  # a folder from elsewhere can make the library raise anything
        raise ModelError(f"model.path: can't load {path!r}: {one_line(error)}") from error


@contextmanager
def _weights_on_meta() -> Iterator[None]:
    def without_memory(_: Any, __: str, parameter: Parameter | None) -> Any:
        if parameter is None or parameter.is_meta:  # a tied one comes again, and must stay the same
            return parameter
        return Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(without_memory)
    try:
        yield
    finally:
        handle.remove()


def _shard(model: Any, layout: Layout) -> None:
    """Shard a model's layers, each by itself, and all the rest together."""
    layers = layers_of(model)
    if not layers:
        raise ConfigError(f"engine.kind: {type(model).__name__} has no list of layers to shard. Use 'local'.")
    policy = MixedPrecisionPolicy()
    if layout.computes_in_half:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=layout.mesh, mp_policy=policy)
        layer.register_forward_hook(_ticking(layout.tick))
    fully_shard(model, mesh=layout.mesh, mp_policy=policy)
    sharded: list[Any] = [*layers, model]
    for module in sharded:
        # Losses are divided by a step's denominator: the ranks' gradients add up.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    setattr(model, WITHIN, lambda function: function())
    register_fsdp_forward_method(model, WITHIN)


def _ticking(tick: Callable[[], None]) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: Any) -> None:
        tick()
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(lambda _: tick())

    return hook


def _check(model: Any, files: Rows, path: str) -> None:
    """Refuse weights that are not the model's.

    Raises:
        ModelError: they have other names or shapes.
    """
    own: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        own[name] = tuple(tensor.shape)
    tied = {name for name in own if name not in dict(model.named_parameters()) and name in _parameter_names(model)}
    report = {
        "mismatched_keys": [(n, files.shape(n), s) for n, s in own.items() if n in files and files.shape(n) != s],
        "missing_keys": own.keys() - files.names - tied,
        "unexpected_keys": files.names - own.keys(),
    }
    try:
        check_agreement(model, report, path)
    except ModelError as error:
        raise ModelError(
            f"{str(error).rstrip('.')}; or they lie there under other names, which "
            "engine.kind 'local' can read, and 'fsdp' can't."
        ) from None


def _parameter_names(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


def _fill(model: Any, files: Rows, layout: Layout, dtype: torch.dtype) -> None:
    """Read this rank's rows of every weight."""
    filled: dict[int, Parameter] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, DTensor):
            state[name] = files.read(name).to(tensor.dtype)
            continue
        if id(tensor) not in filled:
            local = files.read(name, layout.rows(tensor.shape[0]))
            filled[id(tensor)] = Parameter(like(tensor, local.to(layout.device, dtype)), tensor.requires_grad)
        state[name] = filled[id(tensor)]
        layout.tick()
    model.load_state_dict(state, assign=True)


def like(whole: DTensor, local: Tensor) -> DTensor:
    """Return the tensor whose rows on this rank are `local`, sharded as another one of its shape."""
    return DTensor.from_local(
        local,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )
