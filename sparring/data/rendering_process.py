"""The process that renders chat templates: requests come in on standard input, texts go out on standard output.

A chat template is a program of whoever made the tokenizer. Here it may loop, recurse and fill memory: the operating
system ends what exceeds its limits, and nobody else is hurt. The environment offers what transformers' own offers, so
a template gives the same text as under `apply_chat_template`.

A request is two lines of JSON: `[template, variables, limits]`, then `[messages, is_asked]`. The answer is one line:
`["text", text]`, `["refused", why]` where the template raises an exception of its own, or `["failed", why]`.
Run as a file; it imports nothing of the package.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_WHY = 300
"""Most characters of a reason."""


class _Generation(Extension):
    """The tag `{% generation %}`, which marks what an agent wrote and shows it as it is."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """A namespace without attributes that lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        Namespace.__setitem__(self, name, value)


class _Dict:
    """The type `dict`, to be called alone."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _check(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys=False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment() -> ImmutableSandboxedEnvironment:
    """Return an environment in which templates give what they give under transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": time.strftime,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def answer(render: Callable[..., str], variables: dict[str, Any], body: bytes, max_chars: int) -> list[str]:
    """Render one request and return the answer to it."""
    messages, is_asked = json.loads(body)
    shared = {"tools": None, "documents": None, **variables}
    text = render(messages=messages, add_generation_prompt=is_asked, **shared)
    return ["text", text] if len(text) <= max_chars else ["failed", f"it writes {len(text)} characters"]


def main() -> None:
    """Answer requests until standard input ends."""
    environment, known = make_environment(), {}
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.readline():
        body = requests.readline()
        try:
            if header not in known:
                template, variables, limits = json.loads(header)
                resource.setrlimit(resource.RLIMIT_AS, (limits["bytes"], resource.RLIM_INFINITY))
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
                _allow(limits["seconds"])
                known[header] = environment.from_string(template).render, variables, limits
            render, variables, limits = known[header]
            _allow(limits["seconds"])
            found = answer(render, variables, body, limits["chars"])
        except TemplateError as error:
            found = ["refused", " ".join(str(error)[:MAX_WHY].split())]
        except MemoryError:
            found = ["failed", "it takes too much memory"]
        except Exception as error:  # a template is a program: it may raise anything
            found = ["failed", f"{type(error).__name__}: {' '.join(str(error)[:MAX_WHY].split())}"]
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


def _allow(seconds: int) -> None:
    """Let the process live for so many seconds of processor time from now on, and up to one more."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
