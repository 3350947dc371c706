"""Chat templates in a process of their own: the text is transformers' own, and what exceeds a limit is one line."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from sparring.core.errors import ModelError
from sparring.data.chat import Chat, ChatConfig
from sparring.data.rendering import _PROCESS, Limits, Rendering
from tests.tiny_models import CHATML, TEMPLATES, tiny_tokenizer

QUICK = Limits(seconds=0, bytes=2**28)
MESSAGES = [
    {"role": "user", "content": "Grüße \ud800 ✓\n </think> "},
    {"role": "assistant", "content": "<think>\nwhy\n</think>\n\ngo"},
    {"role": "user", "content": " on "},
]
ODD = {
    "generation": "{% for m in messages %}\n  {% generation %}{% set x = m.content %}{{ x }}{% endgeneration %}\n"
    "{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ dict(a=1) }}{{ '<é>' | tojson }}",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "variables": "{{ eos_token }}{{ bos_token is defined }}{{ tools is none }}{{ documents is none }}{{ extra.a[0] }}",
    "macros": "{%- macro show(m, n=1) -%}{{ m.content[:n] }}{%- endmacro -%}{{ show(messages[0], 3) }}",
}


@pytest.mark.parametrize("name", [*TEMPLATES, *ODD])
@pytest.mark.parametrize("is_asked", [True, False])
def test_texts_are_those_of_transformers(name, is_asked):
    tokenizer = tiny_tokenizer(name if name in TEMPLATES else "chatml")
    template = TEMPLATES.get(name) or ODD[name]
    variables = {"date_string": "today", "extra": {"a": [1.5, None]}, "enable_thinking": False}
    expected = tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, add_generation_prompt=is_asked, tokenize=False, **variables
    )
    rendering = Rendering(template, {**tokenizer.special_tokens_map, **variables})
    assert rendering(MESSAGES, is_asked=is_asked) == expected


HOSTILE = {
    "a loop without end": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{% set x = 10 ** (10 ** 10) %}",
    "a string of gigabytes": "{{ 'x' * 10 ** 10 }}",
    "doubling": "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a product of lengths": "{{ ('x' * 10 ** 6).replace('', 'y' * 10 ** 6) }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "20 MB": "{{ 'x' * 20000000 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "an include": "{% include '/etc/passwd' %}",
    "a division by zero": "{{ 1 / 0 }}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "bad syntax": "{% for %}",
    "a TypeError": "{{ messages + 1 }}",
    "Python's internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a namespace's internals": "{{ namespace(__init__=1) }}",
    "a long message": "{{ raise_exception('no ' * 10 ** 6) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_one_line(name):
    rendering = Rendering(HOSTILE[name], {}, QUICK)
    began = time.monotonic()
    with pytest.raises(
        ModelError, match=r"^The chat template (fails on|refuses) user and assistant turns: ."
    ) as caught:
        rendering(MESSAGES, is_asked=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.monotonic() - began < 30
    assert Rendering(CHATML, {})(MESSAGES[2:], is_asked=False) == "<|im_start|>user\n on <|im_end|>\n"


def test_a_template_that_is_too_long_is_refused():
    with pytest.raises(ModelError, match="has 2000000 characters"):
        Rendering("x" * 2_000_000, {})


def test_a_template_that_turns_hostile_later_is_refused_then():
    tokenizer = tiny_tokenizer("chatml")
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = own + "{% if 'bees' in messages[-1].content %}{{ 'x' * 20000000 }}{% endif %}"
        chat = Chat(tokenizer, ChatConfig(), instruction="Act.")
    finally:
        tokenizer.chat_template = own
    assert chat.first("ants")
    with pytest.raises(ModelError, match="it writes 2000"):
        chat.first("bees")


def test_the_process_knows_no_secrets_and_goes_with_its_parent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    _PROCESS.end()
    Rendering(CHATML, {})(MESSAGES, is_asked=True)
    process = psutil.Process(_PROCESS._process.pid)
    assert "OPENAI_API_KEY" not in process.environ()
    reading, writing = os.pipe()
    if (fork := os.fork()) == 0:  # a fork has a process of its own, which ends with it
        Rendering(CHATML, {})(MESSAGES, is_asked=True)
        os.write(writing, str(_PROCESS._process.pid).encode())
        os._exit(0)
    os.waitpid(fork, 0)
    other = int(os.read(reading, 100))
    assert other != process.pid
    for _ in range(1000):
        if not psutil.pid_exists(other) or psutil.Process(other).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.01)
    else:
        pytest.fail("it outlived its parent")
    assert Rendering(CHATML, {})(MESSAGES[2:], is_asked=False) == "<|im_start|>user\n on <|im_end|>\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Rendering(CHATML, {})(MESSAGES[2:], is_asked=False) == "<|im_start|>user\n on <|im_end|>\n"


def test_an_interrupt_while_waiting_does_not_mix_answers_up():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            Rendering(HOSTILE["a loop without end"], {}, Limits(seconds=5))(MESSAGES, is_asked=True)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert Rendering(CHATML, {})(MESSAGES[2:], is_asked=False) == "<|im_start|>user\n on <|im_end|>\n"
