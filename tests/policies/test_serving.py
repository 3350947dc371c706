"""`sparring serve`: our own client plays against it as in process, others get proper errors, and all is recorded."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.core.types import Task, Turn
from sparring.data.chat import ChatConfig
from sparring.models.loading import ModelConfig, load_model
from sparring.policies.base import Episode, Reply
from sparring.policies.serving.conversations import Conversations
from sparring.policies.serving.requests import NEUTRAL, Refused, read_request
from sparring.policies.serving.server import MAX_BODY, Server
from sparring.policies.serving.start import Served, start
from tests.command_line import ENVIRONMENT, ROOT
from tests.policies.test_openai import CONFIG, expert, local, play, player, remote, without_ids  # noqa: F401
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyWorld

KEY = "a key of ours"
JSON = {"Content-Type": "application/json"}


class Running:
    """A served model that listens."""

    def __init__(self, folder: Path, *, key: str = "", record: Path | None = None, idle_s: float = 60.0) -> None:
        chat = replace(CONFIG, max_context=512)
        self.served: Served = start(
            ModelConfig(path=str(folder)), chat, name="tiny", max_context=None, max_new_tokens=64, num_slots=4
        )
        self.server: Server = self.served.listen(("127.0.0.1", 0), key, record, idle_s=idle_s)
        self.port = self.server.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.served.model.close()
        self.server.service.conversations.close()

    def ask(self, body: Any = None, *, path: str = "/v1/chat/completions", method: str = "", **headers: str) -> Any:
        """Send a request, and return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent or JSON)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if answer.headers.get_content_type() == "application/json" else text


@pytest.fixture(scope="module")
def running(player: Path) -> Iterator[Running]:  # noqa: F811
    server = Running(player)
    yield server
    server.close()


