"""One server that speaks the Tinker API: adapters on its base model, trained and sampled from.

This is the only module that knows the `tinker` package, which changes from version to version. Its errors become ours
here, its futures are watched over, and the key stands in no message.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import ConfigError, EnvFault, SparringError, TrainingError
from sparring.models.folders import one_line
from sparring.policies.tinker.config import KEY_VARIABLE, TinkerConfig
from sparring.policies.tinker.waiting import Watch
from sparring.policies.vllm.client import Draw, Sampled

INSTALL = "engine.kind: tinker takes the tinker package: pip install 'sparring[tinker]'."
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""AdamW's as in this process; the service's own defaults are others."""
EXIT_S = 5.0
"""Seconds that the package's thread has to end."""
GRADIENT_NORMS = ("skyrl.ai/grad_norm", "unclipped_grad_l2:mean")
"""What servers call the norm of the gradient before clipping, where they tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A sequence, and how strongly each of its tokens is to become likelier: −∂L/∂log π."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    """Of each id but the first, with the weights as they are."""
    strengths: Sequence[float]
    """Of each id but the first; 0 for tokens that do not count."""
    counts: Sequence[bool]
    """Which tokens count."""


class Service:
    """Speaks to one server."""

    def __init__(self, config: TinkerConfig) -> None:
        """Find the package and the key; nothing is sent yet.

        Raises:
            ConfigError: there is no package, or no key.
        """
        self._config = config
        self._tinker = _package()
        self.where = config.base_url or "the hosted Tinker service"
        self._key = os.environ.get(KEY_VARIABLE, "")
        if not self._key.startswith("tml-"):
            raise ConfigError(
                f"{KEY_VARIABLE}: engine.kind tinker takes the service's key from this environment variable; it begins "
                "with 'tml-'. A server of your own takes any text that does."
            )
        # The package reports errors, with their surroundings, to the server it speaks to, unless it is told not to.
        os.environ.setdefault("TINKER_TELEMETRY", "0")
        atexit.register(_end_thread)
        address = {"base_url": config.base_url.rstrip("/")} if config.base_url else {}
        self._client = self._tinker.ServiceClient(api_key=self._key, **address)
        self._rest: Any = None
        self._lock = threading.Lock()
        self.watch = Watch(
            self._client.get_server_capabilities,
            self.told,
            timeout_s=config.timeout_s,
            lost_after_s=config.lost_after_s,
            lost=f"{self.where} has given no sign of life for {config.lost_after_s:g} s. Start it again, or check "
            "tinker.base_url; the same command goes on from what was saved.",
        )

    # ── Models ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def base_models(self) -> list[str]:
        """Ask for the base models that the server has."""
        found = self.watch.call(self._client.get_server_capabilities)
        return [model.model_name for model in found.supported_models if model.model_name]

    def create(self, base: str, rank: int, seed: int) -> Adapter:
        """Make a new adapter, drawn from a seed."""
        client = self.watch.call(
            lambda: self._client.create_lora_training_client(base_model=base, rank=rank, seed=seed % 2**31)
        )
        return Adapter(self, self._tinker, client)

    def restore(self, path: str, base: str, rank: int, *, with_optimizer: bool) -> Adapter:
        """Make an adapter with the weights of a saved state, and with its optimizer's state if that is wanted."""
        adapter = self.create(base, rank, 0)
        adapter.load_state(path, with_optimizer=with_optimizer)
        return adapter

    def sampler(self, *, base: str | None = None, path: str | None = None) -> Sampler:
        """Return what draws with the base model, or with weights that were saved for it."""
        client = self.watch.call(lambda: self._client.create_sampling_client(base_model=base, model_path=path))
        return Sampler(self, self._tinker, client)

    def forget(self, path: str) -> None:
        """Let the server delete a state, as far as it does; nobody waits for that."""
        rest = self._rest_client()
        threading.Thread(target=lambda: _quietly(rest.delete_checkpoint_from_tinker_path, path), daemon=True).start()

    def archive(self, path: str) -> bytes | None:
        """Fetch the archive of weights that were saved for sampling; none where the server gives none."""

        def ask() -> bytes:
            # SkyRL leaves the kind of the checkpoint out of the path, and takes none in its place.
            run, _, checkpoint = path.removeprefix("tinker://").partition("/")
            url = self._rest_client().get_checkpoint_archive_url(run, checkpoint).result().url
            return fetch(url, self._config.timeout_s)

        try:
            return self.watch.call(ask)
        except ConfigError:
            return None

    def _rest_client(self) -> Any:
        with self._lock:
            if self._rest is None:
                self._rest = self._client.create_rest_client()
            return self._rest

    # ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def told(self, error: BaseException) -> SparringError:
        """Return what the client raised as an error of ours, without the key."""
        words = one_line(error) if isinstance(error, Exception) else type(error).__name__
        words = words.replace(self._key, "…")[:500]
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return ConfigError(f"{self.where} does not accept the key in {KEY_VARIABLE}.")
        if "not loaded" in words:
            return EnvFault(
                f"{self.where} has lost the run's live weights: was it started again? Start the same command again; it "
                "goes on from the last saved state."
            )
        if "adapters" in words and "reached" in words:
            return ConfigError(
                f"{self.where} has no room for another adapter: {words}. A session that has ended gives its adapters "
                "back after some minutes; or start the server with room for more (SkyRL: max_lora_adapters)."
            )
        if type(error).__name__ in ("APIConnectionError", "APITimeoutError", "TimeoutError"):
            return EnvFault(f"{self.where} does not answer: {words}. The same command goes on from what was saved.")
        if status is not None and status >= 500:
            return EnvFault(f"{self.where} failed: {words}. See its log; the same command goes on.")
        if status is not None or isinstance(error, self._tinker.TinkerError | ValueError):
            return ConfigError(f"{self.where} refuses a request: {words}.")
        return TrainingError(f"{self.where}: {type(error).__name__}: {words}.")


