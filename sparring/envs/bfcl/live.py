"""One episode's own APIs: calls in, results as text out. Nothing outlives them and nothing leaks between them.

The benchmark keeps API instances in module globals that are never cleared, and some APIs write to tables and to default
arguments that all instances share. Here each episode gets fresh instances, cut loose from every shared table; what a
call changes elsewhere (mpmath's and decimal's precision, a weather table) is put back before it returns.

Functions are looked up by name among those the benchmark documents. Calls whose cost could run away (powers,
precisions, directories copied into themselves) are refused with an error text. Any exception is a result, as in the
benchmark.
"""

from __future__ import annotations

import copy
import decimal
import importlib
import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparring.core.errors import DataError
from sparring.envs.bfcl.calls import Call
from sparring.envs.bfcl.scenario import Scenario
from sparring.envs.bfcl.wheel import api_class, arguments, function_docs, weather

MAX_PRECISION = 200
"""Most digits that mathematical functions work with; references ask for 10 at most."""
MAX_POWER_BITS = 20_000
"""Size from which the power of whole numbers is refused; Python prints none of more than 14,300 bits anyway."""
MAX_FILES = 5_000
"""Most files and directories, counted along every path, that a walk over the file system may meet."""
MAX_PATH_CHARS = 500_000
"""Most characters that the paths of all of them may have."""

SET_IN_TEXT = re.compile(r"(?<=Must be one of \{)[^}]*|(?<=Invalid fields for update: ).*", re.DOTALL)
"""What messages spell out of a set: its order differs from process to process."""

_SHARED = threading.Lock()


class LiveApis:
    """The APIs of one scenario, in the state it starts in."""

    def __init__(self, scenario: Scenario) -> None:
        """Build the APIs.

        Raises:
            DataError: an API can't be brought into its initial state.
        """
        self.instances: dict[str, Any] = {}
        self._functions: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {}
        for api in scenario.apis:
            instance = self.instances[api] = _start(api, scenario)
            for name in (doc["name"] for doc in function_docs(api)):
                self._functions[name] = getattr(instance, name), arguments(api, name)

    def call(self, call: Call) -> str:
        """Play a call and return its result as text, in the benchmark's words."""
        if call.problem:
            return _error(call.problem)
        if call.name not in self._functions:
            return _error(f"name {call.name!r} is not defined")
        function, defaults = self._functions[call.name]
        try:
            if problem := self._too_costly(call.name, {**dict(zip(defaults, call.args, strict=False)), **call.kwargs}):
                return _error(problem)
            # A function would keep its default lists and share them with everyone.
            left = {name: value for name, value in list(defaults.items())[len(call.args) :] if isinstance(value, list)}
            args, kwargs = copy.deepcopy((call.args, {**left, **call.kwargs}))
            with _nothing_shared(call.name):
                return _as_text(function(*args, **kwargs))
        except Exception as error:  # the benchmark's boundary: whatever a call raises is its result
            return _error(str(error))

    def _too_costly(self, name: str, given: Mapping[str, Any]) -> str:
        """Say why a call is refused before it is played; empty: it is not."""
        if name in ("find", "du", "cp", "mv"):
            return _too_many_files(self.instances["GorillaFileSystem"])
        if name in ("logarithm", "square_root"):
            if not all(isinstance(value, int | float) for value in given.values()):
                return "numbers are needed"
            return _outside("precision", given, 1, MAX_PRECISION)
        if name == "round_number":
            return _outside("decimal_places", given, -MAX_PRECISION, MAX_PRECISION)
        if name == "power":
            base, exponent = given.get("base"), given.get("exponent")
            if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MAX_POWER_BITS:
                return "the result is too large"
        return ""


def _start(api: str, scenario: Scenario) -> Any:
    instance = api_class(api)()
    if hasattr(instance, "_load_scenario"):
        config = copy.deepcopy(scenario.initial_config.get(api, {}))
        try:
            instance._load_scenario(config, long_context=scenario.is_long)
        except Exception as error:  # whatever is wrong with the config is the task's fault
            raise DataError(
                f"BFCL: {api} can't start from its initial_config ({type(error).__name__}: {error})."
            ) from None
    # With the long context it holds tables of its module, which calls would change. A generator is its own already, and
    # slow to copy.
    own = {id(value): value for value in vars(instance).values() if isinstance(value, random.Random)}
    return copy.deepcopy(instance, own)


@contextmanager
def _nothing_shared(function: str) -> Iterator[None]:
    """Put back what the few functions that change something outside their instance have changed."""
    if function == "square_root":
        with decimal.localcontext():
            yield
    elif function == "logarithm":
        mpmath = importlib.import_module("mpmath")
        with _SHARED, mpmath.workdps(mpmath.mp.dps):
            yield
    elif function == "get_outside_temperature_from_google":
        with _SHARED:
            table, before = weather(), dict(weather())
            try:
                yield
            finally:
                table.clear()
                table.update(before)
    else:
        yield


def _as_text(result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        if isinstance(error := result.get("error"), str):
            result = {**result, "error": SET_IN_TEXT.sub(_in_order, error)}
        try:
            return json.dumps(result)
        except (TypeError, ValueError):  # mpmath's and decimal's numbers
            return str(result)
    return str(result)


def _in_order(match: re.Match[str]) -> str:
    return ", ".join(sorted(match[0].split(", ")))


def _error(message: str) -> str:
    return f"Error during execution: {message}"


def _outside(name: str, given: Mapping[str, Any], low: int, high: int) -> str:
    value = given.get(name)
    return f"{name} must be from {low} to {high}" if isinstance(value, int | float) and not low <= value <= high else ""


def _too_many_files(files: Any) -> str:
    """Walk the file system as `find` does. Copies share what is in them, so a few calls make it grow without end."""
    num = num_chars = 0
    waiting = [(files.root, 0), (files._current_dir, 0)]
    while waiting:
        directory, num_before = waiting.pop()
        for name, item in directory.contents.items():
            length = num_before + len(name) + 1
            num, num_chars = num + 1, num_chars + length
            if hasattr(item, "contents"):
                waiting.append((item, length))
        if num > MAX_FILES or num_chars > MAX_PATH_CHARS:
            return "the file system is full"
    return ""
