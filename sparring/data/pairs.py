"""Trajectories of a round come in, preference pairs go out: one pure function per rule of the papers.

Order is deterministic: tasks in the order in which they first appear, then chosen candidates, then rejected ones.

Paper: arXiv 2511.22254 (Co-Evolving Agents), section 4, Eq. 6 and 8; arXiv 2403.02502 (ETO) where it is silent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Literal, Protocol

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.filters import actions, by_task, dedupe, failures, num_shared, successes, usable
from sparring.core.ranges import Count, CountOrZero, Share, ShareBelowOne
from sparring.core.references import Reference, resolve_function
from sparring.core.types import PairKind, PreferencePair, Trajectory

ROUNDING = 1e-9
"""Slack when rewards are compared: 0.29 - 0.28 is a gap of 0.01, whatever the last bit of the difference says."""

_BEATEN = {PairKind.EXPERT_TARGET: PairKind.TARGET_EXPERT, PairKind.EXPERT_PARTNER: PairKind.PARTNER_EXPERT}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """How preference pairs are made from trajectories."""

    min_gap: Share = 0.01
    """Two rewards closer than this are a tie, and a tie makes no pair."""
    dedupe: bool = True
    """Keep one trajectory per agent, task and action sequence, and one pair per pair of action sequences."""
    expert_beaten: Literal["choose_agent", "skip"] = "choose_agent"
    """What becomes of a target trajectory that beats the expert's: it is chosen (ETO), or makes no pair."""
    max_extra_turns: CountOrZero | None = 5
    """The rejected side counts at most this many turns more than the chosen one (ETO); none: all its turns count."""
    spare_endings: bool = False
    """The last actions that both sides share, such as `submit`, are not held against the rejected one. Else an agent
    may learn to leave its episodes open rather than to end them with a wrong answer."""
    success_eps: ShareBelowOne = 1e-6
    """A reward of at least one minus this is a success."""
    min_partner_reward: Share = 0.0
    """What the partner plays below it makes no pairs for the target agent (the paper's hard negatives: 0.6 to 0.8)."""
    rule: Literal["paper"] | Reference = "paper"
    """Which pairs the target agent learns from: those of the method's paper, or of your own rule,
    `package.module:function` (ETO, Co-Evolving Agents; docs/extending.md)."""
    num_pairs: Count | None = None
    """Draw this many of the target's pairs each round (all where there are fewer), so that methods can be compared at
    equal numbers; none: all."""

    def __post_init__(self) -> None:
        check_values(self)


class PairRule(Protocol):
    """Says which pairs the target agent learns from in a round; named by `pairs.rule`."""

    def __call__(
        self,
        experts: Sequence[Trajectory],
        target: Sequence[Trajectory],
        partner: Sequence[Trajectory],
        config: PairConfig,
        /,
    ) -> Sequence[PreferencePair]:
        """Pair trajectories.

        Args:
            experts: the experts' trajectories of training tasks.
            target: what the target agent played in the round, broken episodes included.
            partner: what its partner played; empty where it has none.
            config: the section `pairs`.
        """
        ...


def choose_rule(config: PairConfig, paper: PairRule) -> PairRule:
    """Return the rule that `pairs.rule` names; `paper` is the method's own.

    Raises:
        ConfigError: the user's can't be imported.
    """
    if config.rule == "paper":
        return paper
    own = resolve_function(config.rule, key="pairs.rule")
    return lambda *arguments: check_pairs(own(*arguments), f"pairs.rule: {config.rule}")


def check_pairs(found: Any, where: str) -> list[PreferencePair]:
    """Return what a user's function gave, if it is preference pairs.

    Raises:
        ConfigError: it is something else.
    """
    pairs = list(found) if isinstance(found, Iterable) else [found]
    odd = [pair for pair in pairs if not isinstance(pair, PreferencePair)]
    if odd:
        raise ConfigError(f"{where} gives a {type(odd[0]).__name__}, where PreferencePairs are expected.")
    return pairs


