"""Chat completions over real HTTP. What must hold:

- whatever a model writes is an answer; whatever a server does wrong is none;
- what may pass is tried again, not sooner than the server asks; what won't is refused at once, with the remedy;
- the key goes to the configured server, and nowhere else: no log, no message, no repr, no redirect's target.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import nullcontext
from email.utils import formatdate
from pathlib import Path

import pytest

from sparring.core.convert import from_dict, to_dict
from sparring.core.errors import ConfigError, EnvFault
from sparring.policies.completions import (
    MAX_TEXT,
    Completion,
    CompletionClient,
    OpenAIConfig,
    Request,
)
from sparring.policies.transport import MAX_BODY, ContextFull
from sparring.runs.config import PlayConfig
from sparring.runs.recipe_files import load_recipe, play_config, recipe_from_dict
from tests.command_line import ENVIRONMENT, ROOT
from tests.serving import Answer, ScriptedServer, Seen, completion, error

KEY = "sk-test-7Qz1-do-not-tell"
OK = Answer(body=completion("press red"))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("sparring.policies.transport.BACKOFF_S", 0.02)


def client_of(server: ScriptedServer, **options) -> CompletionClient:
    return CompletionClient(OpenAIConfig(base_url=server.base_url, model="tiny", **{"timeout_s": 20.0, **options}))


def request(text: str = "Look.", **fields) -> Request:
    fields = {"temperature": 0.0, "max_tokens": 8, "seed": 3, **fields}
    return Request(messages=[{"role": "user", "content": text}], **fields)


def outcome_of(*answers: Answer, **options):
    """Return what came of one request, and the requests that the server saw."""
    with ScriptedServer(answers) as server:
        (outcome,) = client_of(server, **options).complete([request()])
        return outcome, server.seen


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# ── Answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_asked_arrives_and_the_answer_comes_back():
    with ScriptedServer([OK]) as server:
        client = client_of(server, extra={"top_p": 0.5, "seed": None, "max_tokens": 9})
        (outcome,) = client.complete([request("Look <|im_end|> \u2060 é \ud800.", stop=("\nObservation:",))])
    assert outcome == Completion(text="press red")
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Look <|im_end|> \u2060 é ?."}],
        "temperature": 0.0,
        "max_tokens": 9,
        "stop": ["\nObservation:"],
        "top_p": 0.5,
    }
    assert "Authorization" not in seen.headers


def test_answers_come_in_order_and_no_more_are_under_way_than_allowed():
    def slowly(seen: Seen) -> Answer:
        text = seen.body["messages"][0]["content"]
        return Answer(body=completion(f"answer {text}"), delay_s=0.15 if text == "0" else 0.05)

    with ScriptedServer(slowly) as server:
        outcomes = client_of(server, num_concurrent=3).complete([request(str(i)) for i in range(10)])
    assert outcomes == [Completion(text=f"answer {i}") for i in range(10)]
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        (None, ""),
        (" \x00\x1b[2J\ud800 ", " \x00\x1b[2J\ufffd "),
        ([{"type": "text", "text": "press "}, {"type": "text", "text": "red"}], "press red"),
        ([], ""),
        ({"press": ["red"]}, '{"press": ["red"]}'),
        (7, "7"),
        ("x" * 3_000_000, "x" * MAX_TEXT),
    ],
)
def test_any_content_is_an_answer(content, text):
    outcome, seen = outcome_of(Answer(body=completion(content)))
    assert outcome == Completion(text=text)
    assert len(seen) == 1


def test_tool_calls_and_refusals_stand_in_for_content():
    calls = [{"type": "function", "function": {"name": "press", "arguments": '{"colour": "red"}'}}]
    for message, text in [
        ({"content": None, "tool_calls": calls}, json.dumps(calls)),
        ({"content": None, "refusal": "I won't."}, "I won't."),
        ({"content": "look", "tool_calls": calls}, "look"),
        ({}, ""),
    ]:
        outcome, _ = outcome_of(Answer(body={"choices": [{"message": message}]}))
        assert outcome == Completion(text=text)


def test_token_ids_are_kept_where_they_were_asked_for_and_make_sense():
    wanted = {"return_token_ids": True}
    assert outcome_of(Answer(body=completion("a", token_ids=[5, 7])), extra=wanted)[0] == Completion(
        text="a", token_ids=(5, 7)
    )
    for body in (
        completion("a", token_ids=[5, -7]),
        completion("a", token_ids=[True, 2.5]),
        completion("a", token_ids="57"),
        completion("a"),
    ):
        assert outcome_of(Answer(body=body), extra=wanted)[0] == Completion(text="a")
    cut = completion("x" * (MAX_TEXT + 1), token_ids=[5, 7])
    assert outcome_of(Answer(body=cut), extra=wanted)[0] == Completion(text="x" * MAX_TEXT)
    assert outcome_of(Answer(body=completion("a", token_ids=[5, 7])))[0] == Completion(text="a")


# ── Faults that may pass ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500, body="oops"),
        Answer(status=503, body=error("loading")),
        Answer(status=429, body=error("slow down")),
        Answer(status=408),
        Answer(hangs_up=True),
        Answer(body="<html>welcome</html>"),
        Answer(body='{"choices": [{"message": {"content": "pre'),
        Answer(body={"choices": []}),
        Answer(body={"choices": [{"message": ["press red"]}]}),
        Answer(body=error("upstream is gone")),
        Answer(body="[" * 100_000),
        Answer(body=b"\xff\xfe\x00"),
        Answer(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
        Answer(body="{}", headers={"Content-Length": "1000"}),
    ],
    ids=lambda answer: f"{answer.status}-{str(answer.body)[:20]}-{answer.hangs_up}",
)
def test_what_may_pass_is_tried_again_and_in_the_end_is_a_fault(failure):
    options = {"timeout_s": 0.5} if "Content-Length" in failure.headers else {}
    outcome, seen = outcome_of(failure, OK, max_retries=1, **options)
    assert outcome == Completion(text="press red")
    assert len(seen) == 2
    outcome, seen = outcome_of(failure, max_retries=1, **options)
    assert isinstance(outcome, EnvFault)
    assert "(2 tries)" in str(outcome)
    assert "http://127.0.0.1:" in str(outcome)
    assert len(seen) == 2


def test_a_silent_server_and_a_dripping_one_run_into_the_same_deadline():
    for slow in (Answer(body=completion("late"), delay_s=60.0), Answer(body=completion("late"), drip_s=1.0)):
        began = time.monotonic()
        outcome, _ = outcome_of(slow, timeout_s=0.5, max_retries=0)
        assert isinstance(outcome, EnvFault)
        assert "gave no answer within 0.5 s" in str(outcome)
        assert "openai.timeout_s" in str(outcome)
        assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A gzip stream of 64 MB in 64 kB."""
    return gzip.compress(json.dumps(completion("x" * 2**26)).encode())


