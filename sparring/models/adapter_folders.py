"""What a PEFT folder holds is checked before anything of it is used: a folder from elsewhere is untrusted input.

As for model folders (`folders.py`), weights come from one safetensors file alone, no file makes code be fetched or run,
and no pattern out of a file is evaluated. Plain LoRA on linear layers is taken, rank-stabilised or not; what would
change the numbers in any other way is refused by its key. Which layers have adapters is read off the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ModelError, quote
from sparring.models.folders import Weights, check_files, check_folder, empty_model, fetch_folder, one_line, read_json
from sparring.models.linear_layers import is_named, linear_shapes

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of a PEFT folder."""
PREFIX = "base_model.model."
"""What PEFT's names of tensors begin with in a file."""
WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",  # names classes, which are never imported
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "fan_in_fan_out",  # read off the base's layers
        "inference_mode",
        "init_lora_weights",  # how training began; what changes the base's weights is refused below
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Keys that are read here, or that tell of training alone."""
CHOICES = frozenset({"exclude_modules", "layers_to_transform", "layers_pattern"})
"""Keys that choose layers: the tensors say which were chosen."""
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base's weights as they are."""
MAX_RANK = 65536
BASE_WANTED = "It must name the base model's folder or Hub id; or name that with --base."
_TENSOR = re.compile(re.escape(PREFIX) + r"(?P<layer>[^\s]+)\.lora_(?P<part>[AB])\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A PEFT folder that holds a plain LoRA adapter."""

    folder: Path
    base: str
    """The base model's folder, bundled name or Hub id; empty where the config names none."""
    rank: int
    alpha: float
    dropout: float
    is_rank_stabilised: bool
    """Whether the adapter's output is scaled by alpha / √rank instead of alpha / rank."""
    targets: tuple[str, ...]
    """Ends of the names of all layers that have adapters; empty where the config doesn't list them plainly."""
    widths: Mapping[str, tuple[int, int]]
    """The layers that have adapters, by their names in the base model, with the widths of their input and output."""

    @property
    def num_parameters(self) -> int:
        """How many weights the adapter has."""
        return sum(self.rank * (given + made) for given, made in self.widths.values())

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.is_rank_stabilised else self.rank)


def is_adapter(path: str | Path) -> bool:
    """Say whether a path is a folder with an adapter's config."""
    return (Path(path).expanduser() / CONFIG).is_file()


def check_adapter(folder: Path, base: str | None = None) -> AdapterFolder:
    """Check a PEFT folder and its base model's, without loading either.

    Args:
        folder: the adapter's.
        base: the base model's folder, bundled name or Hub id; none: the one that the adapter names.

    Raises:
        ModelError: what is refused, by file and key.
    """
    adapter = read_adapter(folder)
    if base is not None:
        adapter = replace(adapter, base=base)
    if not adapter.base:
        raise _refused(adapter.folder, "base_model_name_or_path", None, BASE_WANTED)
    place, weights = base_folder(adapter)
    compare(adapter, linear_shapes(empty_model(place, weights, trusts_code=False)))
    return adapter


def base_folder(adapter: AdapterFolder) -> tuple[Path, Weights]:
    """Return the folder of an adapter's base model, and what its weight files hold; a Hub id's is fetched.

    Raises:
        ModelError: it is not there, is refused, or is an adapter itself.
    """
    from sparring.models.loading import resolve_model

    if is_adapter(adapter.base):
        raise ModelError(
            f"adapter: the base of {str(adapter.folder)!r} is {quote(adapter.base)}, an adapter itself, and adapters "
            f"are not stacked. Merge that one first (sparring merge {quote(adapter.base, bare=True)} OUT), and name "
            "OUT as the base."
        )
    try:
        place = resolve_model(adapter.base)
        base = Path(place) if Path(place).is_dir() else fetch_folder(place, trusts_code=False)
        return base, check_folder(base, trusts_code=False)
    except ModelError as error:
        what = str(error).removeprefix("model.path: ")
        raise ModelError(
            f"adapter: the base of {str(adapter.folder)!r}, {quote(adapter.base)}, can't be used: {what} Name "
            f"another with --base, or as base_model_name_or_path in {CONFIG}."
        ) from error