class Adapter:
    """One adapter's live weights on the server."""

    def __init__(self, service: Service, tinker: Any, client: Any) -> None:
        self._service, self._tinker, self._client = service, tinker, client

    def forward(self, nodes: Sequence[Sequence[int]]) -> Future[list[list[float]]]:
        """Ask for the log-probability of each id but the first, at temperature 1."""
        data = [self._datum(ids, weights=[1.0] * (len(ids) - 1)) for ids in nodes]
        asked = self._service.watch.over(self._client.forward(data, "cross_entropy").future())
        return _then(asked, lambda out: [list(one["logprobs"].data) for one in out.loss_fn_outputs])

    def reduction(self, ids: Sequence[int]) -> Future[bool]:
        """Ask whether the server divides a sequence's loss by its weights, and the gradients by their number.

        The API's losses are sums. SkyRL's JAX backend takes means, and is the one that tells nothing of a backward
        pass. What is asked here adds no gradient, but counts as a sequence there.
        """
        zeros = [0.0] * (len(ids) - 1)
        data = [self._datum(ids, logprobs=zeros, advantages=zeros)]
        asked = self._service.watch.over(self._client.forward_backward(data, "importance_sampling").future())
        return _then(asked, lambda out: not out.metrics)

    def backward(self, pulls: Sequence[Pull], *, is_mean: bool, num: int) -> Future[Any]:
        """Add the gradient of −Σ strength · log π.

        It is that of importance sampling at the weights' own log-probabilities, where the ratio is 1. Cross-entropy
        with the strengths as weights would be the same on a server that takes sums. One that takes means divides each
        sequence by the sum of its weights, which may be negative or nothing.

        Args:
            pulls: what to add.
            is_mean: what `reduction` said.
            num: sequences whose gradients one optimizer step will see.
        """
        data = []
        for pull in pulls:
            inputs: dict[str, list[float]] = {"logprobs": list(pull.logprobs)}
            if is_mean:
                share = 1 / max(1, sum(pull.counts))
                inputs["weights"] = [share if one else 0.0 for one in pull.counts]
                inputs["advantages"] = [one * num / share for one in pull.strengths]
            else:
                inputs["advantages"] = list(pull.strengths)
            data.append(self._datum(pull.ids, **inputs))
        return self._service.watch.over(self._client.forward_backward(data, "importance_sampling").future())

    def step(self, lr: float, clip_norm: float | None) -> Future[float | None]:
        """Take an optimizer step, and return the gradient's norm before clipping; none where the server tells none."""
        adam = self._tinker.AdamParams(
            learning_rate=lr, beta1=BETAS[0], beta2=BETAS[1], eps=EPSILON, grad_clip_norm=clip_norm or 0.0
        )
        asked = self._service.watch.over(self._client.optim_step(adam).future())
        return _then(asked, lambda out: _norm(out.metrics or {}))

    def save_state(self, name: str) -> str:
        """Let the server save weights and optimizer under a name, and return where."""
        return self._service.watch.over(self._client.save_state(name).future()).result().path

    def load_state(self, path: str, *, with_optimizer: bool) -> None:
        """Take the weights of a saved state, and the optimizer's state if that is wanted."""
        load = self._client.load_state_with_optimizer if with_optimizer else self._client.load_state
        self._service.watch.over(load(path).future()).result()

    def save_for_sampling(self, name: str) -> str:
        """Let the server save the weights for a sampler under a name, and return where."""
        return self._service.watch.over(self._client.save_weights_for_sampler(name).future()).result().path

    def unload(self) -> None:
        """Give the adapter's place on the server back, as far as the server does that; nobody waits for it."""
        holder, model = self._client.holder, self._client.model_id

        async def ask() -> None:
            pools = importlib.import_module("tinker.lib.client_connection_pool_type").ClientConnectionPoolType
            request = importlib.import_module("tinker.types.unload_model_request").UnloadModelRequest(model_id=model)
            with holder.aclient(pools.TRAIN) as client:
                await client.models.unload(request=request)

        _quietly(lambda: holder.run_coroutine_threadsafe(ask()))

    def _datum(self, ids: Sequence[int], **inputs: Sequence[float]) -> Any:
        tinker = self._tinker
        return tinker.Datum(
            model_input=tinker.ModelInput.from_ints(list(ids[:-1])),
            loss_fn_inputs={
                "target_tokens": _tensor(tinker, list(ids[1:]), "int64"),
                **{name: _tensor(tinker, list(values), "float32") for name, values in inputs.items()},
            },
        )


