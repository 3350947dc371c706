"""Learners in this process, policies on vLLM servers: agents are published there whenever their weights changed.

Adapters are loaded under a fresh name each time, so that no answer comes from weights that were replaced. All weights
reach only a server that was started here, by starting it again on their folder. After every publish a probe compares
the server's log-probabilities of a fixed text with the learner's: sampling from the base, or from an agent's earlier
weights, is a fault that no average shows.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError, EnvFault, TrainingError
from sparring.data.chat import Encoded
from sparring.engines.probe import difference, probe_of, say
from sparring.engines.starts import base_of
from sparring.models.adapter_folders import is_adapter
from sparring.models.loading import is_bfloat16, resolve_device, resolve_model
from sparring.policies.completions import ChatServer
from sparring.policies.vllm.client import Draw, VllmClient, digest_of
from sparring.policies.vllm.config import KEY_VARIABLE, TAKE_ADAPTERS
from sparring.policies.vllm.policy import VllmPolicy
from sparring.policies.vllm.servers import Servers, find_base

if TYPE_CHECKING:
    from sparring.data.chat import Chat
    from sparring.engines.base import Learner
    from sparring.engines.fsdp.engine import FsdpEngine
    from sparring.engines.local import FullEngine, LoraEngine
    from sparring.engines.vllm_server import VllmServer
    from sparring.models.loading import ModelConfig
    from sparring.models.lora import LoraConfig
    from sparring.policies.base import FreePolicy
    from sparring.policies.factory import Sampling
    from sparring.policies.vllm.config import SamplerConfig, VllmConfig

    Inner = FullEngine | LoraEngine | FsdpEngine

LEAST_LIFE_S = 10.0
"""A server that was started again and has ended sooner is not started a third time."""
MAX_ADAPTERS = 3
"""Adapters that stay on the servers: both agents', and one that they are compared with."""
SPOKEN = "The quick brown fox jumps over the lazy dog. Größe, naïve, 東京, 12,345.67! def f(x): return x ** 2\n"
"""What servers are asked to split into tokens, to compare their tokenizer with the model's."""
TOLERANCE = {"float32": 1e-3, "half": 0.05}
"""Mean difference in nats that rounding may explain: several hundred times what was seen in float32."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Which servers agents are played on, and what for."""

    sampler: SamplerConfig
    vllm: VllmConfig
    max_context: int
    """Tokens that an episode may have."""
    num_envs: int
    """Episodes open at once, and so the most requests under way."""
    log_file: Path
    """Gets what a server that is started here writes."""


@dataclass(slots=True)
class Published:
    """An agent's weights on the servers."""

    name: str
    """What requests call them."""
    said: list[float]
    """What the learner itself says of the probe's tokens."""