def rejected_turns(num_chosen: int, num_rejected: int, max_extra_turns: int | None) -> int:
    """Count the turns of the rejected side that enter the loss: min(rejected, chosen + extra).

    7 chosen and 30 rejected turns with 5 extra count 12; 7 and 9 count 9.

    Source: ETO's code, which cuts so; it hides the five, here it has a name.
    """
    return num_rejected if max_extra_turns is None else min(num_rejected, num_chosen + max_extra_turns)


def without_shared_ending(chosen: Trajectory, rejected: Trajectory) -> int:
    """Count the turns of the rejected side up to the last actions that both took; where the two part is always counted.

    "a, x, submit" over "b, submit" leaves b. "a, x, submit" over "a, submit" leaves both turns: it submits too early.
    """
    ours, theirs = actions(chosen), actions(rejected)
    return max(num_shared(ours, theirs) + 1, len(theirs) - num_shared(ours[::-1], theirs[::-1]))


def prefers(better: Trajectory, worse: Trajectory, min_gap: float) -> bool:
    """Say whether `better` leads by `min_gap` or more; equal rewards never do, even with a `min_gap` of zero.

    0.29 over 0.28 leads with 0.01; 0.285 over 0.28 is a tie.
    """
    gap = better.reward - worse.reward
    return gap > ROUNDING and gap >= min_gap - ROUNDING


def make_pair(kind: PairKind, chosen: Trajectory, rejected: Trajectory, config: PairConfig) -> PreferencePair:
    """Pair two trajectories of one task, the rejected one cut."""
    assert chosen.task.id == rejected.task.id, "a pair compares trajectories of one task"
    num_chosen = len(chosen.turns)
    num_rejected = rejected_turns(num_chosen, len(rejected.turns), config.max_extra_turns)
    if config.spare_endings:
        num_rejected = min(num_rejected, without_shared_ending(chosen, rejected))
    return PreferencePair(
        kind=kind, chosen=chosen, rejected=rejected, chosen_turns=num_chosen, rejected_turns=num_rejected
    )


def failure_pairs(
    target: Iterable[Trajectory],
    partner: Iterable[Trajectory],
    config: PairConfig,
    *,
    pair_scope: Literal["cross", "all"] = "cross",
) -> list[PreferencePair]:
    """Pair failures of the same task, the higher reward chosen: D_fail.

    Target failures .2 and .6 and partner failure .4 of one task make (.4 over .2) and (.6 over .4), across agents; with
    scope `all` also (.6 over .2). Successes and broken episodes are dropped here, so no caller can let one in.

    Args:
        target: the target agent's trajectories of the round, in any number per task.
        partner: the partner's.
        pair_scope: `cross` pairs F_tgt with F_fail, either way round; `all` pairs any two failures.

    Source: arXiv 2511.22254, Eq. 6.
    """
    sides = [failures(side, config.success_eps) for side in (target, partner)]
    ours, theirs = (by_task(dedupe(side) if config.dedupe else side) for side in sides)
    pairs: list[PreferencePair] = []
    for task_id in dict.fromkeys([*ours, *theirs]):
        own, other = ours.get(task_id, []), theirs.get(task_id, [])
        pairs += compare(product(own, other) if pair_scope == "cross" else combinations([*own, *other], 2), config)
    return distinct(pairs) if config.dedupe else pairs


def compare(candidates: Iterable[tuple[Trajectory, Trajectory]], config: PairConfig) -> list[PreferencePair]:
    """Pair two failures of a task each, the higher reward chosen; a tie makes no pair."""
    pairs: list[PreferencePair] = []
    for a, b in candidates:
        if prefers(a, b, config.min_gap):
            pairs.append(make_pair(PairKind.FAILURE_FAILURE, a, b, config))
        elif prefers(b, a, config.min_gap):
            pairs.append(make_pair(PairKind.FAILURE_FAILURE, b, a, config))
    return pairs


def adopt_successes(
    experts: Sequence[Trajectory], trajectories: Iterable[Trajectory], success_eps: float = 1e-6
) -> list[Trajectory]:
    """Give each task without an expert trajectory the agents' shortest success, where there is one.

    Task A has an expert, tasks B and C have none; a success on A changes nothing, of two on B the one with fewer turns
    is adopted (the first of equals), failures on C leave C without.

    Source: ours, for few demonstrations and many tasks; the papers have an expert for every training task.
    """
    taught = {expert.task.id for expert in experts}
    found = by_task(t for t in successes(trajectories, success_eps) if t.task.id not in taught)
    return [*experts, *(min(candidates, key=lambda t: len(t.turns)) for candidates in found.values())]


