"""Results come in, what the terminal shows after a run goes out: a table, and lines on the failure agent or pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparring.analysis.statistics import paired_difference, summarise
from sparring.core.filters import counted
from sparring.core.text import printable
from sparring.core.types import Trajectory
from sparring.envs.rewards import describe_odd_rewards
from sparring.report.view import ArmResults, Results, results_from_json

if TYPE_CHECKING:
    from rich.table import Table

NOTHING = "–"
"""Stands where there is no number."""
MAX_NAMED = 4
"""Phases that a line names."""


def reward(value: float | None, *, signed: bool = False) -> str:
    """Write a reward or a difference of rewards: `0.634`, `+0.021`, `−0.021`."""
    if value is None or value != value:
        return NOTHING
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-0.000", "0.000").replace("+0.000", "0.000").replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share: `41 %`."""
    return NOTHING if value is None or value != value else f"{100 * value:.0f} %"


def between(low: float, high: float, *, signed: bool = False, as_percent: bool = False) -> str:
    """Write an interval: `[0.58, 0.69]`, `[−0.01, +0.09]`, `[8, 21]`."""
    if low != low or high != high:
        return ""
    if as_percent:
        return f"[{100 * low:.0f}, {100 * high:.0f}]"
    sign = "+" if signed else ""
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]".replace("+0.00", "0.00").replace("-0.00", "0.00").replace("-", "−")


def summary_table(results: Mapping[str, Any] | Results) -> Table:
    """Lay out the headline: mean reward and success, and paired differences to SFT and ETO, intervals below.

    Args:
        results: the content of `results.json`, or its view.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = results if isinstance(results, Results) else results_from_json(results)
    seeds = f", {view.num_seeds} seeds" if view.num_seeds > 1 else ""
    title = f"{view.name}: {view.num_tasks} held-out tasks ({view.split}){seeds}; 95 % intervals"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("method", "mean reward", "success", *(f"− {other.label}" for other in view.references)):
        table.add_column(Text(name), justify="left" if name == "method" else "right")
    for arm in view.arms.values():
        # Text, not markup: rich would read [0.58, 0.69] as a style.
        cells = [Text.assemble(number, "\n", (interval, "dim")) for number, interval in _cells(view, arm)]
        table.add_row(Text(arm.label), *cells, style="bold" if arm is view.featured and arm.partner else "")
    return table


def _cells(view: Results, arm: ArmResults) -> list[tuple[str, str]]:
    """Return a method's numbers and their intervals."""
    final = arm.final()
    summary = summarise(final, view.success_eps, num_resamples=view.num_resamples)
    cells = [
        (reward(summary.mean), between(summary.ci_low, summary.ci_high)),
        (percent(summary.success), between(summary.success_ci_low, summary.success_ci_high, as_percent=True)),
    ]
    for other in view.references:
        gap = paired_difference(final, other.final(), num_resamples=view.num_resamples)
        if gap.num and view.compares(arm, other):
            cells.append((reward(gap.mean, signed=True), between(gap.low, gap.high, signed=True)))
        else:
            cells.append((NOTHING, ""))
    return cells


def evaluation_table(title: str, played: Mapping[str, Sequence[Trajectory]], *, num_resamples: int) -> Table:
    """Lay out mean reward and success of models that played the same tasks, and differences to the first one.

    Args:
        title: what was played.
        played: model → trajectories.
        num_resamples: of the 95 % intervals.
    """
    from rich.table import Table
    from rich.text import Text

    rewards = {
        model: {0: {t.task.id: t.reward for t in counted(trajectories)}} for model, trajectories in played.items()
    }
    table = Table(title=f"{title}, 95 % intervals over tasks")
    for column in ("model", "mean reward", "success", "tasks", "broken"):
        table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
    first = next(iter(rewards.values()))
    if len(rewards) > 1:
        table.add_column("− first (paired)", justify="right")
    for model, trajectories in played.items():
        found = summarise(rewards[model], num_resamples=num_resamples)
        cells = [
            model,
            f"{reward(found.mean)} {between(found.ci_low, found.ci_high)}",
            f"{percent(found.success)} {between(found.success_ci_low, found.success_ci_high, as_percent=True)}",
            str(found.num),
            str(len(trajectories) - found.num),
        ]
        if len(rewards) > 1:
            gap = paired_difference(rewards[model], first, num_resamples=num_resamples)
            interval = between(gap.low, gap.high, signed=True)
            cells.append("–" if rewards[model] is first else f"{reward(gap.mean, signed=True)} {interval}")
        table.add_row(*map(Text, cells))
    return table


