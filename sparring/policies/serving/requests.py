"""A chat completion's request, read strictly: what is not understood is refused, never silently left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import quote
from sparring.core.text import encodable

ROLES = ("system", "developer", "user", "assistant")
IGNORED = ("user", "metadata", "store", "stream_options", "parallel_tool_calls", "service_tier")
"""Fields that say nothing about the answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "chat_template_kwargs": ({},),
}
"""Fields that are taken with these values, and null, alone: what they would do is not done here."""
MAX_MESSAGES, MAX_STOPS, MAX_SEED = 4096, 16, 2**63


class Refused(Exception):
    """A request that is not served."""

    def __init__(self, status: int, message: str, *, code: str = "invalid_request", param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI words it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What a client asks for."""

    model: str
    messages: tuple[tuple[str, str], ...]
    """Role and content; the last is not the assistant's."""
    temperature: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    return_token_ids: bool = False
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRequest:
    """What a client says that a conversation earned."""

    reward: float
    """From 0 to 1."""
    id: str = ""
    """The id of the conversation's last answer; empty where `messages` tell which one is meant."""
    messages: tuple[tuple[str, str], ...] = ()
    """The whole conversation, up to its last answer."""


def read_reward(body: bytes) -> RewardRequest:
    """Read what a conversation earned.

    Raises:
        Refused: it is no JSON, names no conversation, or the reward is no number from 0 to 1.
    """
    fields = _object(body)
    reward = fields.pop("reward", None)
    if type(reward) not in (int, float) or not 0 <= reward <= 1:
        raise Refused(400, "reward: expected a number from 0 to 1.", param="reward")
    name = _typed(fields, "id", str, "")
    said = () if name else _messages(fields.pop("messages", None))
    while said and said[-1][0] != "assistant":  # what the world said last
        said = said[:-1]
    if not name and not said:
        raise Refused(400, "messages: no answer of the assistant's in them.", param="messages")
    _check_known(fields)
    return RewardRequest(reward=float(reward), id=name, messages=said)


def read_request(body: bytes) -> ChatRequest:
    """Read a request's body.

    Raises:
        Refused: it is no JSON, or a field is unknown or of another type.
    """
    fields = _object(body)
    for name in IGNORED:
        fields.pop(name, None)
    for name, values in NEUTRAL.items():
        if (value := fields.pop(name, None)) is not None and not _is_one_of(value, values):
            shown = " or ".join(json.dumps(one) for one in values)
            raise Refused(400, f"{name}: {_shown(value)} is not supported here; {shown} is.", param=name)
    fields = {name: value for name, value in fields.items() if value is not None}
    limits = [fields.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in fields]
    messages = _messages(fields.pop("messages", None))
    if messages[-1][0] == "assistant":
        raise Refused(400, "messages: the last one is the assistant's; there is nothing to answer.", param="messages")
    request = ChatRequest(
        model=_typed(fields, "model", str, ""),
        messages=messages,
        temperature=_number(fields.pop("temperature", 1.0)),
        max_tokens=_whole("max_tokens", limits[0], 1, 10**6) if limits else None,
        seed=_whole("seed", fields.pop("seed"), -MAX_SEED, MAX_SEED - 1) if "seed" in fields else None,
        stop=_stops(fields.pop("stop", ())),
        logprobs=_typed(fields, "logprobs", bool, False),
        return_token_ids=_typed(fields, "return_token_ids", bool, False),
        stream=_typed(fields, "stream", bool, False),
    )
    _check_known(fields)
    return request


def _object(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is no JSON.", code="invalid_json") from None
    if not isinstance(record, dict):
        raise Refused(400, "The body is no JSON object.", code="invalid_json")
    return record


def _check_known(left: Mapping[str, Any]) -> None:
    """Refuse fields that nothing has read."""
    if left:
        name = sorted(left)[0]
        raise Refused(400, f"{quote(name)} is no field that is known here.", code="unknown_field", param=name[:80])


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise Refused(400, f"messages: expected a list of 1 to {MAX_MESSAGES} messages.", param="messages")
    found = []
    for number, one in enumerate(value):
        where = f"messages[{number}]"
        role = one.get("role") if isinstance(one, dict) else None
        if not isinstance(one, dict) or role not in ROLES:
            raise Refused(400, f"{where}: expected an object with a role of {', '.join(ROLES)}.", param=where)
        if one.get("tool_calls"):
            raise Refused(400, f"{where}: tool calls are not supported here.", param=where)
        found.append(("system" if role == "developer" else str(role), _content(one.get("content"), where)))
    return tuple(found)


def _content(value: Any, where: str) -> str:
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Refused(400, f"{where}.content: expected text, or parts of type text.", param=f"{where}.content")
    return encodable(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 100:
        raise Refused(400, "temperature: expected a number from 0 to 100.", param="temperature")
    if 0 < value < 1e-4:  # logits that are divided by it would overflow
        return 0.0
    return float(value)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name}: expected a whole number from {least} to {most}.", param=name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else None
    if stops is None or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise Refused(400, f"stop: expected a text, or a list of at most {MAX_STOPS}.", param="stop")
    return tuple(stops)


def _typed(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.pop(name, default)
    if type(value) is not kind:
        raise Refused(400, f"{name}: expected {'text' if kind is str else 'true or false'}.", param=name)
    return value


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    return not isinstance(value, bool) and any(value == one for one in values)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
