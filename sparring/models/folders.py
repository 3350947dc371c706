"""What a model folder holds is checked before anything of it is loaded: a folder from elsewhere is untrusted input.

Three promises. Weights come from safetensors files of this folder alone: no index, config or link leads to a pickle or
to a file elsewhere. No file of the folder makes Python code be fetched or run. And what a config describes is in
proportion to the weights that are there, so that building it takes bounded time and memory.
"""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from sparring.core.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
READABLE = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors", ".py"})
"""Endings of the files that loading a model or a tokenizer may open."""
SUBFOLDERS = ("additional_chat_templates",)
"""Folders in a model folder whose files are read too."""
MAX_JSON_BYTES = 64 * 2**20
"""Of a config or an index; a tokenizer's vocabulary may be larger."""
MAX_LABELS = 100_000
"""Most classes of a config (`num_labels`), for each of which two entries are made."""
MAX_BUFFERS = 2**28
"""Most elements of a model's buffers, which no file holds: tables of masks and positions."""
SPARE_ELEMENTS = 2**20
"""How much more than twice the weights' elements a model may have; tiny models leave out much."""

_COUNT = re.compile(
    r"vocab_size|hidden_size|intermediate_size|head_dim|d_model|d_ff|n_embd|n_head|n_layers?|n_positions"
    r"|num_(hidden_layers|layers|attention_heads|heads|key_value_heads)|max_position_embeddings"
)
"""Keys of a config whose values are whole numbers above 0."""
_LAYERS = re.compile(r".*(num|n)_.*layers?|n_layer|depth|layer_types")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the weight files of a folder hold, from their headers."""

    num_tensors: int
    num_elements: int
    dtype: str
    """The dtype that most elements have, as safetensors spells it, for instance `BF16`."""


def fetch_folder(repo: str, *, trusts_code: bool) -> Path:
    """Download what a Hub id's model needs into the Hub's cache, and nothing else, and return its folder.

    Raises:
        ModelError: it can't be had, or its index names what is no safetensors file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    small = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", *(["*.py"] if trusts_code else [])]
    try:
        folder = Path(snapshot_download(repo, allow_patterns=small, ignore_patterns=["*/*.json", "*/*.txt"]))
        names = _weight_names(folder, read_json(folder / "config.json", folder))
        return Path(snapshot_download(repo, allow_patterns=names))
    except ModelError:
        raise
    except LocalEntryNotFoundError:
        raise ModelError(
            f"model.path: can't get {repo!r} from the Hub: it can't be reached, and the cache here lacks the "
            f"model. Fetch it where there is a connection (`hf download {repo}`), or give a folder."
        ) from None
    except Exception as error:  # whatever the Hub's client raises: many kinds, and none of them ours
        raise ModelError(f"model.path: can't get {repo!r} from the Hub: {one_line(error)}") from error


def check_folder(folder: Path, *, trusts_code: bool) -> Weights:
    """Check the files of a model folder, without loading it.

    Raises:
        ModelError: what is refused, by file and key.
    """
    check_files(folder)
    config = read_json(folder / "config.json", folder)
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"model.path: {str(folder)!r} has an {ADAPTER}: adapters are not loaded. Merge it into its base model."
        )
    weights = _weights(folder, config)
    _check_config(config, folder, weights, trusts_code=trusts_code)
    return weights


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a checked folder.

    Raises:
        ModelError: the index names what is no safetensors file of this folder.
    """
    return [folder / name for name in _weight_names(folder, read_json(folder / "config.json", folder))]


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's text as one line of bounded length, after its kind where the text says little by itself."""
    text = " ".join(str(error)[: 4 * limit].split())
    if isinstance(error, KeyError | AttributeError | TypeError | ArithmeticError | AssertionError) or not text:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= limit else f"{text[:limit]}…"


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_files(folder: Path) -> None:
    """Refuse what is no ordinary file, and links that leave the folder, among the files that loading may open."""
    home = folder.resolve()
    # A snapshot in the Hub's cache links to files beside it.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    for path in _readable_files(folder):
        try:
            target = path.resolve(strict=True)
            is_ordinary = stat.S_ISREG(target.stat().st_mode)
        except (OSError, RuntimeError) as error:
            raise ModelError(f"model.path: {str(path)!r} can't be read: {one_line(error)}.") from None
        if not is_ordinary:
            raise ModelError(f"model.path: {str(path)!r} is no ordinary file.")
        is_inside = target.is_relative_to(home) or (blobs is not None and target.is_relative_to(blobs))
        # Weights are large, so people link them; as a safetensors file another file gives nothing away.
        if path.is_symlink() and not is_inside and path.suffix != ".safetensors":
            raise ModelError(f"model.path: {str(path)!r} is a link that leaves the folder. Copy the file here.")


