"""A causal language model and its tokenizer: where they are, how they are loaded, and how they are saved."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, ModelError, quote
from sparring.core.memory import free_large_blocks_at_once
from sparring.core.phases import CHECKPOINT
from sparring.core.ranges import ADJUSTABLE_WITH_NOTE, Name, Place
from sparring.data.chat import known_ids
from sparring.models.adapter_folders import base_folder, check_adapter, is_adapter
from sparring.models.agreement import check_agreement
from sparring.models.folders import check_folder, check_size, fetch_folder, one_line
from sparring.models.saving import fresh_folder, write_folder

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_MODELS = Path(__file__).parent / "bundled"
BUNDLED = {f"sparring-{name}": _MODELS / name for name in ("worlds", "tools", "code")}
"""Models that ship with the package: name → folder. The first has learnt the language of ScienceWorld, of the invented
WebShop's pages and of SQL over invented databases; the second, going on from it, BFCL's function calls over invented
conversations; the third, going on from that, the code of AppWorld over invented households."""
BUNDLED_NAMES = " or ".join(map(repr, BUNDLED))
NEEDS_SENTENCEPIECE = (
    "its tokenizer is a tokenizer.model, which takes other packages to read. Run `pip install sentencepiece protobuf`, "
    "or put a tokenizer.json beside it."
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model both agents start from."""

    path: Place = "sparring-worlds"
    """A bundled model's name (`sparring-worlds`, `sparring-tools`, `sparring-code`), a folder, or a Hugging Face Hub
    id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights in memory. `auto`: bfloat16 on a GPU that computes in it natively, float32 elsewhere."""
    device: Annotated[Name, ADJUSTABLE_WITH_NOTE] = "auto"
    """`auto`: the first GPU where there is one, else the CPU; or a torch device, for instance `cuda:1`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""

    def __post_init__(self) -> None:
        check_values(self)


def resolve_model(path: str, *, key: str = "model.path", trusts_code: bool = False) -> str:
    """Return the folder or Hub id that `model.path` (or `key`) names, after looking into the folder.

    Raises:
        ModelError: a folder that is missing, that lacks a config, safetensors weights or a tokenizer, or in which
            something is refused (`check_folder`).
    """
    if path in BUNDLED:
        folder = BUNDLED[path]
    elif Path(path).expanduser().exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        folder = Path(path).expanduser()
    else:
        return path
    if not folder.is_dir():
        raise ModelError(f"{key}: there is no folder {str(folder)!r}. Give a folder, a Hub id, {BUNDLED_NAMES}.")
    if is_adapter(folder):
        check_adapter(folder)
        return str(folder)
    if not (folder / "config.json").is_file():
        inner = folder / CHECKPOINT
        remedy = f" Give its checkpoint: {str(inner)!r}." if inner.is_dir() else ""
        raise ModelError(f"{key}: {str(folder)!r} has no config.json, so it is no Hugging Face model folder.{remedy}")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        remedy = "Its .bin files are pickles and are not opened: convert them." if pickled else "Was it saved in full?"
        raise ModelError(f"{key}: {str(folder)!r} has no weights (*.safetensors). {remedy}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{key}: {str(folder)!r} has no tokenizer (tokenizer.json).")
    check_folder(folder, trusts_code=trusts_code)
    return str(folder)


def hush_loading(models: Sequence[str]) -> None:
    """Keep transformers from drawing a bar for each model it loads; a download from the Hub keeps its bar."""
    if all(model in BUNDLED or Path(model).expanduser().is_dir() for model in models):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def load_model(model: ModelConfig | str, **keywords: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model (in eval mode) and its tokenizer. Weights come from safetensors alone.

    An adapter's folder gives its base model with the adapter on it, active.

    Args:
        model: which one; a path alone stands for a config with it.
        keywords: what `lora.quantization` gives.

    Raises:
        ModelError: it is not there, incomplete, needs code that was not allowed, or has no chat template.
        ConfigError: a device that torch does not know.
    """
    import torch

    from sparring.models.threads import SMALL_MODEL

    config = model if isinstance(model, ModelConfig) else ModelConfig(path=model)
    device = resolve_device(config.device)
    if is_adapter(config.path):
        return _load_with_adapter(config)
    if keywords:
        keywords["device_map"] = {"": device}
    loaded, tokenizer = _load(config, torch.bfloat16 if is_bfloat16(config, device) else torch.float32, keywords)
    check_tokenizer(loaded, tokenizer, config.path)
    placed = loaded if keywords else cast("PreTrainedModel", torch.nn.Module.to(loaded, device))
    if device.type == "cpu" and placed.num_parameters() > SMALL_MODEL:
        free_large_blocks_at_once()
    return placed.eval(), tokenizer


