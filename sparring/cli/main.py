"""The command line: `sparring COMMAND …`.

An error that the user can mend is one message on standard error, without a traceback. Exit codes: 0 done; 2 the recipe,
the options, a data file or a model folder is wrong; 1 anything else went wrong; 130 interrupted.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from sparring.core import numerics
from sparring.core.errors import ConfigError, DataError, ModelError, SparringError, quote

COMMANDS: Mapping[str, str] = {
    "quickstart": "train the agents on ScienceWorld in about eight minutes, and write a report",
    "run": "run a recipe: train every arm with every seed, evaluate, and write a report",
    "eval": "play a split of a world with one or more models: mean reward and success, with 95 % intervals",
    "rollout": "play a world with a model, its expert or random actions, and write the trajectories",
    "report": "rebuild the report of a run's folder",
    "merge": "add an adapter's weights to its base model's, and write a plain Hugging Face folder",
    "export": "write a run's preference pairs or trajectories as data for TRL, `datasets` and others",
    "recipes": "list the recipes that come with Sparring, or copy one to edit it",
    "push": "upload a checkpoint to the Hugging Face Hub, with a model card",
    "check-env": "check a world: determinism, resets that forget, odd actions, rewards, splits, experts, processes",
    "serve": "serve a model as OpenAI's chat completions, for frameworks that drive it, and record what they play",
    "envs": "list the worlds: what works on this machine, and how to get what does not",
}
"""Subcommands, with what they do."""

OVERVIEW = """\
Sparring trains language-model agents on their own near misses.

  sparring quickstart                           the whole loop in minutes
  sparring recipes                              what else comes with Sparring
  sparring run RECIPE --out DIR --dpo.lr 2e-5   any key of the config can be overridden

{commands}

sparring COMMAND --help   a command's options, with defaults and units
sparring --version        the version
"""

RUNNING = ("run", "quickstart")
"""Subcommands that run a recipe: they go on where they were stopped, and ranks take part in them."""

MAX_MESSAGE = 4000
"""Most characters of a message: values in it are bounded already, so this is for what other programs say."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit the process with its exit code."""
    numerics.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    has_ranks = "TORCHELASTIC_RUN_ID" in os.environ
    try:
        _dispatch(words)
    except SparringError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError | DataError | ModelError) else 1)
    except KeyboardInterrupt:
        started = ["torchrun", "…", "-m", "sparring"] if has_ranks else ["sparring"]
        again = f" {' '.join([*started, shlex.join(words)])}" if words and words[0] in RUNNING else ""
        remedy = f"The same command goes on where it stopped:{again}" if again else "Nothing that was written is lost."
        _fail(f"interrupted. {remedy}", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; Python would complain once more at exit
        sys.exit(1)
    except Exception as error:
        problem = _disk_problem(error)
        if problem is None:
            _crash()
        _fail(problem, 1)
    sys.exit(0)


def _dispatch(words: Sequence[str]) -> None:
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        table = "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
        print(OVERVIEW.format(commands=table), end="")
    elif name in ("-V", "--version"):
        from sparring import __version__

        print(f"sparring {__version__}")
    elif name in COMMANDS:
        from sparring.cli.commands import run_command

        run_command(name, words[1:])
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."
        raise ConfigError(f"unknown command {quote(name)}. {hint}")


def _fail(message: str, code: int) -> NoReturn:
    from sparring.core.terminal import write

    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]} … ({len(message)} characters in all)"
    write(f"sparring: {message}", on_stderr=True)
    sys.exit(code)


def _crash() -> NoReturn:
    """Show the traceback of what should not happen; its message may quote a world."""
    import traceback

    from sparring.core.terminal import write

    write(traceback.format_exc().rstrip(), on_stderr=True)
    sys.exit(1)


def _disk_problem(error: BaseException) -> str | None:
    """Say what the file system refused, if that is at the bottom of this: libraries wrap it in errors of their own."""
    from sparring.core.journal import disk_problem

    for one in _causes(error):
        if problem := disk_problem(one):
            where = getattr(one, "filename", None)
            return f"{where}: {problem}" if where else problem
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
