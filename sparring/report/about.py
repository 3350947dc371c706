"""A run's config, versions and timings come in; what was run, with what, and what it took go out, for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.core.references import short_name
from sparring.report.folder import Cost, Costs
from sparring.report.text import broken_lines, odd_reward_lines
from sparring.report.view import ArmResults, Results

ACTS: Mapping[str, str] = {
    "sft": "Supervised start",
    "rollout": "Rollouts on training tasks",
    "branch": "Episodes that begin inside others",
    "score": "Likelihoods of what was played",
    "train": "Training on rollouts",
    "check": "Guard: training tasks before and after a training",
    "synthesis": "Synthesis of tasks",
    "evaluate": "Evaluation on held-out tasks",
    "also": "Evaluation on further splits",
    "judge": "Likelihoods of held-out preferences",
}

REDUCTIONS: Mapping[str, str] = {
    "mean": (
        "Reduction: the −log π(chosen) term of the paper’s loss (Eq. 9) is averaged over action tokens "
        "(loss.sft_reduction = mean); the letter of Eq. 9 is a sum, "
        "which is many times larger than the DPO term beside it."
    ),
    "sum": (
        "Reduction: the −log π(chosen) term of the paper’s loss (Eq. 9) is summed over action tokens "
        "(loss.sft_reduction = sum), which is the letter of Eq. 9."
    ),
}

TRAINING = ("sft", "train")
"""Acts that are training: the supervised start and what follows."""

BOTH = "coevolving_agents_and_tasks"
"""The method in which both papers meet."""

OWNERS: Mapping[str, tuple[str, ...]] = {
    "partner": ("coevolving_agents", BOTH),
    "fail": ("coevolving_agents", BOTH),
    "rft": ("rft",),
    "ipr": ("ipr",),
    "grpo": ("grpo", "coevolve"),
    "ppo": ("ppo",),
    "prefer": ("prefer",),
    "bootstrap": ("grpo", "coevolve", BOTH),
    "rl": ("grpo", "ppo", "coevolve"),
    **dict.fromkeys(("synthesis", "signals", "validation", "pool", "explorer", "openai"), ("coevolve", BOTH)),
}
"""Config sections that only some methods read."""


PAPERS: Mapping[str, str] = {
    "coevolving_agents": "Co-Evolving Agents, arXiv 2511.22254",
    "coevolve": "CoEvolve, arXiv 2604.15840",
}
"""What a method is of; the others are baselines."""


def papers(results: Results) -> str:
    """Name the papers whose methods were run; the first of them where there were baselines alone."""
    methods = [arm.method for arm in results.arms.values()]
    methods += [paper for paper in PAPERS if BOTH in methods]
    return "; ".join(paper for method, paper in PAPERS.items() if method in methods) or PAPERS["coevolving_agents"]


def facts(results: Results, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what was run, for the page's head."""
    arm = config.get("arms", {}).get(results.featured.name, {})
    judged = max((r["num_pairs"] for s in results.featured.seeds.values() for r in s.preferences), default=0)
    world = "" if judged else str(_get(arm, "env.id") or "")
    kinds = _get(arm, "env.kinds") or []
    rounds = max((r for a in results.arms.values() for r in a.rounds()), default=0)
    seeds = list(dict.fromkeys(seed for a in results.arms.values() for seed in a.seeds))
    found = [
        ("World", f"{world}, {len(kinds)} task types" if kinds else world),
        ("Base model", str(_get(arm, "model.path") or "")),
        ("Trained on", f"{results.num_demonstrations} demonstrations" if results.num_demonstrations else ""),
        ("Preferences from", str(_get(arm, "prefer.path") or "")),
        ("Held out", f"{judged} pairs" if judged else f"{results.num_tasks} tasks of split “{results.split}”, greedy"),
        ("Rounds", "" if judged else str(rounds)),
        ("Seeds" if len(seeds) > 1 else "Seed", ", ".join(seeds)),
    ]
    return [(name, value) for name, value in found if value]