def _readable_files(folder: Path) -> Iterator[Path]:
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        entries = sorted(place.iterdir()) if place.is_dir() else []
        yield from (path for path in entries if path.suffix in READABLE)


def read_json(path: Path, folder: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size, which `folder` must have.

    Raises:
        ModelError: it is missing, unreadable or something else.
    """
    if not path.is_file():
        raise ModelError(f"model.path: {str(folder)!r} has no {path.name}, so it is no Hugging Face model folder.")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES // 2**20} MB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model.path: can't load {str(folder)!r}: {path.name}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ModelError(f"model.path: can't load {str(folder)!r}: {path.name} is no JSON object.")
    return found


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _weight_names(folder: Path, config: dict[str, Any]) -> list[str]:
    """Return the weight files' names, as transformers would choose them: a single file before an index.

    Raises:
        ModelError: a name that is no safetensors file of this folder.
    """
    named = config.get("transformers_weights")
    if named is not None:
        source, names = "config.json", [named]
        if isinstance(named, str) and named.endswith(".index.json"):
            return _indexed(folder, _checked_name(folder, "config.json", named, ".index.json"))
    elif (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        source, names = "config.json", [WEIGHTS]
    else:
        return _indexed(folder, INDEX)
    return [_checked_name(folder, source, name) for name in names]


def _indexed(folder: Path, index_name: str) -> list[str]:
    index = read_json(folder / index_name, folder)
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files or not isinstance(index.get("metadata"), dict):
        raise ModelError(
            f"model.path: can't load {str(folder)!r}: {index_name} lacks weight_map or metadata. Was it saved in full?"
        )
    return [_checked_name(folder, index_name, name) for name in sorted(set(map(str, files.values())))]


def _checked_name(folder: Path, source: str, name: Any, ending: str = ".safetensors") -> str:
    text = str(name)[:100]
    if not isinstance(name, str) or not name.endswith(ending):
        raise ModelError(
            f"model.path: {source} of {str(folder)!r} names {text!r} as weights. Only safetensors files are opened, "
            "pickles never: convert them."
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ModelError(f"model.path: {source} of {str(folder)!r} names {text!r}, which lies outside of the folder.")
    return name


def _weights(folder: Path, config: dict[str, Any]) -> Weights:
    """Read the headers of the weight files."""
    from safetensors import SafetensorError, safe_open

    num_tensors, num_elements, dtypes = 0, 0, Counter[str]()
    for name in _weight_names(folder, config):
        path = folder / name
        if not path.is_file():
            raise ModelError(f"model.path: can't load {str(folder)!r}: {name} is missing. Was it saved in full?")
        try:
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 (a file, not a mapping)
                    part = file.get_slice(key)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    num_tensors, num_elements = num_tensors + 1, num_elements + size
                    dtypes[part.get_dtype()] += size
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(f"model.path: can't load {str(folder)!r}: {name}: {one_line(error)}") from None
    if not dtypes:
        raise ModelError(f"model.path: can't load {str(folder)!r}: its weight files are empty.")
    return Weights(num_tensors=num_tensors, num_elements=num_elements, dtype=dtypes.most_common(1)[0][0])


# ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_config(config: dict[str, Any], folder: Path, weights: Weights, *, trusts_code: bool) -> None:
    for key, value in _entries(config):
        where = f"model.path: config.json of {str(folder)!r}: {key}"
        counts = value if isinstance(value, list) else [value]
        if _COUNT.fullmatch(key) and value is not None:
            wrong = [count for count in counts if isinstance(count, bool) or not isinstance(count, int) or count < 1]
            if wrong:
                raise ModelError(f"{where} must be a whole number above 0, not {str(wrong[0])[:40]!r}.")
        num_layers = len(counts) if key == "layer_types" else max((n for n in counts if isinstance(n, int)), default=0)
        if _LAYERS.fullmatch(key) and num_layers > max(64, weights.num_tensors):
            raise ModelError(f"{where} says {num_layers}, but its weight files hold {weights.num_tensors} tensors.")
        if key == "num_labels" and isinstance(value, int) and value > MAX_LABELS:
            raise ModelError(f"{where} is {str(value)[:40]}, more than {MAX_LABELS}.")
        if "_implementation" in key and not trusts_code and re.search(r"[/:]", json.dumps(value)):
            raise ModelError(
                f"{where} asks for code from elsewhere ({str(value)[:80]!r}). Remove the key, or allow it with "
                "model.trust_remote_code."
            )


def _entries(config: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a config and the configs in it."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict) and depth < 8:
            yield from _entries(value, depth + 1)


def check_size(folder: Path, weights: Weights, *, trusts_code: bool) -> None:
    """Build the model that the config describes without memory for its weights, and compare it with those.

    Raises:
        ModelError: it can't be built, or it is out of proportion.
    """
    empty_model(folder, weights, trusts_code=trusts_code)


def empty_model(folder: Path, weights: Weights, *, trusts_code: bool) -> Any:
    """Build the model that the config describes on the meta device, where weights take no memory.

    Raises:
        ModelError: it can't be built, or it is out of proportion to the weights that are there.
    """
    text = (folder / "config.json").read_text(encoding="utf-8")
    try:
        model = _described(text, weights.num_tensors, str(folder) if trusts_code else None)
    except Exception as error:  # a config from elsewhere can make the library raise anything
        raise ModelError(f"model.path: can't load {str(folder)!r}: {one_line(error)}") from error
    num_parameters, num_buffers = (sum(t.numel() for t in ts) for ts in (model.parameters(), model.buffers()))
    is_packed = "quantization_config" in text  # several weights in an element
    most = (16 if is_packed else 2) * weights.num_elements + SPARE_ELEMENTS
    if num_parameters > most or num_buffers > MAX_BUFFERS:
        raise ModelError(
            f"model.path: config.json of {str(folder)!r} describes a model of {num_parameters:,} weights (and "
            f"{num_buffers:,} other numbers), but its weight files hold {weights.num_elements:,}."
        )
    return model


@lru_cache(maxsize=16)
def _described(config: str, num_tensors: int, trusted: str | None) -> Any:
    """Build the model that a config's text describes, on meta; `trusted` is its folder if its code may run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    class Limit(torch.overrides.TorchFunctionMode):
        """Bounds the tensors that are made, and with them the modules."""

        num_left = 100 * num_tensors + 10_000

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.num_left -= 1
            if self.num_left < 0:
                raise ValueError(f"config.json describes far more parts than the {num_tensors} tensors of its weights")
            return func(*args, **(kwargs or {}))

    is_trusted = trusted is not None
    parsed = AutoConfig.from_pretrained(trusted, trust_remote_code=True) if is_trusted else _parsed(json.loads(config))
    with torch.device("meta"), Limit():
        return AutoModelForCausalLM.from_config(parsed, trust_remote_code=is_trusted)


def _parsed(config: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(f"config.json has the model_type {kind!r}, which transformers does not know")
    return CONFIG_MAPPING[kind].from_dict(config)
