"""A checkpoint of a run comes in, its model card goes out: method, data, scores with intervals, settings, citations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sparring.analysis.statistics import bootstrap_mean, summarise, to_table
from sparring.core.text import printable
from sparring.report.folder import PhaseFolder
from sparring.report.preferences import AGAINST_START, COLUMNS, SHARES
from sparring.report.text import between, percent, reward
from sparring.report.view import ArmResults, Results

PRIVATE = ("openai", "vllm", "tinker", "sampler", "run", "eval")
"""Sections of a config that say where and how it was run, and nothing of what the model is."""
PAPERS: Mapping[str, tuple[str, str, str]] = {
    "coevolving_agents": ("2511.22254", "Co-Evolving Agents: Learning from Failures as Hard Negatives", "2025"),
    "coevolve": ("2604.15840", "CoEvolve", "2026"),
    "eto": ("2403.02502", "Trial and Error: Exploration-Based Trajectory Optimization for LLM Agents", "2024"),
    "ipr": ("2406.11176", "Watch Every Step! LLM Agent Learning via Iterative Step-Level Process Refinement", "2024"),
    "rft": ("2308.01825", "Scaling Relationship on Learning Mathematical Reasoning with Large Language Models", "2023"),
    "grpo": (
        "2402.03300",
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        "2024",
    ),
    "ppo": ("1707.06347", "Proximal Policy Optimization Algorithms", "2017"),
    "prefer": ("2305.18290", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", "2023"),
}
"""Method → arXiv id, title and year of its paper."""
BOTH = "coevolving_agents_and_tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measured number."""

    name: str
    value: str
    interval: str
    over: str
    """How many tasks or pairs, of which split."""
    number: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Where a checkpoint was made."""

    phase: PhaseFolder
    config: Mapping[str, Any]
    """The arm's, resolved."""
    defaults: Mapping[str, Any]
    """A config's defaults, as far as they go for the method."""
    label: str
    """What tables call the arm."""
    method: str
    results: Results | None
    """Of the run; none: it is not finished."""


def scores_of(made: Made) -> list[Score]:
    """Return what this very checkpoint earned on held-out tasks or preferences."""
    results, phase = made.results, made.phase
    if results is None or phase.arm not in results.arms:
        return []
    arm = results.arms[phase.arm]
    return [*_rewards(results, arm, phase), *_preferences(results, arm, phase)]


def render(made: Made | None, *, repo_id: str, base: str, base_on_hub: bool, is_adapter: bool, version: str) -> str:
    """Return the card's text, without its metadata.

    Args:
        made: where the checkpoint was made; none: not by a run, so nothing is known of its training.
        repo_id: where it goes.
        base: what its base model is called.
        base_on_hub: whether the base is found by that name on the Hub.
        is_adapter: it holds an adapter.
        version: Sparring's.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
    )
    method = made.method if made else ""
    text = environment.get_template("model_card.md.j2").render(
        title=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        summary=_summary(made, base),
        facts=_facts(made, base, version),
        scores=scores_of(made) if made else [],
        units="prompts" if method == "prefer" else "tasks",
        is_adapter=is_adapter,
        base=base,
        base_on_hub=base_on_hub,
        config=_settings(made) if made else "",
        citations=citations(method, version),
    )
    return text


def citations(method: str, version: str) -> list[str]:
    """Return BibTeX of a method's papers, and of Sparring."""
    names = ("coevolving_agents", "coevolve") if method == BOTH else (method,)
    found = [
        f"@misc{{{name},\n  title = {{{title}}},\n  year = {{{year}}},\n  eprint = {{{number}}},\n"
        "  archivePrefix = {arXiv}\n}"
        for name in names
        if (paper := PAPERS.get(name))
        for number, title, year in [paper]
    ]
    own = "Sparring: training language-model agents on their own near misses"
    fields = f"  title = {{{own}}},\n  author = {{The Sparring authors}},\n  version = {{{version}}}"
    return [*found, f"@software{{sparring,\n{fields}\n}}"]


