"""The known methods by the names that recipes give them, and a user's own by `package.module:name`.

A new method of Sparring's is a file of its own, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from sparring.core.convert import convert, suggest
from sparring.core.errors import ConfigError, quote
from sparring.core.references import Reference, resolve, short_name
from sparring.methods.base import Agent, Session
from sparring.methods.coevolve import coevolve
from sparring.methods.coevolving_agents import coevolving_agents
from sparring.methods.coevolving_agents_and_tasks import coevolving_agents_and_tasks
from sparring.methods.eto import eto
from sparring.methods.grpo import grpo
from sparring.methods.ipr import ipr
from sparring.methods.ppo import ppo
from sparring.methods.prefer import prefer
from sparring.methods.rft import rft
from sparring.methods.sft import sft
from sparring.methods.zero_shot import zero_shot


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An algorithm, and what must be known of it before it runs."""

    run: Callable[[Session], Agent]
    label: str
    """The name that tables show."""
    trains: bool = True
    """It changes weights."""
    num_agents: int = 1
    """Agents whose weights are needed by turns, included a partner, or the start: a KL term or IPR's steps ask it."""
    has_partner: bool = False
    """It trains a second agent, whose start `partner.checkpoint` may name."""
    is_on_policy: bool = False
    """It learns from the log-probabilities of what it samples, so it can't sample greedily."""
    makes_tasks: bool = False
    """It makes new tasks, which the world must have a part in."""
    may_start_at_base: bool = False
    """With `grpo.start = "base"` it clones no expert."""
    needs_world: bool = True
    """It plays; one that does not takes its data from files."""
    has_initial_tasks: bool = False
    """It begins with D_0, which may come of exploration (`bootstrap.num`)."""


METHODS: Mapping[str, Method] = {
    "zero_shot": Method(run=zero_shot, label="Zero-shot", trains=False),
    "sft": Method(run=sft, label="SFT"),
    "rft": Method(run=rft, label="RFT"),
    "eto": Method(run=eto, label="ETO"),
    "ipr": Method(run=ipr, label="IPR", num_agents=2),
    "coevolving_agents": Method(run=coevolving_agents, label="Co-Evolving Agents", num_agents=2, has_partner=True),
    "prefer": Method(run=prefer, label="Preferences", needs_world=False),
    "ppo": Method(run=ppo, label="PPO", num_agents=2, is_on_policy=True),
    "grpo": Method(
        run=grpo, label="GRPO", num_agents=2, is_on_policy=True, may_start_at_base=True, has_initial_tasks=True
    ),
    "coevolve": Method(
        run=coevolve,
        label="CoEvolve",
        num_agents=2,
        is_on_policy=True,
        makes_tasks=True,
        may_start_at_base=True,
        has_initial_tasks=True,
    ),
    "coevolving_agents_and_tasks": Method(
        run=coevolving_agents_and_tasks,
        label="Co-Evolving Agents and Tasks",
        num_agents=2,
        has_partner=True,
        makes_tasks=True,
        has_initial_tasks=True,
    ),
}


def find_method(name: str, *, where: str = "") -> Method:
    """Return a known method, or a user's: a function of a session, or a `Method`, named by `package.module:name`.

    Args:
        name: as a recipe gives it.
        where: put before messages.

    Raises:
        ConfigError: there is none of that name, or it can't be imported.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        hint = f"{suggest(name, METHODS)} One of yours: package.module:function."
        raise ConfigError(f"{where}method: unknown method {quote(name)}. {hint}")
    convert(name, Reference, where=f"{where}method")
    found = resolve(name, key=f"{where}method")
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise ConfigError(f"{where}method: {name!r} is a {type(found).__name__}, not a function of a session.")
    return Method(run=cast("Callable[[Session], Agent]", found), label=short_name(name))
