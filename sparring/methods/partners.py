"""Partners of the target agent in Co-Evolving Agents: what each kind plays, and what it learns from.

`failure` is the paper's. The others are ablations, and a user's own is named by `package.module:name`.

Source: arXiv 2511.22254, section 4, Eq. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.ranges import LearningRate, Place
from sparring.core.references import Reference, resolve
from sparring.core.types import PairKind, PreferencePair, Task, Trajectory
from sparring.data.late import LateStart, late_failure_pairs
from sparring.data.pairs import check_pairs, expert_pairs, failure_pairs
from sparring.methods.base import Session
from sparring.methods.mistakes import play_mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartnerConfig:
    """The target agent's partner in Co-Evolving Agents."""

    kind: Literal["failure", "frozen", "positive", "scripted"] | Reference = "failure"
    """`failure`: learns to fail ever closer to success (the paper). Ablations: `frozen` stays at its SFT weights;
    `positive` learns to succeed, as a second target agent; `scripted` is no agent, but experts' episodes with one wrong
    action near their end. Or one of yours, `package.module:name` (docs/extending.md)."""
    start: Literal["independent", "shared"] = "independent"
    """`independent`: an SFT of its own, with another seed (paper). `shared`: the target's SFT weights, cheaper."""
    checkpoint: Place | None = None
    """Start at this agent instead: a folder, for instance of a failure agent that learnt in another run or world."""
    lr: LearningRate | None = None
    """The partner's learning rate in preference learning; none: the target's, `dpo.lr`."""
    evaluate: bool = False
    """Play the held-out tasks with the partner too, each round: for the analysis alone."""

    def __post_init__(self) -> None:
        check_values(self)


class Learns(Protocol):
    """Says what a partner learns from in a round."""

    def __call__(
        self,
        session: Session,
        experts: Sequence[Trajectory],
        target: Sequence[Trajectory],
        partner: Sequence[Trajectory],
        late: Sequence[LateStart],
        /,
    ) -> Sequence[PreferencePair]:
        """Return preference pairs.

        Args:
            session: has the config.
            experts: the experts' trajectories.
            target: what the target agent played in the round.
            partner: what the partner played.
            late: what it played from late starts on, with `late.num` above 0.
        """
        ...


class Plays(Protocol):
    """Plays a round in place of an agent."""

    def __call__(
        self,
        session: Session,
        experts: Sequence[Trajectory],
        tasks: Sequence[Task],
        number: int,
        /,
        *,
        is_refreshed: bool = False,
    ) -> list[Trajectory]:
        """Return a round's episodes; `is_refreshed` is as in `Session.rollout`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PartnerKind:
    """What a partner is."""

    learns: Learns | None = None
    """What it learns from each round; none: it never learns."""
    plays: Plays | None = None
    """Plays in its place; none: it is an agent with weights, which rolls out as the target agent does."""

    def check(self, config: PartnerConfig, num_late: int) -> None:
        """Refuse what a partner without weights can't do.

        Raises:
            ConfigError: it has a checkpoint, is evaluated, or plays on from late starts.
        """
        if self.plays is None:
            return
        wanted = {"partner.checkpoint": config.checkpoint, "partner.evaluate": config.evaluate, "late.num": num_late}
        if key := next((key for key, value in wanted.items() if value), None):
            raise ConfigError(f"{key}: a {config.kind} partner has no weights to play with. Leave it out.")


def near_misses(
    session: Session,
    experts: Sequence[Trajectory],
    target: Sequence[Trajectory],
    partner: Sequence[Trajectory],
    late: Sequence[LateStart],
) -> list[PreferencePair]:
    """Pair failures of both agents, and the partner's own that share a late start: D_fail (Eq. 6)."""
    config = session.config
    d_fail = failure_pairs(target, partner, config.pairs, pair_scope=config.fail.pair_scope)
    return [*d_fail, *late_failure_pairs(late, config.pairs)]


def successes(
    session: Session,
    experts: Sequence[Trajectory],
    target: Sequence[Trajectory],
    partner: Sequence[Trajectory],
    late: Sequence[LateStart],
) -> list[PreferencePair]:
    """Pair experts with what the partner played, as ETO's agent learns."""
    return expert_pairs(experts, partner, PairKind.EXPERT_PARTNER, session.config.pairs)


PARTNERS: Mapping[str, PartnerKind] = {
    "failure": PartnerKind(learns=near_misses),
    "positive": PartnerKind(learns=successes),
    "frozen": PartnerKind(),
    "scripted": PartnerKind(plays=play_mistakes),
}
"""`partner.kind` → what it is."""


def find_partner(kind: str) -> PartnerKind:
    """Return a kind of partner: a known one, or a user's: a `PartnerKind`, or a function that says what it learns from.

    Raises:
        ConfigError: it can't be imported, or is neither.
    """
    if kind in PARTNERS:
        return PARTNERS[kind]
    found: Any = resolve(kind, key="partner.kind")
    if isinstance(found, PartnerKind):
        return found
    if not callable(found):
        raise ConfigError(f"partner.kind: {kind!r} is a {type(found).__name__}, not a PartnerKind or a function.")
    learns: Callable[..., Any] = found
    return PartnerKind(learns=lambda *arguments: check_pairs(learns(*arguments), f"partner.kind: {kind}"))