def load_tokenizer(model: ModelConfig) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load what is known of a model without its weights: `config` and `generation_config`, and its tokenizer.

    Raises:
        ModelError: it can't be loaded, or has no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    place, trusts_code = resolve_model(model.path, trusts_code=model.trust_remote_code), model.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trusts_code)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trusts_code)
        try:
            generation = GenerationConfig.from_pretrained(place)
        except OSError:  # it has none
            generation = GenerationConfig.from_model_config(config)
    except Exception as error:  # a folder from elsewhere can make the libraries raise anything
        raise ModelError(f"model.path: can't read {model.path!r}: {one_line(error)}") from error
    _check_template(tokenizer, model.path)
    return SimpleNamespace(config=config, generation_config=generation), tokenizer


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse a tokenizer that an agent can't use.

    Raises:
        ModelError: it has no chat template, or more tokens than the model.
    """
    _check_template(tokenizer, path)
    num_embeddings = cast(Any, model.get_input_embeddings()).num_embeddings
    if (num_tokens := max(known_ids(tokenizer)) + 1) > num_embeddings:
        raise ModelError(f"model.path: the tokenizer has {num_tokens} tokens, the model only {num_embeddings}.")


def _check_template(tokenizer: Any, path: str) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"model.path: the tokenizer of {path!r} has no chat template. Use a chat model, or put a "
            "chat_template.jinja beside its tokenizer.json."
        )


def own_tokenizer(folder: Path) -> Any:
    """Load the tokenizer that an adapter's folder brings, none where it has none.

    Raises:
        ModelError: it can't be loaded.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a folder from elsewhere can make the libraries raise anything
        raise ModelError(f"adapter: can't load the tokenizer of {str(folder)!r}: {one_line(error)}") from error


def _load_with_adapter(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter's base, whose code is never run since the adapter named it and not the user, and the adapter."""
    from sparring.models import lora

    adapter = check_adapter(Path(config.path))
    model, tokenizer = load_model(replace(config, path=adapter.base, trust_remote_code=False))
    lora.load(model, "adapter", adapter.folder)
    return model, own_tokenizer(adapter.folder) or tokenizer


def end_ids_of(model: PreTrainedModel) -> frozenset[int]:
    """Return the tokens at which the model's own generation stops.

    Raises:
        ModelError: its generation config names something else than token ids.
    """
    listed = getattr(model.generation_config, "eos_token_id", None)  # the generation config may be None
    ids = listed if isinstance(listed, list | tuple) else [] if listed is None else [listed]
    if wrong := [one for one in ids if type(one) is not int or one < 0]:
        raise ModelError(f"model.path: generation_config.json: eos_token_id: {wrong[0]!r} is no token id.")
    return frozenset(ids)


def _load(
    config: ModelConfig, dtype: torch.dtype, keywords: Mapping[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load what a checked folder holds.

    Raises:
        ModelError: it can't be loaded, or weights are missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trusts_code = config.trust_remote_code
    path = resolve_model(config.path, trusts_code=trusts_code)
    folder = Path(path) if Path(path).is_dir() else fetch_folder(path, trusts_code=trusts_code)
    weights = check_folder(folder, trusts_code=trusts_code)
    try:
        check_size(folder, weights, trusts_code=trusts_code)
        with _without_warnings("transformers"):  # what it says of a load that failed or was interrupted misleads
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusts_code)
            tokenizer.encode("x")  # some settings of another type show then only
            loaded, report = cast(
                "tuple[PreTrainedModel, dict[str, Any]]",
                AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    trust_remote_code=trusts_code,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,  # so that the report says which
                    output_loading_info=True,
                    **keywords,
                ),
            )
    except ModelError:
        raise
    except Exception as error:  # a folder from elsewhere can make the libraries raise anything
        what = one_line(error)
        if "tiktoken" in what or "sentencepiece" in what.lower():
            what = NEEDS_SENTENCEPIECE
        raise ModelError(f"model.path: can't load {config.path!r}: {what}") from error
    check_agreement(loaded, report, config.path)
    cast(Any, loaded).stored_dtype = weights.dtype  # in which a trained model is saved
    return loaded, tokenizer


@contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Let a logger tell nothing below an error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str]) -> None:
    """Save an ordinary Hugging Face folder (safetensors), whole or not at all; one that is there is replaced.

    A model that was loaded from bfloat16 or float16 weights is saved in that dtype, whatever it is in by now.
    """
    with fresh_folder(Path(folder)) as fresh:
        write_folder(model, tokenizer, fresh)


def check_context(config: PretrainedConfig, max_context: int) -> None:
    """Refuse a model whose config has fewer positions than `max_context`.

    Raises:
        ConfigError: `chat.max_context` exceeds the model's positions.
    """
    from sparring.models.rope import most_positions

    limit = most_positions(config)
    if limit and max_context > limit:
        raise ConfigError(f"chat.max_context is {max_context}, but the model has {limit} positions. Lower it to that.")


def check_room(path: str, max_context: int, *, trusts_code: bool = False) -> None:
    """Refuse a model folder with fewer positions than `max_context` before it is loaded; a Hub id is asked at loading.

    Raises:
        ConfigError: as for `check_context`.
        ModelError: its config can't be read.
    """
    from transformers import AutoConfig

    if not Path(path).is_dir():
        return
    if is_adapter(path):
        path, trusts_code = str(base_folder(check_adapter(Path(path)))[0]), False
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trusts_code)
    except Exception as error:  # a folder from elsewhere can make the library raise anything
        raise ModelError(f"model.path: can't read the config of {path!r}: {one_line(error)}") from error
    check_context(config, max_context)


def resolve_device(name: str) -> torch.device:
    """Return the torch device that `model.device` names.

    Raises:
        ConfigError: torch knows none of this name, or it is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(f"model.device: torch has no {quote(name)} here: {quote(first_line, bare=True)}") from None
    return device


def is_bfloat16(config: ModelConfig, device: torch.device) -> bool:
    """Say whether a model's weights lie in memory as bfloat16 on a device.

    On a CPU only where it is asked for. Some compute in it natively and others do not; and with so few digits an action
    depends on which others are computed beside it, so a run that goes on would not end as one that was not stopped.
    """
    import torch

    return config.dtype == "bfloat16" or (
        config.dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