@pytest.mark.parametrize(
    ("encoding", "layers", "words"),
    [
        ("gzip", 1, "more than 16 MB"),
        ("GZIP", 1, "more than 16 MB"),
        ("gzip", 2, "sent something else than was asked for"),
        ("gzip, gzip", 2, "can't be unpacked: it is packed as 'gzip, gzip'"),
        ("gzip,deflate,gzip", 1, "can't be unpacked"),
        ("br", 1, "can't be unpacked: it is packed as 'br'"),
        ("deflate", 1, "can't be unpacked: it is packed as 'deflate'"),
    ],
)
def test_an_answer_is_unpacked_by_one_layer_and_up_to_a_bound(bomb, encoding, layers, words):
    body = bomb if layers == 1 else gzip.compress(bomb)
    tracemalloc.start()
    try:
        outcome, seen = outcome_of(Answer(body=body, headers={"Content-Encoding": encoding}), max_retries=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, EnvFault)
    assert words in str(outcome)
    assert peak < 3 * MAX_BODY
    assert seen[0].headers["Accept-Encoding"] == "gzip"


def test_a_packed_answer_is_read_and_one_cut_short_is_a_fault():
    packed = gzip.compress(json.dumps(completion("press red")).encode())
    wrapped = {"Content-Encoding": "gzip"}
    assert outcome_of(Answer(body=packed, headers=wrapped))[0] == Completion(text="press red")
    assert outcome_of(Answer(body=packed, headers=wrapped, drip_s=0.001))[0] == Completion(text="press red")
    outcome, _ = outcome_of(Answer(body=packed[:-9], headers=wrapped), max_retries=0)
    assert isinstance(outcome, EnvFault)
    assert "cut short" in str(outcome)


