"""A stand-in for the `tinker` package whose service is a small model of ours in this process, so that numbers are real.

service = TinkerService(folder); service.install(monkeypatch)

States outlive `restart()`, live adapters do not, as on SkyRL's server. With `is_mean` losses are reduced as its JAX
backend does: per sequence by the sum of its weights, over sequences by their number; and gradients are never clipped.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import sys
import tarfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparring.models import lora
from sparring.models.loading import ModelConfig, load_model
from sparring.models.lora import LoraConfig
from sparring.policies.tinker.config import ALPHA, KEY_VARIABLE

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TinkerError(Exception):
    """The root of the package's errors."""


class APIStatusError(TinkerError):
    """The server refuses."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class RequestFailedError(TinkerError):
    """A request that was taken has failed."""


@dataclass
class Live:
    """An adapter's live weights."""

    name: str
    optimizer: torch.optim.AdamW
    num_sequences: int = 0


@dataclass
class TinkerService:
    """What lies behind the package."""

    folder: Path
    is_mean: bool = True
    gives_archives: bool = True
    is_down: bool = False
    """Requests are never answered."""
    delay_s: float = 0.0
    """Backward passes are done so much later than they are asked for; a step does not wait for them, as on SkyRL."""
    samples_base: bool = False
    """Adapters are ignored in sampling: the classic silent fault."""
    states: dict[str, tuple[dict[str, Tensor], Any]] = field(default_factory=dict)
    live: dict[str, Live] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model, _ = load_model(ModelConfig(path=str(self.folder), dtype="float32"))
        self.numbers = itertools.count(1)
        self.computing = threading.Lock()
        lora.attach(self.model, "none", LoraConfig(rank=1), 0)

    def restart(self) -> None:
        """Lose all live weights."""
        for model in list(self.live):
            self.unload(model)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand for the package, and for the address that it gives for an archive."""
        monkeypatch.setitem(sys.modules, "tinker", self.package())
        monkeypatch.setattr("sparring.policies.tinker.client.fetch", lambda url, timeout_s: self.archive(url))
        monkeypatch.setenv(KEY_VARIABLE, "tml-secret")
        monkeypatch.setenv("TINKER_TELEMETRY", "0")

    def package(self) -> Any:
        """Return what stands for `import tinker`."""
        return SimpleNamespace(
            Datum=SimpleNamespace,
            ModelInput=SimpleNamespace(from_ints=list),
            TensorData=lambda data, dtype, shape: SimpleNamespace(data=data),
            AdamParams=SimpleNamespace,
            SamplingParams=SimpleNamespace,
            TinkerError=TinkerError,
            ServiceClient=lambda **options: ServiceClient(self, options),
        )

    # ── What a server computes ────────────────────────────────────────────────────────────────────────────────────────

    def create(self, rank: int, seed: int) -> str:
        model = f"model_{next(self.numbers)}"
        config = LoraConfig(rank=rank, alpha=ALPHA, targets=TARGETS)
        lora.attach(self.model, model, config, seed)
        parameters = lora.parameters(self.model, model)
        self.live[model] = Live(model, torch.optim.AdamW(parameters.values(), lr=0.0, weight_decay=0.0))
        return model

    def unload(self, model: str) -> None:
        if self.live.pop(model, None):
            lora.use(self.model, "none")
            lora.drop(self.model, model)

    def parameters(self, model: str) -> dict[str, torch.nn.Parameter]:
        return lora.parameters(self.model, model)

    def use(self, model: str) -> None:
        if model not in (*self.live, "none"):
            raise RequestFailedError(f"Request failed: Model {model} not loaded for self.request_id='7'")
        lora.use(self.model, model)

    def logprobs(self, ids: list[int]) -> Tensor:
        logits_TV = self.model(torch.tensor([ids])).logits[0, :-1].float()
        return logits_TV.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]

    def pass_over(self, model: str, data: list[Any], loss: str, *, backward: bool) -> Any:
        self.use(model)
        outputs = []
        for datum in data:
            inputs = {name: torch.tensor(one.data) for name, one in datum.loss_fn_inputs.items()}
            ids = [datum.model_input[0], *inputs["target_tokens"].tolist()]
            assert ids[:-1] == datum.model_input
            assert self.is_mean or loss == "cross_entropy" or "weights" not in inputs
            weights_T = inputs.get("weights", torch.ones(len(ids) - 1))
            with torch.set_grad_enabled(backward):
                logprobs_T = self.logprobs(ids)
                worth_T = logprobs_T
                if loss == "importance_sampling":
                    worth_T = (logprobs_T - inputs["logprobs"]).exp() * inputs["advantages"]
                value = -(worth_T * weights_T).sum()
                if self.is_mean:
                    value = value / weights_T.sum().clamp(min=1e-9)
            if backward:
                value.backward()
            outputs.append({"logprobs": SimpleNamespace(data=logprobs_T.tolist())})
        if backward:
            self.live[model].num_sequences += len(data)
        return SimpleNamespace(loss_fn_outputs=outputs, metrics={} if self.is_mean else {"loss:sum": 0.0})

    def step(self, model: str, adam: Any) -> Any:
        self.use(model)
        live, parameters = self.live[model], list(self.parameters(model).values())
        if self.is_mean:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= max(1, live.num_sequences)
        limit = adam.grad_clip_norm if adam.grad_clip_norm and not self.is_mean else torch.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        live.optimizer.param_groups[0] |= {"lr": adam.learning_rate, "betas": (adam.beta1, adam.beta2), "eps": adam.eps}
        live.optimizer.step()
        live.optimizer.zero_grad()
        live.num_sequences = 0
        return SimpleNamespace(metrics={"skyrl.ai/grad_norm": norm})

    def save(self, model: str, kind: str, name: str) -> Any:
        self.use(model)
        path = f"tinker://{model}{'/weights' if kind == 'weights' else ''}/{name}"
        weights = {name: one.detach().clone() for name, one in self.parameters(model).items()}
        self.states[path] = (weights, copy.deepcopy(self.live[model].optimizer.state_dict()))
        return SimpleNamespace(path=path)

    def load(self, model: str, path: str, *, with_optimizer: bool) -> None:
        self.use(model)
        if path not in self.states:
            raise APIStatusError("Error code: 404 - {'detail': 'Checkpoint not found'}", 404)
        weights, optimizer = self.states[path]
        with torch.no_grad():
            for name, one in self.parameters(model).items():
                one.copy_(weights[name])
        if with_optimizer:
            self.live[model].optimizer.load_state_dict(copy.deepcopy(optimizer))

    def sample(self, path: str | None, ids: list[int], params: Any) -> Any:
        self.play(path)
        generator = torch.Generator().manual_seed(params.seed)
        ids, drawn, logprobs = list(ids), [], []
        for _ in range(params.max_tokens):
            logits_V = self.model(torch.tensor([ids])).logits[0, -1].float()
            if params.temperature:
                token = int(torch.multinomial((logits_V / params.temperature).softmax(-1), 1, generator=generator))
            else:
                token = int(logits_V.argmax())
            ids.append(token)
            drawn.append(token)
            logprobs.append(logits_V.log_softmax(-1)[token].item())
            if token in params.stop:
                break
        return SimpleNamespace(sequences=[SimpleNamespace(tokens=drawn, logprobs=logprobs)])

    def play(self, path: str | None) -> None:
        """Use the weights that were saved for a sampler, whose model must be live."""
        model = "none" if path is None or self.samples_base else path.removeprefix("tinker://").split("/")[0]
        self.use(model)
        if model != "none":
            assert path is not None
            self.load(model, path, with_optimizer=False)

    def archive(self, path: str) -> bytes:
        """Pack an adapter as SkyRL does: without naming the layers."""
        weights, _ = self.states[path]
        config = {"peft_type": "LORA", "r": len(next(iter(weights.values()))), "lora_alpha": ALPHA}
        config |= {"base_model_name_or_path": "/elsewhere/base", "target_modules": None, "bias": "none"}
        files = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save_tensors(weights)}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()

    def answer(self, call: str, compute: Any) -> Future[Any]:
        """Return what a request gives, or a future that nobody fulfils."""
        self.calls.append(call)
        future: Future[Any] = Future()
        if self.is_down:
            return future
        if call == "backward" and self.delay_s:
            threading.Timer(self.delay_s, lambda: self._fulfil(future, compute)).start()
            return future
        self._fulfil(future, compute)
        return future

    def _fulfil(self, future: Future[Any], compute: Any) -> None:
        try:
            with self.computing:
                future.set_result(compute())
        except TinkerError as error:
            future.set_exception(error)


class Asked:
    """The package's own kind of future."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def future(self) -> Future[Any]:
        return self._future

    def result(self) -> Any:
        return self._future.result()