class Sampler:
    """Draws with weights that no training changes any more."""

    def __init__(self, service: Service, tinker: Any, client: Any) -> None:
        self._service, self._tinker, self._client = service, tinker, client

    def sample(self, ids: Sequence[int], draw: Draw, seed: int) -> Future[Sampled]:
        """Ask for an answer to a prompt of ids."""
        params = self._tinker.SamplingParams(
            max_tokens=draw.max_tokens, temperature=draw.temperature, seed=seed, stop=list(draw.end_ids)
        )
        prompt = self._tinker.ModelInput.from_ints(list(ids))
        asked = self._client.sample(prompt=prompt, num_samples=1, sampling_params=params)
        return _then(self._service.watch.over(asked), lambda out: _sampled(out.sequences[0]))

    def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Ask for the log-probability of each id but the first, at temperature 1."""
        asked = self._client.compute_logprobs(self._tinker.ModelInput.from_ints(list(ids)))
        found = self._service.watch.over(asked).result()
        return [float(one) for one in found[len(found) - len(ids) + 1 :]]  # SkyRL says nothing of the first id


def fetch(url: str, timeout_s: float) -> bytes:
    """Fetch a file from an address that the service gave for it."""
    import httpx

    return httpx.get(url, timeout=timeout_s).raise_for_status().content


def _sampled(sequence: Any) -> Sampled:
    ids, logprobs = tuple(sequence.tokens), tuple(sequence.logprobs or ())
    if not ids or len(ids) != len(logprobs):
        raise EnvFault("The Tinker server sent ids and log-probabilities that do not fit each other.")
    return Sampled(ids=ids, logprobs=logprobs)


def _norm(metrics: dict[str, float]) -> float | None:
    return next((metrics[name] for name in GRADIENT_NORMS if name in metrics), None)


def _tensor(tinker: Any, values: list[Any], dtype: str) -> Any:
    return tinker.TensorData(data=values, dtype=dtype, shape=[len(values)])


def _then(asked: Future[Any], read: Any) -> Future[Any]:
    """Return a future of what is read from another's result."""
    answer: Future[Any] = Future()

    def take(done: Future[Any]) -> None:
        try:
            answer.set_result(read(done.result()))
        except BaseException as error:  # is raised where the answer is taken
            answer.set_exception(error)

    asked.add_done_callback(take)
    return answer


def _quietly(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception:  # tidying up on a server that may not do it
        return


def _end_thread() -> None:
    """End the package's own thread: one that still sends while the interpreter ends may abort the process."""
    module: Any = sys.modules.get("tinker.lib.internal_client_holder")
    owner = getattr(module, "_internal_client_holder_thread_singleton", None)
    loop, thread = getattr(owner, "_loop", None), getattr(owner, "_thread", None)
    if loop is not None and thread is not None:
        _quietly(lambda: asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result(EXIT_S))
        _quietly(loop.call_soon_threadsafe, loop.stop)
        thread.join(EXIT_S)
        module.InternalClientHolder.close = lambda holder: None  # as it goes it would ask the loop, which has ended


async def _cancel_others() -> None:
    """Let what never ends, signs of life among it, end quietly with the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _package() -> Any:
    try:
        return importlib.import_module("tinker")
    except ImportError:
        raise ConfigError(INSTALL) from None