def test_an_answer_without_end_is_not_read_to_its_end():
    outcome, _ = outcome_of(Answer(body=b"[" * (MAX_BODY + 1)), max_retries=0)
    assert isinstance(outcome, EnvFault)
    assert "more than 16 MB" in str(outcome)


@pytest.mark.parametrize("encoding", ["", "gzip", "gzip, gzip", "br"])
def test_a_refusal_is_a_refusal_whatever_its_body(bomb, encoding):
    body = bomb if "gzip" in encoding else b"x" * (MAX_BODY + 1)
    with pytest.raises(ConfigError, match="answered 401"):
        outcome_of(Answer(status=401, body=body, headers={"Content-Encoding": encoding} if encoding else {}))


def test_waits_double_and_are_drawn(monkeypatch):
    monkeypatch.setattr("sparring.policies.transport.BACKOFF_S", 0.5)
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float) -> None:
        waits.append(delay)
        await sleep(0)

    monkeypatch.setattr("sparring.policies.transport.asyncio.sleep", note)
    outcome, seen = outcome_of(Answer(status=500), max_retries=3)
    assert isinstance(outcome, EnvFault)
    assert len(seen) == 4
    for attempt, wait in enumerate(waits):
        assert 0.25 * 2**attempt <= wait <= 0.5 * 2**attempt
    assert len({wait / 2**attempt for attempt, wait in enumerate(waits)}) == 3


@pytest.mark.parametrize("header", ["1.2", "date"])
def test_retry_after_is_honoured(header):
    def answers(seen: Seen) -> Answer:
        if len(server.seen) > 1:
            return OK
        return Answer(status=429, headers={"Retry-After": formatdate(time.time() + 3) if header == "date" else header})

    with ScriptedServer(answers) as server:
        assert client_of(server).complete([request()]) == [Completion(text="press red")]
        first, second = server.seen
        assert second.at - first.at >= 1.2


@pytest.mark.parametrize("header", ["soon", "-5", "nan", "inf", "9" * 400, "Wed, 99 Nov 2026 99:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_is_ignored(header):
    outcome, _ = outcome_of(Answer(status=429, headers={"Retry-After": header}), OK)
    assert outcome == Completion(text="press red")


def test_nobody_waits_for_an_hour():
    outcome, seen = outcome_of(Answer(status=429, body=error("daily limit"), headers={"Retry-After": "3600"}))
    assert isinstance(outcome, EnvFault)
    assert "daily limit" in str(outcome)
    assert "asks to wait 3600 s: try again later" in str(outcome)
    assert len(seen) == 1


def test_a_server_that_was_never_there_is_named_at_once():
    config = OpenAIConfig(base_url=f"http://127.0.0.1:{free_port()}/v1", model="tiny")
    began = time.monotonic()
    (outcome,) = CompletionClient(config).complete([request()])
    assert isinstance(outcome, EnvFault)
    assert "can't be reached" in str(outcome)
    assert "Start the server, or check openai.base_url" in str(outcome)
    assert time.monotonic() - began < 20


def test_a_server_that_comes_back_is_found_again():
    with ScriptedServer([Answer(body=completion("one"), headers={"Connection": "close"})]) as server:
        client = client_of(server, max_retries=10)
        assert client.complete([request()]) == [Completion(text="one")]
    outcomes = []
    asking = threading.Thread(target=lambda: outcomes.extend(client.complete([request()])))
    asking.start()
    time.sleep(0.3)
    with ScriptedServer([Answer(body=completion("two"))], port=int(server.base_url.split(":")[2][:-3])):
        asking.join(30)
    assert outcomes == [Completion(text="two")]


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=400, body=error("x", code="context_length_exceeded")),
        Answer(status=400, body=error("This model's maximum context length is 4097 tokens. However, …")),
        Answer(
            status=400, body={"object": "error", "message": "max_tokens must be at least 1, got -186.", "code": 400}
        ),
        Answer(status=400, body=error("The input (61709 tokens) is longer than the model's context length (40960).")),
        Answer(status=400, body=error("request (9 tokens) exceeds the available context size (8)", code=400)),
        Answer(status=400, body={"error": {"message": "?", "code": 400, "type": "exceed_context_size_error"}}),
        Answer(status=422, body=error("prompt is too long: 9 tokens > 8 maximum")),
    ],
    ids=lambda answer: json.dumps(answer.body)[:50],
)
def test_a_full_context_is_neither_an_answer_nor_a_fault(answer):
    outcome, seen = outcome_of(answer)
    assert isinstance(outcome, ContextFull)
    assert len(seen) == 1