def read_adapter(folder: Path) -> AdapterFolder:
    """Check a PEFT folder by itself.

    Raises:
        ModelError: what is refused, by file and key.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ModelError(f"adapter: there is no folder {str(folder)!r}.")
    check_files(folder)
    config = read_json(folder / CONFIG, folder)
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str):
        raise _refused(folder, "base_model_name_or_path", base, BASE_WANTED)
    _check_kind(config, folder)
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise _refused(folder, "r", rank, f"The rank must be a whole number from 1 to {MAX_RANK}.")
    alpha = _number(config, folder, "lora_alpha", default=8.0)
    dropout = _number(config, folder, "lora_dropout", default=0.0)
    if alpha <= 0:
        raise _refused(folder, "lora_alpha", alpha, "It must be above 0.")
    if not 0 <= dropout < 1:
        raise _refused(folder, "lora_dropout", dropout, "It must be from 0 on, below 1.")
    widths = _widths(folder, rank)
    return AdapterFolder(
        folder=folder,
        base=base,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        is_rank_stabilised=config.get("use_rslora") is True,
        targets=_targets(config, folder, widths),
        widths=widths,
    )


def compare(adapter: AdapterFolder, layers: Mapping[str, tuple[int, int]]) -> None:
    """Compare an adapter with the linear layers of a base model.

    Raises:
        ModelError: it belongs to another model.
    """
    where = f"adapter: {WEIGHTS} of {str(adapter.folder)!r}"
    remedy = f"It belongs to another base model than {quote(adapter.base)}: name the right one."
    for layer, found in adapter.widths.items():
        if layer not in layers:
            raise ModelError(
                f"{where} has weights for {quote(layer)}, which is no linear layer of the base's decoder. {remedy}"
            )
        if found != layers[layer]:
            raise ModelError(
                f"{where}: the adapter of {quote(layer)} takes {found[0]} numbers and gives {found[1]}, the base's "
                f"layer {layers[layer][0]} and {layers[layer][1]}. {remedy}"
            )
    for layer in layers.keys() - adapter.widths.keys():
        if any(is_named(layer, name) for name in adapter.targets):
            raise ModelError(f"{where} lacks weights for {quote(layer)}, which target_modules names. {remedy}")


def read_tensors(adapter: AdapterFolder) -> dict[str, Tensor]:
    """Read an adapter's weights onto the CPU, as float32.

    Raises:
        ModelError: they are unreadable, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = adapter.folder / WEIGHTS
    try:
        tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"adapter: can't load {str(path)!r}: {one_line(error)}") from None
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelError(f"adapter: {str(path)!r}: {key} is not finite: a training that diverged?")
    return tensors


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refused(folder: Path, key: str, value: Any, remedy: str) -> ModelError:
    return ModelError(f"adapter: {CONFIG} of {str(folder)!r}: {key} is {quote(value)}. {remedy}")


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what is not plain LoRA."""
    if (kind := config.get("peft_type")) != "LORA":
        raise _refused(folder, "peft_type", kind, "Only LORA adapters are taken.")
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        remedy = "It changes the base's weights, which the base alone doesn't have: convert it to plain LoRA with PEFT."
        raise _refused(folder, "init_lora_weights", start, remedy)
    if not isinstance(config.get("use_rslora", False), bool):
        raise _refused(folder, "use_rslora", config["use_rslora"], "It must be true or false.")
    for key, value in config.items():
        is_neutral = value is None or value is False or value in ("none", [], {})
        if key not in WITHOUT_EFFECT | CHOICES and not is_neutral:
            remedy = "Only plain LoRA is taken: merge the adapter into its base model with PEFT, and use that."
            raise _refused(folder, key, value, remedy)


def _number(config: Mapping[str, Any], folder: Path, key: str, *, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 10**6:  # NaN is not
        raise _refused(folder, key, value, "It must be a number, at most a million.")
    return value


def _widths(folder: Path, rank: int) -> dict[str, tuple[int, int]]:
    """Read the header of the weights' file: which layers have adapters, and how wide they are."""
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file():
        pickled = next(iter(sorted(folder.glob("*.bin"))), None)
        remedy = "Was it saved in full?"
        if pickled:
            remedy = f"{pickled.name} is a pickle and is not opened: save the adapter with safe_serialization=True."
        raise ModelError(f"adapter: {str(folder)!r} has no {WEIGHTS}. {remedy}")
    shapes: dict[str, dict[str, list[int]]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 (a file, not a mapping)
                part = file.get_slice(key)
                match = _TENSOR.fullmatch(key)
                if match is None or part.get_dtype() not in ("F32", "BF16", "F16"):
                    raise ModelError(
                        f"adapter: {WEIGHTS} of {str(folder)!r} has {quote(key)} ({part.get_dtype()}), which is no "
                        "LoRA matrix of a linear layer. Only plain LoRA is taken: merge it with PEFT."
                    )
                shapes.setdefault(match["layer"], {})[match["part"]] = part.get_shape()
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"adapter: can't load {str(path)!r}: {one_line(error)}") from None
    if not shapes:
        raise ModelError(f"adapter: {str(path)!r} is empty.")
    return {layer: _width(folder, layer, parts, rank) for layer, parts in shapes.items()}


def _width(folder: Path, layer: str, parts: Mapping[str, list[int]], rank: int) -> tuple[int, int]:
    a, b = parts.get("A", []), parts.get("B", [])
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise ModelError(
            f"adapter: {WEIGHTS} of {str(folder)!r}: {quote(layer)} has the matrices A {a} and B {b}, which are not of "
            f"rank {rank} (r in {CONFIG})."
        )
    return a[1], b[0]


def _targets(config: Mapping[str, Any], folder: Path, widths: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of layers that the config lists, where it does; compare them with those that have tensors."""
    wanted = config.get("target_modules")
    if isinstance(wanted, str):  # a pattern, which is not evaluated
        return ()
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise _refused(folder, "target_modules", wanted, "It must list the layers that have adapters.")
    if more := [layer for layer in widths if not any(is_named(layer, name) for name in wanted)]:
        remedy = f"{WEIGHTS} also has weights for {quote(more[0])}: list it."
        raise _refused(folder, "target_modules", wanted, remedy)
    return () if any(config.get(key) for key in CHOICES) else tuple(wanted)
