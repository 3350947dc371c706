"""What is read from the `bfcl-eval` wheel: its tasks, references, function docs, API classes and checker.

Comes in: a name. Goes out: data as the wheel has it, cached; nobody may change what is returned. The wheel is installed
without its dependencies: of its code only the APIs and the checker are imported, which need the standard library and
`mpmath` alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, DataError

INSTALL_COMMAND = "pip install --no-deps bfcl-eval==2026.3.23 mpmath"
"""With its dependencies the wheel brings 150 packages that nothing here needs, CUDA and an older numpy among them."""

VARIANTS = ("base", "long_context", "miss_func", "miss_param")
"""The four kinds of multi-turn task; each has the same 200 scenarios, numbered 0 to 199."""

API_FILES: Mapping[str, str] = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
"""The eight APIs → what their module and their file of function docs are called."""

_TURNS = "bfcl_eval.eval_checker.multi_turn_eval"


def find_wheel() -> Path:
    """Return the folder of the installed `bfcl_eval` package, without importing it.

    Raises:
        ConfigError: it or mpmath is not installed.
    """
    for module in ("mpmath", "bfcl_eval"):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ConfigError(f"BFCL needs the {module.replace('_', '-')} package. Install it with: {INSTALL_COMMAND}")
    return Path(spec.origin).parent


@cache
def entries(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """Return a variant's 200 tasks, without their references: id → entry."""
    return _by_id(find_wheel() / "data" / f"BFCL_v4_multi_turn_{variant}.json")


@cache
def references(variant: str) -> Mapping[str, Sequence[Sequence[str]]]:
    """Return a variant's ground truth: id → for each user turn its calls."""
    file = find_wheel() / "data" / "possible_answer" / f"BFCL_v4_multi_turn_{variant}.json"
    return {id: entry["ground_truth"] for id, entry in _by_id(file).items()}


@cache
def function_docs(api: str) -> Sequence[Mapping[str, Any]]:
    """Return the docs of an API's functions, each a JSON schema, in the benchmark's order."""
    return [doc for _, doc in _read_lines(find_wheel() / "data" / "multi_turn_func_doc" / f"{API_FILES[api]}.json")]


@cache
def api_class(api: str) -> type:
    """Import an API's class."""
    return getattr(_import(f"{_TURNS}.func_source_code.{API_FILES[api]}"), api)


@cache
def arguments(api: str, function: str) -> Mapping[str, Any]:
    """Return a function's arguments in the order its code takes them (one function's docs have another), each with its
    default, or `inspect.Parameter.empty`."""
    _, *parameters = inspect.signature(getattr(api_class(api), function)).parameters.values()
    return {one.name: one.default for one in parameters}


@cache
def weather() -> dict[str, Any]:
    """Return the one module-level table that an API writes to; see `live.py`."""
    return _import(f"{_TURNS}.func_source_code.long_context").LONG_WEATHER_EXTENSION


@cache
def checkers() -> tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]]]:
    """Return the benchmark's own checks of a user turn: of the APIs' state, and of what the calls returned."""
    module = _import(f"{_TURNS}.multi_turn_checker")
    return module.state_checker, module.response_checker


@cache
def announcement() -> str:
    """Return what the benchmark's user says when functions are added."""
    return _import("bfcl_eval.constants.default_prompts").DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC


def _import(name: str) -> Any:
    find_wheel()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"BFCL: {name} can't be imported ({error}). Install it again: {INSTALL_COMMAND}") from None


def _by_id(file: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for line, entry in _read_lines(file):
        if not isinstance(entry, dict) or "id" not in entry:
            raise DataError(f"{file}: line {line} is no task. Install the wheel again: {INSTALL_COMMAND}")
        found[entry["id"]] = entry
    return found


def _read_lines(file: Path) -> list[tuple[int, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}). Install the wheel: {INSTALL_COMMAND}") from None
    read = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            read.append((number, json.loads(line)))
        except ValueError as error:
            raise DataError(
                f"{file}: line {number} is not JSON ({error}). Install the wheel again: {INSTALL_COMMAND}"
            ) from None
    return read
