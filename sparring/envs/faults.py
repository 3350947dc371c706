"""What a world's code did wrong, in one line: an exception's type, message and line, or an answer of another type."""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparring.core.errors import ConfigError, EnvFault, SparringError, quote

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
        EnvFault: it is no text.
    """
    if not isinstance(answer, str):
        raise EnvFault(f"{_method(env, 'reset')} gave a {type(answer).__name__}, not text.")
    return answer


def checked_step(env: Env, answer: Any, kind: type[EnvStep]) -> EnvStep:
    """Return what `step` gave.

    Raises:
        EnvFault: it is no `EnvStep`, or one whose parts have other types.
    """
    if not isinstance(answer, kind):
        raise EnvFault(
            f"{_method(env, 'step')} gave a {type(answer).__name__}, not an EnvStep(observation, reward, is_done)."
        )
    if not isinstance(answer.observation, str):
        raise EnvFault(f"{_method(env, 'step')} gave an observation of type {type(answer.observation).__name__}.")
    if not isinstance(answer.reward, Real) or not math.isfinite(answer.reward):
        raise EnvFault(f"{_method(env, 'step')} gave the reward {quote(answer.reward)}, not a finite number.")
    return answer


def _method(env: Env, name: str) -> str:
    code = getattr(getattr(type(env), name, None), "__code__", None)
    where = f" ({_shown(code.co_filename)}:{code.co_firstlineno})" if code else ""
    return f"{type(env).__name__}.{name}{where}"


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
