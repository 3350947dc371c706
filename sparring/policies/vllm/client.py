"""One vLLM server: what it serves, ids in and sampled ids out, adapters loaded and let go, log-probabilities of a text.

vLLM's own endpoints beside OpenAI's are used (`/v1/completions` with ids, `/tokenize`, `/detokenize`,
`/v1/load_lora_adapter`), as of vLLM 0.32. Every request says all of its sampling parameters: a server's defaults come
from the model's folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError, EnvFault
from sparring.policies.transport import Connection, ContextFull, Failure, Remedies, Transport
from sparring.policies.vllm.config import KEY_VARIABLE, VllmConfig

if TYPE_CHECKING:
    from pathlib import Path

REMEDIES = Remedies(
    absent="Start the server, or check vllm.base_urls.",
    moved="Name that in vllm.base_urls if you trust it.",
    unknown="Check vllm.base_urls. docs/vllm.md says how a server is started that takes adapters.",
    refused="See the server's log; docs/vllm.md says how it is started.",
    busy="See the server's log; a lower env.num_envs or a higher vllm.timeout_s may help.",
)
LEAST_BIAS = -100.0
"""The lowest that servers take; a token with it is as good as impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How an answer is drawn."""

    temperature: float
    """0 is greedy."""
    max_tokens: int
    end_ids: Sequence[int]
    """Tokens that end an answer; they are part of it."""
    banned_ids: Sequence[int] = ()
    """Tokens that are never drawn: those that spell nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a server drew."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each id, at the temperature that it was drawn at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model or an adapter that a server has."""

    name: str
    root: str
    """The folder or Hub id it was loaded from."""
    parent: str
    """An adapter's base model; empty for a base model."""
    max_context: int
    """Most tokens of a prompt and its answer; 0 where the server does not say."""


class VllmClient:
    """Speaks to one server."""

    def __init__(self, url: str, config: VllmConfig, *, num_concurrent: int, own_key: str = "") -> None:
        """Read the API key from `VLLM_API_KEY`; no connection is opened yet.

        Args:
            url: the server's address, with or without `/v1`.
            config: how patiently it is asked.
            num_concurrent: most requests under way at once.
            own_key: the key of a server that was started here.
        """
        self._transport = Transport(
            Connection(
                url=url.rstrip("/").removesuffix("/v1"),
                key_variable=KEY_VARIABLE,
                num_concurrent=num_concurrent,
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                remedies=REMEDIES,
                own_key=own_key,
            )
        )

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.where

    def models(self) -> list[ServedModel]:
        """Ask which models and adapters the server has."""
        return self._ask("/v1/models", None, _models)

    def sample(self, model: str, ids: Sequence[int], draw: Draw, seed: int) -> Future[Sampled | Failure]:
        """Ask for an answer to a prompt of ids. The future is as `Transport.submit`'s."""
        body = {"model": model, "prompt": list(ids), "seed": seed, "logprobs": 0, **_body(draw)}
        return self._transport.submit("/v1/completions", body, _sampled)

    def logprobs(self, model: str, ids: Sequence[int]) -> list[float]:
        """Ask for the log-probability of each id but the first, at temperature 1."""
        draw = Draw(temperature=1.0, max_tokens=1, end_ids=())
        body = {"model": model, "prompt": list(ids), "prompt_logprobs": 0, **_body(draw)}
        return self._ask("/v1/completions", body, lambda answer: _prompt_logprobs(answer, ids))

    def spelled(self, model: str, ids: Sequence[int]) -> str:
        """Ask for the SHA-256 of the text that ids spell, in hexadecimal."""
        body = {"model": model, "tokens": list(ids)}
        return self._ask("/detokenize", body, lambda answer: digest_of(_text(json.loads(answer)["prompt"])))

    def tokenize(self, model: str, text: str) -> list[int]:
        """Ask for the ids of a text."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return self._ask("/tokenize", body, lambda answer: _ids(json.loads(answer)["tokens"]))

    def load_adapter(self, name: str, folder: Path) -> None:
        """Let the server load an adapter's folder under a name that it does not have yet."""
        self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, bytes)

    def unload_adapter(self, name: str) -> None:
        """Let the server forget an adapter; `ConfigError`: it is not there."""
        self._ask("/v1/unload_lora_adapter", {"lora_name": name}, bytes)

    def _ask(self, path: str, body: Mapping[str, Any] | None, read: Any) -> Any:
        """Send a request, and raise what went wrong with it."""
        outcome = self._transport.ask(path, body, read)
        if isinstance(outcome, ContextFull):
            raise ConfigError(f"{outcome}. Start the server with a larger --max-model-len.")
        if isinstance(outcome, ConfigError | EnvFault):
            raise outcome
        return outcome


def digest_of(text: str) -> str:
    """Return a text's SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _body(draw: Draw) -> dict[str, Any]:
    banned = {"logit_bias": {str(id): LEAST_BIAS for id in draw.banned_ids}} if draw.banned_ids else {}
    return {
        "max_tokens": draw.max_tokens,
        "temperature": draw.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(draw.end_ids),
        "ignore_eos": True,
        "skip_special_tokens": False,
        "add_special_tokens": False,
        "return_token_ids": True,
        **banned,
    }


def _models(answer: bytes) -> list[ServedModel]:
    return [
        ServedModel(
            name=_text(one["id"]),
            root=_text(one.get("root") or ""),
            parent=_text(one.get("parent") or ""),
            max_context=one.get("max_model_len") or 0,
        )
        for one in json.loads(answer)["data"]
    ]


def _sampled(answer: bytes) -> Sampled:
    choice = json.loads(answer)["choices"][0]
    ids, logprobs = _ids(choice["token_ids"]), [float(one) for one in choice["logprobs"]["token_logprobs"]]
    if not ids or len(ids) != len(logprobs) or not all(map(math.isfinite, logprobs)):
        raise ValueError("ids and log-probabilities do not fit each other")
    return Sampled(ids=tuple(ids), logprobs=tuple(logprobs))


def _prompt_logprobs(answer: bytes, ids: Sequence[int]) -> list[float]:
    found = json.loads(answer)["choices"][0]["prompt_logprobs"]
    return [float(one[str(id)]["logprob"]) for id, one in zip(ids[1:], found[1:], strict=True)]


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        raise ValueError("no list of token ids")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value