def broken_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Say how many episodes infrastructure broke, and where; nothing where none were."""
    broken = results.broken if isinstance(results, Results) else results.get("broken", {})
    if not broken.get("num"):
        return []
    where = ", ".join(f"{name} ({num})" for name, num in list(broken["phases"].items())[:MAX_NAMED])
    more = len(broken["phases"]) - MAX_NAMED
    return [
        f"Broken by infrastructure: {broken['num']} of {broken['episodes']} episodes "
        f"({100 * broken['share']:.1f} %), which count nowhere: {where}{f' and {more} more' if more > 0 else ''}."
    ]


def odd_reward_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Say in how many episodes the world's rewards look like a mistake; nothing where they do in none."""
    odd = results.odd_rewards if isinstance(results, Results) else results.get("odd_rewards", {})
    return describe_odd_rewards(odd, printable(odd["world"]), odd["episodes"]) if odd else []


def contribution_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Say in three lines what the failure agent contributed; nothing where no arm has a partner.

    Its failures' mean reward by round beside the target's, its share of hard negatives, and what became of the pairs
    in which failures meet.
    """
    view = results if isinstance(results, Results) else results_from_json(results)
    arm = view.featured
    if not arm.partner:
        return []
    name = arm.agent_name("partner")
    return [
        f"Near misses: the {name}'s failures reach {_by_round(arm, 'partner')} on the training tasks; the target "
        f"agent's {_by_round(arm, 'target')}.",
        f"Hard negatives: {_hard(arm, 'partner')}; of the target agent's {_hard(arm, 'target', is_short=True)}.",
        _pairs_line(arm),
    ]


def _by_round(arm: ArmResults, agent: str) -> str:
    rounds = arm.record_rounds("rollouts", agent)
    means = [arm.mean_of("rollouts", agent, number, "failure_mean") for number in rounds]
    if not means:
        return NOTHING
    where = f" (round {rounds[0]} → {rounds[-1]})" if len(rounds) > 1 and agent == "partner" else ""
    return " → ".join(reward(mean) for mean in means) + where


def _hard(arm: ArmResults, agent: str, *, is_short: bool = False) -> str:
    rounds = arm.record_rounds("rollouts", agent)
    if not rounds:
        return NOTHING
    records = arm.records("rollouts", agent, rounds[-1])
    thresholds = list(records[0].get("hard_share", {}))
    if not thresholds:
        return NOTHING
    share = percent(arm.mean_of("rollouts", agent, rounds[-1], "hard_share", thresholds[0]))
    if is_short:
        return share
    success = percent(arm.mean_of("rollouts", agent, rounds[-1], "success"))
    return (
        f"{share} of its failures in round {rounds[-1]} have a reward of {thresholds[0]} or more "
        f"(its success rate is {success})"
    )


def _pairs_line(arm: ArmResults) -> str:
    kind = "failure>failure"
    rounds = arm.record_rounds("pairs", "target")
    counts = [arm.mean_of("pairs", "target", number, "counts", kind) or 0.0 for number in rounds]
    totals = [_total(arm.records("pairs", "target", number)) for number in rounds]
    per = " per seed" if len(arm.seeds) > 1 else ""
    line = f"Failure–failure pairs: {sum(counts):.0f} of the target agent's {sum(totals):.0f}{per}"
    trained = arm.record_rounds("training", "target")
    accuracy = arm.mean_of("training", "target", trained[-1], "metrics", f"{kind}/accuracy") if trained else None
    if accuracy is None:
        return line + "."
    return line + f"; by the end of round {trained[-1]} it ranks {percent(accuracy)} of them right."


def _total(records: Sequence[Mapping[str, Any]]) -> float:
    return sum(sum(record["counts"].values()) for record in records) / len(records) if records else 0.0


def pool_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Say in three lines how the pool of tasks went; nothing where the featured arm has none.

    Its size and what it is made of; what validation let in, and why it refused; how old and new tasks are solved, and
    what making them cost.
    """
    view = results if isinstance(results, Results) else results_from_json(results)
    arm = view.featured
    per = ", per seed" if len(arm.seeds) > 1 else ""
    if not arm.has_pool:
        return [_yield_line(arm, per)] if arm.record_rounds("synthesis", "target") else []
    lines = [_pool_line(arm, per)]
    if arm.record_rounds("synthesis", "target"):
        lines += [_yield_line(arm, per), _old_new_line(arm)]
    return lines


