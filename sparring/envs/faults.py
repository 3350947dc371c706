"""What a world's code did wrong, in one line: an exception's type, message and line, or an answer of another type."""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparring.core.errors import ConfigError, SparringError, quote

if TYPE_CHECKING:
    from sparring.envs.base import Env, EnvStep

MAX_MESSAGE = 300
"""Most characters of an exception's message that are passed on."""

T = TypeVar("T")

_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OURS = tuple(str(Path(__file__).with_name(name)) for name in ("faults.py", "base.py", "pool.py", "worker.py"))


def describe_exception(error: BaseException) -> str:
    """Return for instance `KeyError: 'goal' (mine.py:34, in step)`: the innermost line that is no library's."""
    if isinstance(error, SparringError):
        return str(error)
    message = " ".join(str(error).split())
    message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, *_OURS, "<frozen"))] or frames
    where = f" ({_shown(own[-1].filename)}:{own[-1].lineno}, in {own[-1].name})" if own else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def told(what: str, call: Callable[[], T]) -> T:
    """Return what a world answers when it is asked for what it is made of.

    Args:
        what: the question, for instance `tasks('train')`.
        call: asks it.

    Raises:
        ConfigError: the world raised, or wanted to exit; Sparring's own errors pass.
    """
    try:
        return call()
    except SparringError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"env.id: the world's {what} raised {describe_exception(error)}.") from error


def checked_observation(env: Env, answer: object) -> str:
    """Return what `reset` gave.

    Raises:
        ConfigError: it is no text: a mistake in the env, that no fresh start mends.
    """
    if not isinstance(answer, str):
        raise ConfigError(f"env.id: {_method(env, 'reset')} gave {_shape(answer)}, not text. {_remedy(answer, RESET)}")
    return answer


def checked_step(env: Env, answer: Any, kind: type[EnvStep]) -> EnvStep:
    """Return what `step` gave.

    Raises:
        ConfigError: it is no `EnvStep`, or one whose parts have other types: a mistake in the env, that no fresh start
            mends.
    """
    step = _method(env, "step")
    if not isinstance(answer, kind):
        what = "not an EnvStep(observation, reward, is_done)"
        raise ConfigError(f"env.id: {step} gave {_shape(answer)}, {what}. {_remedy(answer, STEP)}")
    if not isinstance(answer.observation, str):
        what = _shape(answer.observation)
        raise ConfigError(f"env.id: {step} gave {what} as the observation, not text. {_remedy(None, OBSERVATION)}")
    if not isinstance(answer.reward, Real) or not math.isfinite(answer.reward):
        shown = quote(answer.reward) if isinstance(answer.reward, Real | str) else _shape(answer.reward)
        raise ConfigError(f"env.id: {step} gave {shown} as the reward, not a finite number. {REWARD}")
    if not isinstance(answer.is_done, int) and type(answer.is_done).__name__ not in ("bool", "bool_"):
        raise ConfigError(f"env.id: {step} gave {_shape(answer.is_done)} as is_done. It must be True or False.")
    return answer


RESET = "Return the first observation, a str."
STEP = "Return sparring.EnvStep(observation=…, reward=…, is_done=…)."
OBSERVATION = 'Write what the agent is to read as a str; where there is nothing to say, "".'
REWARD = "Where a step earns nothing, its reward is 0; float(…) makes a number of an array or a tensor."
ADAPTER = 'Or play it through an adapter: env.id = "{}" (docs/adapters.md).'


def _remedy(answer: object, ours: str) -> str:
    """Say what to return instead, and which adapter takes what was returned."""
    adapter = ""
    if isinstance(answer, tuple):
        adapter = {(5, STEP): "gymnasium", (2, RESET): "gymnasium", (2, STEP): "textarena"}.get((len(answer), ours), "")
    elif isinstance(answer, dict):
        adapter = "gymnasium" if ours == RESET else ""
    elif hasattr(answer, "observation") and hasattr(answer, "done"):
        adapter = "openenv"
    return f"{ours} {ADAPTER.format(adapter)}" if adapter else ours


def _shape(answer: object) -> str:
    """Say what something is, without its content: `None`, `a tuple of 5 (str, float, bool, bool, dict)`."""
    if answer is None:
        return "None"
    kind = type(answer).__name__
    if isinstance(answer, tuple | list):
        parts = ", ".join(type(one).__name__ for one in answer[:6])
        return f"a {kind} of {len(answer)} ({parts}{', …' if len(answer) > 6 else ''})"
    if isinstance(answer, dict):
        return f"a dict with the keys {quote(', '.join(map(str, answer)), bare=True)}"
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _method(env: Env, name: str) -> str:
    code = getattr(getattr(type(env), name, None), "__code__", None)
    where = f" ({_shown(code.co_filename)}:{code.co_firstlineno})" if code else ""
    return f"{type(env).__name__}.{name}{where}"


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
