"""The functions an agent can call, as text it can read: the benchmark's JSON docs, or a short line each.

Source: the benchmark's function docs, which `full` shows. Deviates: `short` is ours: signature and first sentence, the
allowed values of an argument in its type, an eighth of the docs' length; `signatures` leaves the sentence out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sparring.envs.bfcl.wheel import arguments, function_docs

Style = Literal["signatures", "short", "full"]

TYPES = {"string": "str", "integer": "int", "float": "float", "boolean": "bool", "array": "list", "dict": "dict"}
ALLOWED_VALUES = re.compile(r"\[Enum\]: (\[[^\]]*\])")
"""How the docs spell out what an argument may be, for instance `[Enum]: ["on", "off"]`."""
FIRST_SENTENCE = re.compile(r"(?:.*Tool description: )?(.+?[.:](?=\s|$)|.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function that an agent can call."""

    name: str
    api: str
    signature: str
    """For instance `ls(a: bool = False)`."""
    summary: str
    """The first sentence of its description."""
    doc: Mapping[str, Any]
    """Its doc as the benchmark gives it: `description`, a JSON schema of `parameters`, and one of the `response`."""


def functions_of(apis: Iterable[str]) -> list[Function]:
    """List the functions of APIs, in the benchmark's order."""
    return [function for api in apis for function in _functions_of(api)]


def show_functions(functions: Iterable[Function], style: Style) -> str:
    """Write functions for an agent, a line each."""
    if style == "full":
        return "\n".join(json.dumps(function.doc) for function in functions)
    if style == "signatures":
        return "\n".join(function.signature for function in functions)
    return "\n".join(f"{function.signature}: {function.summary}" for function in functions)


@cache
def _functions_of(api: str) -> Sequence[Function]:
    return [
        Function(name=doc["name"], api=api, signature=_signature(doc, api), summary=_summary(doc), doc=doc)
        for doc in function_docs(api)
    ]


def _signature(doc: Mapping[str, Any], api: str) -> str:
    required = doc["parameters"]["required"]
    shown = []
    for name in arguments(api, doc["name"]):
        schema = doc["parameters"]["properties"][name]
        default = schema.get("default")
        optional = "" if name in required else f" = {None if default == 'None' else default!r}"
        shown.append(f"{name}: {_type(schema)}{optional}")
    return f"{doc['name']}({', '.join(shown)})"


def _type(schema: Mapping[str, Any]) -> str:
    allowed = ALLOWED_VALUES.search(schema.get("description", ""))
    kind = TYPES[schema["type"]]
    if kind == "list":
        return f"list[{_type({**schema, **schema['items']})}]" if "type" in schema.get("items", {}) else kind
    return "|".join(json.dumps(one) for one in json.loads(allowed[1])) if allowed else kind


def _summary(doc: Mapping[str, Any]) -> str:
    found = FIRST_SENTENCE.match(doc["description"])
    return " ".join(found[1].split()).rstrip(".:") if found else ""