class ServiceClient:
    """Stands for `tinker.ServiceClient`."""

    def __init__(self, service: TinkerService, options: dict[str, Any]) -> None:
        self.service, self.options = service, options

    def get_server_capabilities(self) -> Any:
        if self.service.is_down:
            raise TinkerError("Connection error.")
        return SimpleNamespace(supported_models=[SimpleNamespace(model_name=str(self.service.folder))])

    def create_lora_training_client(self, *, base_model: str, rank: int, seed: int) -> TrainingClient:
        assert base_model == str(self.service.folder)
        if self.options["api_key"] == "tml-wrong":
            raise APIStatusError("Error code: 401 - tml-wrong", 401)
        made = self.service.answer("create", lambda: self.service.create(rank, seed))
        return TrainingClient(self.service, made.result())

    def create_sampling_client(self, *, base_model: str | None, model_path: str | None) -> SamplingClient:
        assert (base_model is None) != (model_path is None)
        return SamplingClient(self.service, model_path)

    def create_rest_client(self) -> Any:
        service = self.service

        def get_checkpoint_archive_url(run: str, checkpoint: str) -> Any:
            if not service.gives_archives:
                raise APIStatusError("Error code: 404 - no archives", 404)
            return Asked(service.answer("archive", lambda: SimpleNamespace(url=f"tinker://{run}/{checkpoint}")))

        return SimpleNamespace(
            get_checkpoint_archive_url=get_checkpoint_archive_url,
            delete_checkpoint_from_tinker_path=lambda path: service.states.pop(path, None),
        )