def test_a_refused_request_is_not_sent_again_and_does_not_touch_the_others():
    def some(seen: Seen) -> Answer:
        is_bad = seen.body["messages"][0]["content"] == "bad"
        return Answer(status=400, body=error("Unsupported parameter: 'max_tokens'")) if is_bad else OK

    with ScriptedServer(some) as server:
        good, bad = client_of(server).complete([request("good"), request("bad")])
    assert good == Completion(text="press red")
    assert isinstance(bad, ConfigError)
    assert "answered 400: Unsupported parameter: 'max_tokens'. A field" in str(bad)
    assert "openai.extra" in str(bad)
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (Answer(status=401, body=error("no key")), "MY_KEY is not set: put the API key there"),
        (Answer(status=403, body="<html>\nno\x1b[2J\n</html>"), "MY_KEY is not set"),
        (Answer(status=404, body=error("The model `tiny` does not exist.")), "openai.model"),
        (Answer(status=404, body={"detail": "Not Found"}), "it ends in /v1"),
        (Answer(status=429, body=error("You exceeded your quota", code="insufficient_quota")), "account"),
        (Answer(status=302, headers={"Location": "https://elsewhere.example/v1"}), "if you trust it"),
    ],
)
def test_what_every_request_would_meet_is_raised_at_once(answer, remedy):
    with ScriptedServer([answer]) as server, pytest.raises(ConfigError) as raised:
        client_of(server, api_key_env="MY_KEY", num_concurrent=1).complete([request()])
    assert remedy in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(server.seen) == 1


# ── The key ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    return KEY


def test_the_key_is_sent_to_the_server_and_never_written(key, caplog, capfd):
    """Not by us at any log level, nor by what we build on; not even where the server sends it back."""
    caplog.set_level(logging.DEBUG)
    echoes = [
        Answer(status=500, body=f"I was sent {key}"),
        Answer(body=f"I was sent {key}"),
        Answer(body=completion(f"press {key}")),
        Answer(status=400, body=error(f"bad key: {key}")),
        Answer(status=400, body=error(f"context length, {key}")),
        Answer(status=401, body=error(f"Incorrect API key provided: {key}")),
    ]
    said = []
    with ScriptedServer(echoes) as server:
        client = client_of(server, api_key_env="MY_KEY")
        said += [client.complete([request()])[0] for _ in range(3)]
        with pytest.raises(ConfigError) as raised:
            client.complete([request()])
        said += [raised.value, raised.getrepr(showlocals=False), repr(client), str(vars(client.config))]
    assert all(seen.headers["Authorization"] == f"Bearer {key}" for seen in server.seen)
    assert len(server.seen) == 6
    assert said[0] == Completion(text="press [API key]")
    assert "Check the key in MY_KEY" in str(raised.value)
    assert key not in "".join(map(str, said))
    assert caplog.records
    assert key not in caplog.text
    assert key not in "".join(capfd.readouterr())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_the_key_stays(key, status):
    with ScriptedServer([OK]) as other:
        location = {"Location": f"{other.base_url}/chat/completions?from={key}"}
        with ScriptedServer([Answer(status=status, headers=location)]) as server:
            client = client_of(server, api_key_env="MY_KEY")
            with pytest.raises(ConfigError, match=r"redirects to .* Name that in openai.base_url") as raised:
                client.complete([request()])
        assert other.seen == []
    assert key not in str(raised.value)


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch):
    for bad in ("sk-geheim\nX-Evil: 1", "sk-schlüssel-geheim"):
        monkeypatch.setenv("MY_KEY", bad)
        with pytest.raises(ConfigError, match="environment variable MY_KEY holds no API key") as raised:
            CompletionClient(OpenAIConfig(model="tiny", api_key_env="MY_KEY"))
        assert "geheim" not in str(raised.value)


def test_the_key_is_in_no_config(key):
    config = PlayConfig(openai=OpenAIConfig(model="tiny", api_key_env="MY_KEY"))
    for text in (repr(config), json.dumps(to_dict(config)), pickle.dumps(to_dict(config)).decode("latin-1")):
        assert KEY not in text
    assert from_dict(PlayConfig(), to_dict(config), source="x") == config