def notice_lines(results: Mapping[str, Any] | Results) -> list[str]:
    """Name each sign that an agent's behaviour has broken, and each training that the guard took back."""
    view = results if isinstance(results, Results) else results_from_json(results)
    lines: dict[str, None] = {}  # arms that share their start have its signs in common, and tell them once
    for arm in view.arms.values():
        for seed, content in arm.seeds.items():
            which = f", seed {seed}" if view.num_seeds > 1 else ""
            for one in content.notices:
                who = "Start" if one["is_start"] else f"{arm.label}{which}, {arm.agent_name(one['agent'])}"
                when = "" if one["is_start"] else f" in round {one['round']}"
                where = which if one["is_start"] else ""
                lines[f"{who}{where}{when}, {one['tasks']}: {'; '.join(one['signs'])}."] = None
            for one in content.checks:
                if (text := _check_line(one)) is not None:
                    lines[f"{arm.label}{which}, round {one['round']}: {text}"] = None
    return list(lines)


def _check_line(check: Mapping[str, Any]) -> str | None:
    """Say what the guard did about a training; None where it kept the first attempt."""
    attempts, kept = check["attempts"], check["kept"]
    if kept == 1:
        return None
    first = attempts[0]
    lost = f"{reward(first['before'])} → {reward(first['after'])} on {first['num']} training tasks"
    if kept is None:
        return f"the training was taken back ({lost}); the weights stayed as they were (loop.accept_drop)."
    return f"the training was done again at {'half' if kept == 2 else 'a quarter of'} the rate ({lost})."


def total(arm: ArmResults, section: str, number: int, *path: str) -> float:
    """Average a count over the seeds; where a record does not name it, it is 0."""
    counts = []
    for record in arm.records(section, "target", number):
        value: Any = record
        for key in path:
            value = value.get(key, 0) if isinstance(value, Mapping) else 0
        counts.append(float(value or 0))
    return sum(counts) / len(counts) if counts else 0.0


def whole(value: float | None) -> str:
    """Write a count, or a mean of counts, without a fraction: `1,204`."""
    return NOTHING if value is None else f"{value:,.0f}"


def count(value: float) -> str:
    """Write a count, or a mean of counts: `1,204`, `3.5`."""
    return f"{value:,.1f}".removesuffix(".0")


def _pool_line(arm: ArmResults, per: str) -> str:
    rounds = arm.record_rounds("pool", "target")
    first, last = rounds[0], rounds[-1]
    share = percent(arm.mean_of("pool", "target", last, "synthetic_share"))
    solved, hopeless = (total(arm, "pool", last, "retired", name) for name in ("solved", "hopeless"))
    waiting = total(arm, "pool", last, "quarantined")
    line = (
        f"Pool: {count(total(arm, 'pool', first, 'num'))} → {count(total(arm, 'pool', last, 'num'))} tasks in "
        f"{last} rounds{per}, {share} of them synthetic"
    )
    gone = f"{count(solved + hopeless)} retired ({count(solved)} solved, {count(hopeless)} hopeless)"
    return f"{line}; {gone}, {count(waiting)} waiting in quarantine."


def _yield_line(arm: ArmResults, per: str) -> str:
    rounds = arm.record_rounds("synthesis", "target")
    proposed = sum(total(arm, "synthesis", n, "proposed") for n in rounds)
    if not proposed:
        return f"Synthesis: nothing was proposed in {len(rounds)} syntheses."
    reasons = {r for n in rounds for record in arm.records("synthesis", "target", n) for r in record["outcomes"]}
    counts = {r: sum(total(arm, "synthesis", n, "outcomes", r) for n in rounds) for r in sorted(reasons)}
    accepted = counts.pop("accepted", 0.0)
    most = max(counts, key=lambda reason: counts[reason], default="")
    why = f"; most of the others: {most} ({count(counts[most])})" if most else ""
    passed = f"{count(accepted)} of {count(proposed)} proposals passed ({percent(accepted / proposed)})"
    return f"Validation: {passed}{per}{why}."


def _old_new_line(arm: ArmResults) -> str:
    rounds = [
        n for n in arm.record_rounds("pool", "target") if arm.mean_of("pool", "target", n, "new", "mean") is not None
    ]
    syntheses = arm.record_rounds("synthesis", "target")
    names = {name for n in syntheses for record in arm.records("synthesis", "target", n) for name in record["episodes"]}
    played = sum(total(arm, "synthesis", n, "episodes", name) for n in syntheses for name in names)
    rollouts = sum(total(arm, "synthesis", n, "rollouts") for n in syntheses)
    extra = f" ({percent(played / rollouts)})" if rollouts else ""
    cost = f"making them took {count(played)} episodes beside the {count(rollouts)} training rollouts before{extra}."
    if not rounds:
        return f"Synthetic tasks: none was played; {cost}"
    old, new = (arm.mean_of("pool", "target", rounds[-1], half, "mean") for half in ("old", "new"))
    return f"Synthetic tasks: mean reward {reward(new)} in round {rounds[-1]}, initial ones {reward(old)}; {cost}"