def said(*contents: str, **fields: Any) -> dict[str, Any]:
    """Return a request of user's and assistant's messages in turns."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"model": "tiny", "messages": messages, "max_tokens": 12, **fields}


# ── The same as in process ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_examples", [0, 1])
def test_our_own_client_plays_as_the_local_policy_does(
    running: Running,
    player: Path,  # noqa: F811
    num_examples: int,
) -> None:
    config = ChatConfig(max_context=512, num_examples=num_examples)
    examples = [expert(task) for task in ToyWorld(size=4, num_turns=7).tasks("train")]
    served = play(remote(running, config, examples))
    assert without_ids(served) == without_ids(play(local(player, config, examples)))


def test_requests_that_wait_share_a_batch_and_are_answered_as_alone(running: Running) -> None:
    model = running.served.model
    openings = [json.dumps([["user", f"Press {colour}."]]) for colour in ("red", "blue", "green")]

    def submit(number: int) -> Future[Reply]:
        task = Task(id=f"task-{number}", kind="chat", data={})
        episode = Episode(id=uuid.uuid4().hex, task=task, seed=0, observation=openings[number])
        return model.submit(episode, temperature=0.0, max_tokens=12)

    alone = [submit(number).result().token_ids for number in range(3)]
    model.most_at_once = 0
    with model._changed:  # so that its thread finds all three
        together = [submit(number) for number in range(3)]
    assert [answer.result().token_ids for answer in together] == alone
    assert model.most_at_once == 3


def test_token_ids_and_log_probabilities_are_those_of_the_model(running: Running, player: Path) -> None:  # noqa: F811
    _, answer = running.ask(said("Press red.", temperature=0, logprobs=True, return_token_ids=True))
    (choice,) = answer["choices"]
    ids, prompt = choice["token_ids"], answer["prompt_token_ids"]
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(ids),
        "total_tokens": len(prompt) + len(ids),
    }
    model, tokenizer = load_model(str(player))
    assert choice["message"]["content"] == tokenizer.decode(ids, skip_special_tokens=True).strip()
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
    expected = torch.log_softmax(logits_TV.float(), -1)[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
    found = [one["logprob"] for one in choice["logprobs"]["content"]]
    assert found == pytest.approx(expected[:, 0].tolist(), abs=1e-3)
    _, sampled = running.ask(said("Press red.", temperature=1.5, logprobs=True, seed=1))
    assert all(one["logprob"] <= 0 for one in sampled["choices"][0]["logprobs"]["content"])


def test_a_seed_gives_an_answer_again_and_no_seed_gives_others(running: Running) -> None:
    def text(**fields: Any) -> str:
        status, answer = running.ask(said("Press green.", temperature=2.0, **fields))
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    assert text(seed=5) == text(seed=5)
    assert len({text(seed=seed) for seed in range(6)}) > 1
    assert len({text() for _ in range(6)}) > 1


def test_many_at_once_are_answered_each_with_its_own(running: Running) -> None:
    questions = [f"Press {colour} {number}." for colour in ("red", "green", "blue") for number in range(6)]
    alone = [running.ask(said(one, temperature=0)) for one in questions]
    with ThreadPoolExecutor(18) as pool:
        together = list(pool.map(lambda one: running.ask(said(one, temperature=0)), questions))
    assert [a[1]["choices"] for a in together] == [a[1]["choices"] for a in alone]


def test_a_stop_text_and_a_stream(running: Running) -> None:
    _, whole = running.ask(said("Press red.", temperature=0))
    text = whole["choices"][0]["message"]["content"]
    stop = text[len(text) // 2]
    _, cut = running.ask(said("Press red.", temperature=0, stop=stop))
    assert cut["choices"][0]["message"]["content"] == text.partition(stop)[0].strip()
    assert cut["choices"][0]["finish_reason"] == "stop"
    status, events = running.ask(said("Press red.", temperature=0, stream=True))
    lines = events.decode().strip().split("\n\n")
    assert status == 200 and lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == text
    assert chunks[-1]["finish_reason"] in ("stop", "length")


# ── What is no proper request ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[1]", 400, "no JSON object"),
        ({}, 400, "messages: expected a list"),
        ({"messages": []}, 400, "messages: expected a list"),
        ({"messages": ["hi"]}, 400, "messages[0]: expected an object with a role of"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages[0]: expected an object with a role of"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, 400, "messages[0]: expected an object with a role of"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content: expected text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "expected text, or parts of type"),
        (said("a", "b"), 400, "nothing to answer"),
        (said("a", colour="red"), 400, "'colour' is no field that is known here."),
        (said("a", **{"x" * 500: 1}), 400, "is no field that is known here."),
        (said("a", temperature="hot"), 400, "temperature: expected a number from 0 to 100."),
        (said("a", temperature=-1), 400, "temperature"),
        (said("a", temperature=True), 400, "temperature"),
        (said("a", max_tokens=0), 400, "max_tokens: expected a whole number"),
        (said("a", max_tokens=1.5), 400, "max_tokens: expected a whole number"),
        (said("a", seed="1"), 400, "seed: expected a whole number"),
        (said("a", stop=[1]), 400, "stop: expected a text"),
        (said("a", logprobs=1), 400, "logprobs: expected true or false"),
        (said("a", n=2), 400, "n: 2 is not supported here; 1 is."),
        (said("a", top_p=0.9), 400, "top_p: 0.9 is not supported here"),
        (said("a", tools=[{"type": "function"}]), 400, "tools: "),
        (said("a", max_tokens=5000), 400, "maximum context length of 512 tokens"),
        (said("word " * 3000), 400, "maximum context length of 512 tokens"),
        (said("a", model="gpt"), 404, "There is no such model; this server has 'tiny'."),
        (said("a", model=3), 400, "model: expected text."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_requests_get_an_error_in_json(running: Running, body: Any, status: int, message: str) -> None:
    found, answer = running.ask(body)
    assert (found, list(answer["error"])) == (status, ["message", "type", "param", "code"])
    assert message in answer["error"]["message"] and len(answer["error"]["message"]) < 500


def test_other_paths_methods_types_and_sizes_are_refused(running: Running) -> None:
    assert running.ask(path="/v1/models")[1]["data"][0]["id"] == "tiny"
    assert running.ask(path="/health") == (200, {"status": "ok"})
    assert running.ask(path="/v1/nothing")[0] == 404
    assert running.ask({}, path="/v1/models")[0] == 405
    assert running.ask(method="DELETE", path="/v1/chat/completions")[0] == 405
    assert running.ask(said("a"), Content_Type="text/plain")[0] == 415
    status, answer = running.ask(b"", Content_Type="application/json", Content_Length=str(MAX_BODY + 1))
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert running.ask(b"{}", Content_Type="application/json", Content_Length="-5")[0] == 411
    chunked = {"Content_Type": "application/json", "Transfer_Encoding": "chunked"}
    assert running.ask(b"2\r\n{}\r\n0\r\n\r\n", **chunked)[0] == 411
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert b'"error"' in raw.recv(4096)
    with socket.create_connection(("127.0.0.1", running.port)) as raw:  # hangs up in the middle of its body
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99"
        raw.sendall(head + b"\r\n\r\n{")
    assert running.ask(said("still there?", temperature=0))[0] == 200


def test_what_changes_nothing_is_taken(running: Running) -> None:
    fields = {name: values[0] for name, values in NEUTRAL.items()} | {"user": "me", "stop": None, "seed": None}
    assert running.ask(said("a", temperature=0, **fields))[0] == 200
    request = read_request(json.dumps(said("a", max_completion_tokens=5)).encode())
    assert request.max_tokens == 5
    with pytest.raises(Refused):
        read_request(json.dumps(said("a", n=True)).encode())


def test_a_key_is_asked_for_where_there_is_one(player: Path) -> None:  # noqa: F811
    server = Running(player, key=KEY)
    try:
        for headers in (JSON, {**JSON, "Authorization": "Bearer wrong"}, {**JSON, "Authorization": f"Basic {KEY}"}):
            status, answer = server.ask(said("a"), **{name.replace("-", "_"): text for name, text in headers.items()})
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert server.ask(path="/v1/models", Authorization="Bearer nothing")[0] == 401
        assert server.ask(said("a"), Content_Type="application/json", Authorization=f"Bearer {KEY}")[0] == 200
        assert server.ask(path="/health")[0] == 200
    finally:
        server.close()


# ── The record ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_is_one_line_and_its_tokens_are_those_that_were_sampled(
    player: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    record = tmp_path / "record.jsonl"
    server = Running(player, record=record)
    try:
        first = server.ask(said("Press red.", temperature=0))[1]["choices"][0]["message"]["content"]
        second = server.ask(said("Press red.", first, "And now?", temperature=0, return_token_ids=True))[1]
        other = server.ask(said("Press red.", first, "Something else?", temperature=0))[1]
        server.ask(said("Press red.", "what I never said", "And now?", temperature=0))
    finally:
        server.close()
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [len(line["turns"]) for line in lines] == [2, 2, 1]
    text = second["choices"][0]["message"]["content"]
    assert [one["content"] for one in lines[0]["messages"]] == ["Press red.", first, "And now?", text]
    assert lines[0]["message_mask"] == [0, 1, 0, 1] and lines[2]["message_mask"] == [0, 0, 0, 1]
    assert lines[1]["messages"][-1]["content"] == other["choices"][0]["message"]["content"]
    turns = lines[0]["turns"]
    prompt, sampled = second["prompt_token_ids"], second["choices"][0]["token_ids"]
    assert turns[1]["token_ids"] == sampled
    start = next(i for i in range(len(prompt)) if prompt[i : i + len(turns[0]["token_ids"])] == turns[0]["token_ids"])
    assert start > 0, "the first answer stands in the second prompt as it was sampled"


def test_what_a_conversation_earned_is_recorded_with_it(player: Path, tmp_path: Path) -> None:  # noqa: F811
    record = tmp_path / "record.jsonl"
    server = Running(player, record=record)

    def reward(value: Any, **fields: Any) -> tuple[int, Any]:
        return server.ask({"reward": value, **fields}, path="/v1/rewards")

    try:
        answer = server.ask(said("Press red.", temperature=0))[1]
        first = answer["choices"][0]["message"]["content"]
        later = server.ask(said("Press red.", first, "And now?", temperature=0))[1]
        second = later["choices"][0]["message"]["content"]
        whole = said("Press red.", first, "And now?", second, "It is over.")["messages"]
        assert reward(0.5, messages=whole)[0] == 200
        assert reward(0.75, id=later["id"])[1]["reward"] == 0.75
        for fields, status in (
            ({"id": answer["id"]}, 404),  # it has gone on since
            ({"messages": whole[:2]}, 404),
            ({"messages": said("Press blue.", "never said", "Over.")["messages"]}, 404),
            ({"messages": whole[:1]}, 400),
            ({"id": "chatcmpl-x"}, 404),
            ({"id": later["id"], "more": 1}, 400),
        ):
            assert reward(1, **fields)[0] == status, fields
        for value in (2, -0.1, True, "1", None, float("nan")):
            assert reward(value, id=later["id"])[0] == 400
        opening = server.ask(said("Press green.", temperature=0))[1]
        assert reward(1, id=opening["id"])[0] == 200
        said_first = opening["choices"][0]["message"]["content"]
        server.ask(said("Press green.", said_first, "And now?", temperature=0))  # so that it has earned nothing yet
    finally:
        server.close()
    assert [json.loads(line).get("reward") for line in record.read_text().splitlines()] == [0.75, None]


def test_idle_conversations_are_written_and_written_again_when_they_go_on(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    known = Conversations(record, "m", idle_s=0.0)
    opening = (("user", "a"),)
    conversation, episode = known.begin(opening, 1)
    known.tidy()
    assert not record.exists() and isinstance(episode, Episode), "one that is under way is not written"
    known.answered(conversation, opening, Turn(observation="x", text="b", action="b", reward=0.0), {"seed": 1})
    known.tidy()
    known.tidy()
    again, episode = known.begin((*opening, ("assistant", "b"), ("user", "c")), 2)
    assert again is conversation and len(episode.turns) == 1
    turn = Turn(observation="c", text="d", action="d", reward=0.0)
    known.answered(again, (*opening, ("assistant", "b"), ("user", "c")), turn, {"seed": 2})
    known.close()
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [len(line["turns"]) for line in lines] == [1, 2] and len({line["id"] for line in lines}) == 1


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted_and_ends_cleanly(
    player: Path,  # noqa: F811
    tmp_path: Path,
    how: signal.Signals,
) -> None:
    record = tmp_path / "record.jsonl"
    words = ["serve", str(player), "--port", "0", "--record", str(record), "--name", "tiny"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparring", *words],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "serves tiny. Ctrl-C ends it." in line, process.stderr and process.stderr.read()
        connection = http.client.HTTPConnection("127.0.0.1", int(line.split(":")[2].split("/")[0]), timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(said("a")), JSON)
        assert connection.getresponse().status == 200
        process.send_signal(how)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in errors
    assert out == f"Ended; 1 conversations are in {record}.\n"
    assert len(record.read_text().splitlines()) == 1


def test_others_than_this_machine_need_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.test_cli import called

    monkeypatch.delenv("SPARRING_SERVE_KEY", raising=False)
    code, _, errors = called(["serve", "sparring-worlds", "--host", "0.0.0.0"], capsys)
    assert code == 2 and "--host 0.0.0.0: others can connect there. Set a key" in errors
    (tmp_path / "there.jsonl").touch()
    code, _, errors = called(["serve", "sparring-worlds", "--record", str(tmp_path / "there.jsonl")], capsys)
    assert code == 2 and "exists already" in errors


def test_a_models_own_limits_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparring.models.loading import save_model
    from tests.test_cli import called

    save_model(tiny_model(), tiny_tokenizer(), tmp_path / "model")
    code, _, errors = called(["serve", str(tmp_path / "model"), "--max_context", "999999"], capsys)
    assert code == 2 and "chat.max_context is 999999, but the model has" in errors