def test_a_recipe_does_not_choose_where_a_key_is_sent(tmp_path):
    path = tmp_path / "r.toml"
    for text in ('method = "sft"\n[openai]\n', '[arms.a]\nmethod = "sft"\n[arms.a.openai]\n'):
        path.write_text(f'{text}base_url = "https://evil.example/v1"\n')
        with pytest.raises(ConfigError, match="a recipe must not choose where your API key is sent"):
            load_recipe(path)
    path.write_text('method = "coevolve"\n')
    mine = load_recipe(path, {"openai.base_url": "https://mine.example/v1"}).arms["coevolve"].config
    assert mine.openai.base_url == "https://mine.example/v1"


def test_a_run_folder_does_not_choose_where_a_key_is_sent(tmp_path):
    recipe = recipe_from_dict({"name": "r", "method": "coevolve"}, {"openai.base_url": "https://evil.example/v1"})
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_dict()))
    assert play_config(tmp_path).openai == OpenAIConfig()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url: no web address"),
        ({"base_url": "http://localhost:port/v1"}, "base_url: no web address"),
        ({"base_url": "https://me:secret@host/v1"}, "base_url: takes no user, password"),
        ({"base_url": "https://host/v1?key=secret"}, "base_url: takes no user, password"),
        ({"api_key_env": "sk-proj-secret"}, "takes the name of an environment variable"),
        ({"num_concurrent": 0}, "num_concurrent: expected a whole number from 1 to"),
        ({"timeout_s": 0.0}, "above 0"),
        ({"max_retries": -1}, "max_retries: expected a whole number from 0 to"),
        ({"extra": {"stream": True}}, "'stream' can't be changed"),
    ],
)
def test_settings_that_cant_be_meant_are_refused_without_showing_what_may_be_a_key(options, message):
    with pytest.raises(ConfigError) as raised:
        from_dict(PlayConfig(), {"openai": options}, source="command line")
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


def test_without_a_model_nothing_is_asked():
    with pytest.raises(ConfigError, match="names no model"):
        CompletionClient(OpenAIConfig())


# ── Surroundings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_works_where_an_event_loop_is_running_already():
    async def notebook(client: CompletionClient):
        return client.complete([request()])

    with ScriptedServer([OK]) as server:
        assert asyncio.run(notebook(client_of(server))) == [Completion(text="press red")]


def test_connections_are_reused_and_closed():
    addresses = set()

    class Watching(ScriptedServer):
        def _handler(self):
            class Handler(super()._handler()):
                def setup(self):
                    addresses.add(self.client_address)
                    super().setup()

            return Handler

    with Watching([OK]) as server:
        before = set(threading.enumerate())
        client = client_of(server)
        (thread,) = set(threading.enumerate()) - before
        for _ in range(3):
            client.complete([request()])
        assert len(addresses) == 1
        del client
        gc.collect()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("last", [Answer(status=401), Answer(body=b"x" * 2**20)], ids=["refused", "too long"])
def test_nothing_is_left_pending_when_the_client_ends_after_an_error(last, caplog, monkeypatch):
    monkeypatch.setattr("sparring.policies.transport.MAX_BODY", 2**17)

    def answer(seen: Seen) -> Answer:
        return last if "last" in str(seen.body) else Answer(body=completion("late"), delay_s=0.2)

    requests = [*([request()] * 3 if last.status == 401 else []), request("last")]
    with ScriptedServer(answer) as server:
        for _ in range(10):  # the loop's thread and this one race
            before = set(threading.enumerate())
            client = client_of(server, max_retries=0)
            (thread,) = [one for one in set(threading.enumerate()) - before if one.name == "requests"]
            with pytest.raises(ConfigError) if last.status == 401 else nullcontext():
                client.complete(requests)
            del client
            deadline = time.monotonic() + 20
            while thread.is_alive() and time.monotonic() < deadline:  # the loop's thread may still hold the client
                gc.collect()
                thread.join(0.05)
            assert not thread.is_alive()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_an_interrupt_ends_at_once_what_is_under_way(tmp_path: Path):
    code = """
import sys
from sparring.policies.completions import *
client = CompletionClient(OpenAIConfig(base_url=sys.argv[1], model="tiny"))
print("asking", flush=True)
client.complete([Request(messages=[], temperature=0, max_tokens=1, seed=0)] * 3)
"""
    with ScriptedServer([Answer(delay_s=60)]) as server:
        command = [sys.executable, "-c", code, server.base_url]
        child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(server.seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = child.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert errors.decode().strip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors.decode()
    assert "pending" not in errors.decode()