def _rewards(results: Results, arm: ArmResults, phase: PhaseFolder) -> list[Score]:
    earned = arm.rewards(phase.agent, phase.round).get(phase.seed, {})
    if not earned:
        return []
    found = summarise({phase.seed: earned}, results.success_eps, num_resamples=results.num_resamples)
    over = f"{found.num} tasks of split {results.split}, greedy"
    scores = [
        Score(
            name="mean reward",
            value=reward(found.mean),
            interval=between(found.ci_low, found.ci_high),
            over=over,
            number=found.mean,
        ),
        Score(
            name="success",
            value=percent(found.success),
            interval=f"{between(found.success_ci_low, found.success_ci_high, as_percent=True)} %",
            over=over,
            number=found.success,
        ),
    ]
    evaluations = arm.seeds[phase.seed].evaluations
    own = next(e for e in evaluations if (e.agent, e.round) == (phase.agent, phase.round))
    measured = [(name, points) for name, points in own.measures.items() if isinstance(points, int | float)]
    return scores + [
        Score(name=name, value=f"{points:.1f}", interval="", over=over, number=float(points))
        for name, points in measured
    ]


def _preferences(results: Results, arm: ArmResults, phase: PhaseFolder) -> list[Score]:
    records = [one for one in arm.seeds[phase.seed].preferences if one["round"] == phase.round]
    scores = []
    for record in records:
        for name, words in COLUMNS.items():
            values = {phase.seed: record[name]}
            found = bootstrap_mean(to_table(values), num_resamples=results.num_resamples)
            if not found.num or (phase.round == 0 and name in AGAINST_START):
                continue
            is_share = name in SHARES
            scores.append(
                Score(
                    name=words,
                    value=percent(found.mean) if is_share else f"{found.mean:.2f}",
                    interval=between(found.low, found.high, as_percent=is_share) + (" %" if is_share else ""),
                    over=f"{found.num} prompts that were held out",
                    number=found.mean,
                )
            )
    return scores


def _summary(made: Made | None, base: str) -> str:
    if made is None:
        return f"A model that was trained with Sparring from {base}."
    when = f"after round {made.phase.round}" if made.phase.round else "as it starts"
    who = "" if made.phase.agent == "target" else f" It is the {made.phase.agent}, not the agent that should succeed."
    return f"{made.label}, {when}: {base}, trained with Sparring.{who}"


def _facts(made: Made | None, base: str, version: str) -> list[tuple[str, str]]:
    facts = [("base model", base)]
    if made:
        config, results = made.config, made.results
        demonstrations = results.num_demonstrations if results else None
        is_of_file = made.method == "prefer"
        data = [config["prefer"][name] for name in ("path", "messages") if config["prefer"][name]] if is_of_file else []
        facts += [
            ("method", made.method),
            ("data", ", ".join(map(_name, data)) if is_of_file else f"episodes in the world {config['env']['id']}"),
            ("demonstrations", str(demonstrations) if demonstrations else ""),
            ("seed", made.phase.seed),
            ("round", str(made.phase.round)),
        ]
    return [(name, value) for name, value in [*facts, ("made with", f"Sparring {version}")] if value]


def _settings(made: Made) -> str:
    """Return what differs from the defaults, as TOML; of paths on a machine the last part alone."""
    lines: list[str] = []
    for section, values in made.config.items():
        default = made.defaults.get(section)
        is_hidden = section in PRIVATE or (section == "env" and made.method == "prefer")
        if is_hidden or not isinstance(values, Mapping) or not isinstance(default, Mapping):
            continue
        own = {key: value for key, value in values.items() if value != default.get(key) and value is not None}
        if own:
            lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in own.items())]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(_name(value) if isinstance(value, str) else value, ensure_ascii=False)


def _name(text: str) -> str:
    """Return the last part of an absolute path, and any other text as it is."""
    return Path(text).name if text.startswith(("/", "~")) else text