def expert_pairs(
    experts: Iterable[Trajectory],
    trajectories: Iterable[Trajectory],
    kind: PairKind,
    config: PairConfig,
    *,
    expert_beaten: Literal["choose_agent", "skip"] | None = None,
) -> list[PreferencePair]:
    """Pair the expert's trajectory with the agent's of the same task: expert over agent.

    Expert .8 with agent .3, .8 and 1.0: (expert over .3), nothing, (1.0 over expert) or with `skip` nothing. The
    expert's reward is the recorded one, never taken to be 1.

    Args:
        kind: `EXPERT_TARGET` or `EXPERT_PARTNER`; where the agent is chosen the pair gets the reverse kind.
        expert_beaten: overrides the config's rule.

    Source: arXiv 2403.02502 (ETO), section 3.2; arXiv 2511.22254, Eq. 8, first two sets.
    """
    assert kind in _BEATEN, f"not an expert kind: {kind}"
    expert_beaten = expert_beaten or config.expert_beaten
    gold, played = (by_task(dedupe(s) if config.dedupe else s) for s in (usable(experts), usable(trajectories)))
    pairs: list[PreferencePair] = []
    for task_id, rollouts in played.items():
        for expert, rollout in product(gold.get(task_id, []), rollouts):
            if prefers(expert, rollout, config.min_gap):
                pairs.append(make_pair(kind, expert, rollout, config))
            elif expert_beaten == "choose_agent" and prefers(rollout, expert, config.min_gap):
                pairs.append(make_pair(_BEATEN[kind], rollout, expert, config))
    return distinct(pairs) if config.dedupe else pairs


def target_pairs(
    experts: Sequence[Trajectory],
    target: Sequence[Trajectory],
    partner: Sequence[Trajectory],
    config: PairConfig,
    *,
    pair_scope: Literal["cross", "all"] = "cross",
) -> list[PreferencePair]:
    """Unite the three sets that the target agent learns from: D_tgt.

    Expert 1.0, target .6 and partner .4 of one task make (expert over target), (expert over partner), (target over
    partner). A union is a set: where both agents played the same actions, the expert is paired with them once.

    Source: arXiv 2511.22254, Eq. 8.
    Deviates: a partner that beats the expert makes no pair (the paper says nothing; its task is to fail).
    """
    partner = [one for one in partner if one.reward >= config.min_partner_reward - ROUNDING]
    pairs = expert_pairs(experts, target, PairKind.EXPERT_TARGET, config)
    pairs += expert_pairs(experts, partner, PairKind.EXPERT_PARTNER, config, expert_beaten="skip")
    pairs += failure_pairs(target, partner, config, pair_scope=pair_scope)
    return distinct(pairs) if config.dedupe else pairs


def distinct(pairs: Iterable[PreferencePair]) -> list[PreferencePair]:
    """Keep the first pair per task and pair of action sequences."""
    first: dict[tuple[str, tuple[str, ...], tuple[str, ...]], PreferencePair] = {}
    for pair in pairs:
        first.setdefault((pair.chosen.task.id, actions(pair.chosen), actions(pair.rejected)), pair)
    return list(first.values())


def count_kinds(pairs: Iterable[PreferencePair]) -> Mapping[PairKind, int]:
    """Count pairs per kind, kinds that do not occur included."""
    counts = Counter(pair.kind for pair in pairs)
    return {kind: counts[kind] for kind in PairKind}


def subsample(pairs: Sequence[PreferencePair], num_pairs: int, seed: int) -> list[PreferencePair]:
    """Draw `num_pairs` pairs without replacement, order kept; all of them where there are no more.

    For the matched comparison, in which every method's target agent sees the same number of pairs.
    """
    if len(pairs) <= num_pairs:
        return list(pairs)
    return [pairs[i] for i in sorted(random.Random(seed).sample(range(len(pairs)), num_pairs))]
