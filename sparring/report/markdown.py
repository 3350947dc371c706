"""A compact result file comes in, its section of `docs/results.md` goes out: tables that read well as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from sparring.analysis.statistics import Interval, SeedRewards, bootstrap_mean, paired_difference, summarise, to_table
from sparring.report.figure_two import EXPLORING, HELD_OUT, Reading, held_out, merge, row_names
from sparring.report.measures import measure_table, points
from sparring.report.series import shown_rounds
from sparring.report.text import NOTHING, between, percent, reward, whole
from sparring.report.view import ArmResults, Results, results_from_json
from sparring.report.work import mean_count

PARTNER_TRAINING = ("sft-partner", "train-partner")
"""Kinds of phase in which the partner is trained."""
FIGURE_TWO = {
    HELD_OUT: (
        "**Failures compared** (Figure 2 of the paper; the target agents alone): held-out tasks that SFT does not "
        "solve; mean reward of the failures on those that both fail"
    ),
    EXPLORING: (
        "**Failures compared, both agents together** (Figure 2 in its other reading): all rollouts on training tasks, "
        "each task once a seed and round, without those that the target agent solved at its start"
    ),
}
"""Titles of the two readings."""
MAX_COLUMNS = 12
"""Rounds up to which each is a column; of more, some, evenly spaced."""


def unfold(record: Mapping[str, Any]) -> Results:
    """Return the view of a compact record, its lists of rewards as tables by task again."""
    tasks = record["tasks"]

    def evaluation(entry: Mapping[str, Any]) -> dict[str, Any]:
        rewards = {task: value for task, value in zip(tasks, entry["rewards"], strict=True) if value is not None}
        return {**entry, "rewards": rewards}

    arms = {
        name: {
            **arm,
            "seeds": {
                seed: {**content, "evaluations": [evaluation(entry) for entry in content["evaluations"]]}
                for seed, content in arm["seeds"].items()
            },
        }
        for name, arm in record["arms"].items()
    }
    return results_from_json({**record, "arms": arms})


def render_study(record: Mapping[str, Any], words: str = "") -> str:
    """Return one run's section.

    Args:
        record: in the compact format.
        words: what a person has to say about it, in markdown.
    """
    results = unfold(record)
    parts = [f"## {results.name}", _about(record, results)]
    parts += [words] if words else []
    parts.append(_headline(record, results))
    if measured := _measures(results):
        parts += ["**The world's own measures**, out of 100, means over seeds", measured]
    if results.num_seeds > 1:
        parts += ["**Mean reward by seed**", _per_seed(results)]
    if any(len(arm.rounds()) > 1 for arm in results.arms.values()):
        parts += ["**Held-out reward by round** (Figure 3 of the paper)", _rounds(results)]
    if any(arm.record_rounds("rollouts", "target") for arm in results.arms.values()):
        parts += [
            "**Rollouts on training tasks**: failures, and the share of hard negatives among them",
            _rollouts(results),
        ]
    for which, title in FIGURE_TWO.items():
        if figure := _figure_two(record, results, which):
            parts += [title, figure]
    return "\n\n".join(parts) + "\n"


def _about(record: Mapping[str, Any], results: Results) -> str:
    seeds = list(dict.fromkeys(seed for arm in results.arms.values() for seed in arm.seeds))
    parts = [
        f"world {record['world']}",
        f"base model `{record['model']}`",
        f"{record['num_demonstrations']} demonstrations" if record.get("num_demonstrations") else "",
        f"{results.num_tasks} held-out tasks (split `{results.split}`)",
        f"seeds {', '.join(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}",
        *(f"NLL term of Eq. 9: {name} over action tokens" for name in _reductions(record)),
        f"config `{record['config_hash']}`",
        f"revision `{record['revision']}`" if record.get("revision") else "",
    ]
    text = "; ".join(part for part in parts if part) + "."
    return text[0].upper() + text[1:]


def _reductions(record: Mapping[str, Any]) -> list[str]:
    found = [arm.get("sft_reduction") for arm in record["arms"].values()]
    return list(dict.fromkeys(name for name in found if name))


def _headline(record: Mapping[str, Any], results: Results) -> str:
    head = ["method", "mean reward", "success", *(f"− {other.label}" for other in results.references)]
    costs = [column for column in _costs(record) if any(number is not None for number in column[1].values())]
    head += [name for name, _ in costs]
    rows = []
    for name, arm in results.arms.items():
        summary = summarise(arm.final(), results.success_eps, num_resamples=results.num_resamples)
        row = [
            arm.label,
            f"{reward(summary.mean)} {between(summary.ci_low, summary.ci_high)}",
            f"{percent(summary.success)} {between(summary.success_ci_low, summary.success_ci_high, as_percent=True)}",
        ]
        row += [_gap(results, arm, other) for other in results.references]
        row += [whole(numbers[name]) for _, numbers in costs]
        rows.append(row)
    return table(head, rows)


def _measures(results: Results) -> str:
    """Tabulate what the last target agents measured; nothing where the world has no measures or the file lacks them."""
    found = measure_table(results)
    if found is None:
        return ""
    rows = [[label, *map(points, values)] for _, label, values in found.rows]
    return "\n\n".join([table(["method", *found.heads(results.split)], rows), *found.notes])


def _costs(record: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, float | None]]]:
    """Return the columns on what a method took, each by arm and a mean per seed; None where nothing is known.

    Files that were written before episodes and steps were counted know the CPU-seconds alone.
    """
    names = ("episodes", "optimizer steps", "CPU-seconds", "of which training the failure agent")
    found: list[tuple[str, dict[str, float | None]]] = [(name, {}) for name in names]
    for name, arm in record["arms"].items():
        seeds = list(arm["seeds"].values())
        cpu = [seed["cpu_s"] for seed in seeds if seed.get("cpu_s")]
        partner = [{key: cost for key, cost in one.items() if key in PARTNER_TRAINING} for one in cpu]
        counts = (
            [seed.get("episodes") for seed in seeds],
            [seed.get("steps") for seed in seeds],
            cpu,
            partner if any(partner) else [],
        )
        for (_, numbers), own in zip(found, counts, strict=True):
            numbers[name] = mean_count(own)
    return found


def _gap(results: Results, arm: ArmResults, other: ArmResults) -> str:
    if not results.compares(arm, other):
        return NOTHING
    gap = paired_difference(arm.final(), other.final(), num_resamples=results.num_resamples)
    return _shown(gap, signed=True)


def _shown(interval: Interval, *, signed: bool = False) -> str:
    if not interval.num:
        return NOTHING
    return f"{reward(interval.mean, signed=signed)} {between(interval.low, interval.high, signed=signed)}"


def _per_seed(results: Results) -> str:
    seeds = list(dict.fromkeys(seed for arm in results.arms.values() for seed in arm.seeds))
    rows = []
    for arm in results.arms.values():
        final = arm.final()
        means = [fmean(final[seed].values()) if final.get(seed) else None for seed in seeds]
        rows.append([arm.label, *(reward(mean) for mean in means)])
    return table(["method", *(f"seed {seed}" for seed in seeds)], rows)


def _rounds(results: Results) -> str:
    played = sorted({number for arm in results.arms.values() for number in arm.rounds()})
    numbers = played if len(played) <= MAX_COLUMNS else shown_rounds(played)
    rows = []
    for arm in results.arms.values():
        for agent in (agent for agent in arm.agents if arm.rounds(agent)):
            cells = [_shown(_mean(results, arm.rewards(agent, number))) for number in numbers]
            rows.append([arm.label, arm.agent_name(agent), *cells])
    return table(["method", "agent", *(f"round {i}" if i else "start" for i in numbers)], rows, text_columns=2)


def _mean(results: Results, rewards: SeedRewards) -> Interval:
    return bootstrap_mean(to_table(rewards), num_resamples=results.num_resamples)


def _rollouts(results: Results) -> str:
    sets = [(arm, played, number) for arm in results.arms.values() for played in arm.played for number in played.rounds]
    thresholds = list(
        dict.fromkeys(
            at for _, played, n in sets for record in played.records[n] for at in record.get("hard_share", {})
        )
    )
    head = ["method", "agent", "round", "mean reward", "success", "failures", "their mean reward"]
    head += [f"≥ {at}" for at in thresholds]
    rows = []
    for arm, played, number in sets:
        if number not in shown_rounds(played.rounds):
            continue
        pick = partial(played.mean_of, number)
        rows.append(
            [
                arm.label,
                played.name,
                str(number),
                reward(pick("mean")),
                percent(pick("success")),
                whole(pick("failures")),
                reward(pick("failure_mean")),
                *(percent(pick("hard_share", at)) for at in thresholds),
            ]
        )
    return table(head, rows, text_columns=2)


def _figure_two(record: Mapping[str, Any], results: Results, which: str) -> str:
    """Tabulate one reading of Figure 2; nothing where the file does not know it."""
    eto, rows = results.first("eto"), []
    for name, arm in results.arms.items():
        reading = _reading(record["arms"][name], results, arm, which) if arm.partner else None
        if reading is None or eto is None:
            continue
        names = row_names(results, arm, reading)
        rows += [
            [
                f"{eto.label} and {arm.label}",
                names[key],
                str(reading.num_tasks),
                f"{row.num_failures} of {row.num_episodes}",
                str(reading.num_shared),
                reward(row.shared_mean),
            ]
            for key, row in reading.rows.items()
        ]
    head = ["compared", "who", "tasks left", "failures", "both fail", "their mean reward there"]
    return table(head, rows, text_columns=2) if rows else ""


def _reading(own: Mapping[str, Any], results: Results, arm: ArmResults, which: str) -> Reading | None:
    if which == HELD_OUT:
        return held_out(results, arm)
    return merge([seed["figure_two"] for seed in own["seeds"].values() if "figure_two" in seed])


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Lay a markdown table out; the first `text_columns` columns are aligned left, the others right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        padded = [cell.ljust(width) if i < text_columns else cell.rjust(width) for i, (cell, width) in pairs]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(row) for row in (cells[0], rule, *cells[1:]))