class ServedEngine:
    """See `engines.base.Engine`. Weights are trained by another engine, and played by servers."""

    def __init__(self, inner: Inner, model: ModelConfig, lora: LoraConfig, serving: Serving) -> None:
        """Args:
        inner: holds the learners.
        model: what every agent begins at.
        lora: with a rank where agents are adapters.
        serving: which servers, and what for.
        """
        self._inner, self._serving, self._has_adapters = inner, serving, lora.rank is not None
        base = base_of(model)
        is_half = is_bfloat16(model, resolve_device(model.device))
        self._base, self._folder = base.path, resolve_model(base.path, trusts_code=base.trust_remote_code)
        self._tolerance = serving.vllm.tolerance or TOLERANCE["half" if is_half else "float32"]
        self._server = make_server(base, self._folder, lora, serving) if serving.vllm.launch else None
        self._servers: Servers | None = None
        self._base_name = ""
        self._published: dict[str, Published] = {}
        """By checkpoint; the one that was used last stands last."""
        self._said: deque[list[float]] = deque(maxlen=2 * MAX_ADAPTERS)
        """What earlier weights said of the probe; the base model's are among them where agents are adapters."""
        self._started = -math.inf
        self._prefix, self._num = f"sparring-{secrets.token_hex(4)}", 0

    def learner(self, checkpoint: str, *, seed: int = 0, moments: Path | None = None) -> tuple[Learner, Chat]:
        """See `engines.base.Engine`. A server that was started here gives its GPU memory back meanwhile."""
        if self._server is not None and self._servers is not None:
            self._server.sleep()
        return self._inner.learner(checkpoint, seed=seed, moments=moments)

    def trained(self, learner: Learner, checkpoint: str) -> None:
        """See `engines.base.Engine`."""
        self._inner.trained(learner, checkpoint)

    def hold(self, num_agents: int) -> None:
        """See `engines.base.Engine`."""
        self._inner.hold(num_agents)

    def forget(self, checkpoint: str) -> None:
        """See `engines.base.Engine`."""
        self._inner.forget(checkpoint)
        if (published := self._published.pop(checkpoint, None)) and self._servers is not None:
            self._unload(published)

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> FreePolicy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them.

        Raises:
            ConfigError: a server is not what the run needs, or can't be started.
            EnvFault: a server failed.
            TrainingError: the server plays with other weights than the learner's.
        """
        learner, chat = self._inner.learner(checkpoint, moments=moments)
        servers = self._connect(checkpoint, chat)
        if checkpoint in self._published:
            self._published[checkpoint] = self._published.pop(checkpoint)
            servers.ensure_adapter(self._published[checkpoint].name)
        else:
            self._publish(checkpoint, learner, chat)
        self._probe(self._published[checkpoint], chat)
        draw = Draw(
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            end_ids=sorted(chat.end_ids),
            banned_ids=[*chat.unused_ids, *range(chat.num_tokens, learner.num_embeddings)],
        )
        name = self._published[checkpoint].name
        return VllmPolicy(servers, name, chat, draw, keep_logprobs=sampling.keep_logprobs)

    def chat_server(self) -> ChatServer | None:
        """See `engines.base.Engine`. It is the first of the servers."""
        if self._servers is None:
            return None
        key = "" if self._server is None else self._server.api_key
        return ChatServer(
            url=f"{self._servers.clients[0].url}/v1", model=self._base_name, key_variable=KEY_VARIABLE, key=key
        )

    def close(self) -> None:
        """Let the servers forget the run's adapters, and end a server that was started here."""
        if self._server is not None:
            self._server.stop()
        elif self._servers is not None:
            for published in self._published.values():
                self._unload(published)
        self._published.clear()
        self._servers = None

    # ── Servers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, checkpoint: str, chat: Chat) -> Servers:
        """Return the servers, awake; the first time they are started, or compared with the model."""
        if self._servers is not None:
            self._servers.revive()
            if self._server is not None:
                give_back_gpu()
                self._server.wake()
            return self._servers
        if self._server is not None:
            give_back_gpu()
            starts_at = self._folder if self._base == checkpoint or is_adapter(checkpoint) else checkpoint
            self._server.restart(replace(self._server.served, model=starts_at))
            servers = Servers([self._client_of_own()], revive=self._revive)
        else:
            servers = Servers([self._client(url) for url in self._serving.vllm.base_urls])
        names = {check_server(client, self._base, chat, self._serving.max_context) for client in servers.clients}
        if len(names) > 1:
            raise ConfigError(
                f"vllm.base_urls: the servers call the model {' and '.join(sorted(names))}. Start them with the same "
                "--served-model-name."
            )
        self._servers, self._base_name = servers, names.pop()
        if self._has_adapters:  # an adapter that the server does not apply looks like the base
            base, _ = self._inner.learner(self._base)
            self._said.append(say(base, probe_of(chat)))
        return servers

    def _client_of_own(self) -> VllmClient:
        assert self._server is not None
        return self._client(self._server.base_url, self._server.api_key)

    def _client(self, url: str, own_key: str = "") -> VllmClient:
        serving = self._serving
        return VllmClient(url, serving.vllm, num_concurrent=serving.num_envs, own_key=own_key)

    def _revive(self) -> VllmClient | None:
        """Start the server again if it is dead."""
        assert self._server is not None
        if self._server.is_alive():
            return None
        if time.monotonic() - self._started < LEAST_LIFE_S:
            raise EnvFault(f"The vLLM server ends as soon as it is started: {self._server.why_dead()}")
        self._server.restart()
        self._started = time.monotonic()
        return self._client_of_own()

    # ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _publish(self, checkpoint: str, learner: Learner, chat: Chat) -> None:
        """Give the servers a checkpoint's weights."""
        assert self._servers is not None
        while len(self._published) >= MAX_ADAPTERS:
            self._unload(self._published.pop(next(iter(self._published))))
        if checkpoint == self._base:
            name = self._base_name
            if self._server is not None:
                self._serve(self._folder)
        elif is_adapter(checkpoint):
            self._num += 1
            name = f"{self._prefix}-{self._num}"
            self._servers.load_adapter(name, Path(checkpoint).absolute())
        else:
            name = self._base_name
            self._serve(checkpoint)
        self._published[checkpoint] = Published(name, say(learner, probe_of(chat)))

    def _probe(self, published: Published, chat: Chat) -> None:
        """See that the servers play with the weights that the learner has."""
        assert self._servers is not None
        node = probe_of(chat)
        for client in self._servers.alive():
            check_weights(client, published, node, self._said, self._tolerance)
        if published.said not in self._said:
            self._said.append(published.said)

    def _serve(self, checkpoint: str) -> None:
        """Start the server again on another folder of all weights.

        Raises:
            ConfigError: it is not ours.
        """
        assert self._servers is not None
        if self._server is None:
            raise ConfigError(TAKE_ADAPTERS)
        if self._server.served.model == checkpoint and self._server.is_alive():
            return
        self._server.restart(replace(self._server.served, model=checkpoint))
        self._servers.replace_own(self._client_of_own())
        self._published.clear()  # only one folder of all weights is served at a time

    def _unload(self, published: Published) -> None:
        if published.name != self._base_name and self._servers is not None:
            self._servers.unload_adapter(published.name)