def notes(results: Results, config: Mapping[str, Any]) -> list[str]:
    """Say in words what a reader must know to compare the numbers with others."""
    arms = config.get("arms", {})
    trained = [a for a in results.arms.values() if a.record_rounds("pairs", "target")]
    found = []
    if any(a.method in ("coevolving_agents", BOTH) for a in results.arms.values()):
        used = dict.fromkeys(_get(arms.get(a.name, {}), "loss.sft_reduction") for a in trained if a.partner)
        found += [REDUCTIONS[str(name)] for name in used if str(name) in REDUCTIONS]
    labels: dict[str, list[str]] = {}
    for arm in trained:
        own = arms.get(arm.name, {})
        parts = [f"{_loss_name(str(_get(own, 'loss.variant') or 'dpo'))} loss"]
        parts += [f"{symbol} {value:g}" for symbol, value in _numbers(own)]
        labels.setdefault(", ".join(parts), []).append(arm.label)
    found += [f"{', '.join(those)}: {what}." for what, those in labels.items()]
    over, by = ("seeds and tasks both", "seed and task") if results.num_seeds > 1 else ("tasks", "task")
    found.append(f"Intervals are 95 % percentile bootstrap intervals over {over}; differences are paired by {by}.")
    return found + broken_lines(results) + odd_reward_lines(results)


def _loss_name(variant: str) -> str:
    return short_name(variant) if ":" in variant else variant.upper()


def _numbers(own: Mapping[str, Any]) -> list[tuple[str, float]]:
    keys = (
        ("β", "loss.beta"),
        ("learning rate", "dpo.lr"),
        ("epochs", "dpo.epochs"),
        ("pairs a step", "dpo.batch_size"),
    )
    found = [(symbol, _get(own, key)) for symbol, key in keys]
    return [(symbol, value) for symbol, value in found if isinstance(value, int | float)]


def costs(results: Results, known: Costs) -> dict[str, Any] | None:
    """Tabulate the time per kind of phase, and per arm with all that it needed."""
    if not known.by_phase:
        return None
    partner = next((a.agent_name("partner") for a in results.arms.values() if a.partner), "partner")
    agents = sorted({agent for _, agent in known.by_phase}, key=lambda agent: (agent != "target", agent))
    names = {"target": "target agent", "partner": partner}
    rows = [
        {"act": title, "agent": agent, "name": names.get(agent, agent), "cost": cost}
        for act, title in ACTS.items()
        for agent in agents
        if (cost := known.by_phase.get((act, agent)))
    ]
    arms = [_arm_costs(arm, known) for arm in results.arms.values() if known.of(arm.name)]
    return {
        "rows": rows,
        "total": sum(known.by_phase.values(), Cost()),
        "arms": arms,
        "has_partner": any(arm["partner"] is not None for arm in arms),
        "partner": partner,
        "is_mean": results.num_seeds > 1,
    }


def _arm_costs(arm: ArmResults, known: Costs) -> dict[str, Any]:
    return {
        "label": arm.label,
        "total": known.of(arm.name),
        "partner": known.of(arm.name, agent="partner") if arm.partner else None,
        "partner_training": known.of(arm.name, *TRAINING, agent="partner") if arm.partner else None,
    }


def settings(config: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Split the resolved config into what all arms share and what differs between them."""
    arms = {
        name: {key: value for key, value in _flatten(own).items() if _matters(key, results.arms[name].method)}
        for name, own in config.get("arms", {}).items()
        if name in results.arms
    }
    keys = list(dict.fromkeys(key for own in arms.values() for key in own))
    values = {key: {repr(own[key]): own[key] for own in arms.values() if key in own} for key in keys}
    return {
        "shared": [(key, show(next(iter(found.values())))) for key, found in values.items() if len(found) == 1],
        "arms": [results.arms[name].label for name in arms],
        "differing": [
            (key, [show(own.get(key)) for own in arms.values()]) for key, found in values.items() if len(found) > 1
        ],
    }


def _matters(key: str, method: str) -> bool:
    return key not in ("label", "method") and method in OWNERS.get(key.partition(".")[0], (method,))


def show(value: Any) -> str:
    """Write a config value."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(show(item) for item in value) or "(empty)"
    return str(value) if value != "" else "(empty)"


def versions(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the versions the run depends on, the revision shortened."""
    shown = [(name, str(value)) for name, value in known.items() if isinstance(value, str | int | float)]
    return [(name, short_revision(value) if name == "revision" else value) for name, value in shown]


def short_revision(revision: str) -> str:
    """Shorten a git revision to twelve digits; `-dirty` stays."""
    commit, dash, dirty = revision.partition("-")
    return commit[:12] + dash + dirty


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat |= _flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner if not isinstance(inner, Mapping) else None
    return flat


def _get(config: Mapping[str, Any], dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
