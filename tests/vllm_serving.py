"""A server for tests that answers as vLLM 0.32 does, over a small model of ours.

with ModelServer(folder) as server: … server.url … server.adapters … server.seen …

Ids go in, sampled ids and their log-probabilities come out; adapters come and go. `trouble` may answer in its place.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparring.models import lora
from sparring.models.loading import ModelConfig, load_model
from tests.serving import Answer, Seen, Server, error


class ModelServer(Server):
    """Serves a model's folder under a name."""

    def __init__(self, folder: Path, *, name: str = "tiny", max_model_len: int = 4096, port: int = 0) -> None:
        super().__init__(port)
        self.model, self.tokenizer = load_model(ModelConfig(path=str(folder), dtype="float32"))
        self.name, self.folder, self.max_model_len = name, folder, max_model_len
        self.adapters: dict[str, str] = {}
        self.plays: Callable[[str], str] = lambda name: name
        """Which weights answer for a name: a server that plays the base in an adapter's place says so here."""
        self.trouble: Callable[[Seen], Answer | None] = lambda _: None
        self._computing = threading.Lock()
        self._bare = lora.LoraConfig(rank=1)
        lora.attach(self.model, "none", self._bare, 0)

    @property
    def url(self) -> str:
        return self.base_url.removesuffix("/v1")

    def answer(self, request: Seen) -> Answer:
        if (told := self.trouble(request)) is not None:
            return told
        body = request.body
        if request.path == "/health":
            return Answer()
        if request.path == "/v1/models":
            return Answer(body={"object": "list", "data": self._models()})
        if request.path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], body["lora_path"])
        if request.path == "/v1/unload_lora_adapter":
            if body["lora_name"] not in self.adapters:
                return Answer(status=404, body=error("The lora adapter cannot be found.", type="NotFoundError"))
            self.forget(body["lora_name"])
            return Answer(body="Success")
        if body["model"] not in (self.name, *self.adapters):
            return Answer(status=404, body=error(f"The model `{body['model']}` does not exist.", type="NotFoundError"))
        if request.path == "/detokenize":
            return Answer(body={"prompt": self.tokenizer.decode(body["tokens"])})
        if request.path == "/tokenize":
            ids = self.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return Answer(body={"count": len(ids), "tokens": ids})
        assert request.path == "/v1/completions", request.path
        with self._computing, torch.no_grad():
            return Answer(body={"object": "text_completion", "choices": [self._complete(body)]})

    def forget(self, name: str) -> None:
        """Let an adapter go."""
        with self._computing:
            del self.adapters[name]
            lora.use(self.model, "none")
            lora.drop(self.model, inner_name(name))

    def _models(self) -> list[dict[str, Any]]:
        own = {"id": self.name, "root": str(self.folder), "parent": None, "max_model_len": self.max_model_len}
        return [own, *({"id": name, "root": root, "parent": self.name} for name, root in self.adapters.items())]

    def _load(self, name: str, folder: str) -> Answer:
        if name in self.adapters:
            return Answer(status=400, body=error(f"The lora adapter '{name}' has already been loaded."))
        with self._computing:
            lora.load(self.model, inner_name(name), Path(folder))
        self.adapters[name] = folder
        return Answer(body="Success")

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        who = self.plays(body["model"])
        lora.use(self.model, inner_name(who) if who in self.adapters else "none")
        ids, drawn, logprobs = list(body["prompt"]), [], []
        generator = torch.Generator().manual_seed(body["seed"]) if "seed" in body else None
        for _ in range(body["max_tokens"]):
            logits_V = self.model(torch.tensor([ids])).logits[0, -1].float()
            for id, bias in body.get("logit_bias", {}).items():
                logits_V[int(id)] += bias
            logprobs_V = torch.log_softmax(logits_V / (body["temperature"] or 1.0), dim=-1)
            if body["temperature"]:
                token = int(torch.multinomial(logprobs_V.exp(), 1, generator=generator))
            else:
                token = int(logprobs_V.argmax())
            ids.append(token)
            drawn.append(token)
            logprobs.append(logprobs_V[token].item())
            if token in body["stop_token_ids"]:
                break
        choice = {"index": 0, "text": "", "token_ids": drawn, "logprobs": {"token_logprobs": logprobs}}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = self._prompt_logprobs(body["prompt"])
        return json.loads(json.dumps(choice))

    def _prompt_logprobs(self, ids: list[int]) -> list[Any]:
        logprobs_TV = torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), dim=-1)
        rest = [{str(id): {"logprob": logprobs_TV[i, id].item()}} for i, id in enumerate(ids[1:])]
        return [None, *rest]


def inner_name(name: str) -> str:
    """Return an adapter's name as models take it."""
    return name.replace("-", "_")