class TrainingClient:
    """Stands for `tinker.TrainingClient`."""

    def __init__(self, service: TinkerService, model: str) -> None:
        self.service, self.model_id = service, model
        self.holder = SimpleNamespace(run_coroutine_threadsafe=self._unload)

    def _unload(self, request: Any) -> None:
        request.close()
        self.service.unload(self.model_id)

    def _ask(self, call: str, compute: Any) -> Asked:
        return Asked(self.service.answer(call, compute))

    def forward(self, data: list[Any], loss: str) -> Asked:
        return self._ask("forward", lambda: self.service.pass_over(self.model_id, data, loss, backward=False))

    def forward_backward(self, data: list[Any], loss: str) -> Asked:
        return self._ask("backward", lambda: self.service.pass_over(self.model_id, data, loss, backward=True))

    def optim_step(self, adam: Any) -> Asked:
        return self._ask("step", lambda: self.service.step(self.model_id, adam))

    def save_state(self, name: str) -> Asked:
        return self._ask("save", lambda: self.service.save(self.model_id, "weights", name))

    def save_weights_for_sampler(self, name: str) -> Asked:
        return self._ask("save for sampling", lambda: self.service.save(self.model_id, "sampling", name))

    def load_state(self, path: str) -> Asked:
        return self._ask("load", lambda: self.service.load(self.model_id, path, with_optimizer=False))

    def load_state_with_optimizer(self, path: str) -> Asked:
        return self._ask("load whole", lambda: self.service.load(self.model_id, path, with_optimizer=True))


class SamplingClient:
    """Stands for `tinker.SamplingClient`."""

    def __init__(self, service: TinkerService, path: str | None) -> None:
        self.service, self.path = service, path

    def sample(self, *, prompt: list[int], num_samples: int, sampling_params: Any) -> Future[Any]:
        assert num_samples == 1
        with torch.no_grad():
            return self.service.answer("sample", lambda: self.service.sample(self.path, prompt, sampling_params))

    def compute_logprobs(self, prompt: list[int]) -> Future[Any]:
        def compute() -> list[float | None]:
            self.service.play(self.path)
            with torch.no_grad():
                return [None, *self.service.logprobs(prompt).tolist()]

        return self.service.answer("logprobs", compute)