def make_server(base: ModelConfig, folder: str, lora: LoraConfig, serving: Serving) -> VllmServer:
    """Return a server for a base model, which is not started yet."""
    from sparring.engines.vllm_server import Served, VllmServer

    device = resolve_device(base.device)
    served = Served(
        model=folder,
        name=base.path,
        dtype="bfloat16" if is_bfloat16(base, device) else "float32",
        max_model_len=serving.max_context,
        max_lora_rank=lora.rank,
        deterministic=serving.sampler.deterministic,
        on_gpu=device.type == "cuda",
        trust_remote_code=base.trust_remote_code,
    )
    return VllmServer(serving.vllm, served, serving.log_file)


def check_server(client: VllmClient, base: str, chat: Chat, max_context: int) -> str:
    """Compare a server with the run's model, and return what it calls it.

    Raises:
        ConfigError: it serves another model, another vocabulary or too short a context.
    """
    served = find_base(client, base)
    if 0 < served.max_context < max_context:
        raise ConfigError(
            f"{client.url} takes {served.max_context} tokens, and chat.max_context is {max_context}. Start it with "
            f"--max-model-len {max_context}, or lower chat.max_context."
        )
    same_words = client.spelled(served.name, chat.known_ids) == digest_of(chat.spell(chat.known_ids))
    if not same_words or client.tokenize(served.name, SPOKEN) != chat.tokenize(SPOKEN):
        raise ConfigError(
            f"{client.url} has another vocabulary than {base}: its token ids would be other words. Serve the run's "
            "own model folder, tokenizer included."
        )
    return served.name


def give_back_gpu() -> None:
    """Let torch give the GPU memory back that it keeps for itself, for a server that is about to take its share."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_weights(
    client: VllmClient, published: Published, node: Encoded, others: Iterable[Sequence[float]], tolerance: float
) -> None:
    """Compare what a server says of the probe with what the learner says, and with what other weights said.

    Args:
        client: of the server.
        published: the weights that it should play with.
        node: the probe.
        others: log-probabilities of weights that the server might play with by mistake.
        tolerance: largest mean difference.

    Raises:
        TrainingError: the server plays with other weights; the message has both figures.
    """
    own, said = published.said, client.logprobs(published.name, node.ids)
    if found := difference(said, own, others, tolerance, key="vllm.tolerance"):
        raise TrainingError(
            f"{client.url} plays {published.name} with other weights than were trained: {found} Does the server see "
            "the run's folder, and compute in the same precision?"
        )
