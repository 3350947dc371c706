"""A run's folder comes in, `report.html` goes out: one file, no network, light and dark.

Everything that a world or a model wrote is escaped: the template escapes by default, drawings escape in `svg`, the
trajectory list is JSON that no tag can break out of and is shown as text alone. A content security policy lets only the
page's own script run, should anything slip through.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparring.analysis.failures import AnalysisConfig
from sparring.core.errors import DataError
from sparring.core.journal import disk_errors, read_object
from sparring.core.text import printable
from sparring.report import (
    about,
    between_arms,
    browser,
    evolving,
    examples,
    failures,
    figure_two,
    learning,
    measures,
    nearness,
    pair_sides,
    preferences,
    reinforcement,
    sections,
    synthetic,
    updates,
)
from sparring.report.charts import staircase
from sparring.report.collect import collect, read_experts
from sparring.report.damage import content_of
from sparring.report.folder import PhaseFolder, list_phases, read_costs
from sparring.report.kept_pairs import read_pairs, wanted_of
from sparring.report.sections import Source
from sparring.report.text import between, contribution_lines, count, notice_lines, percent, pool_lines, reward, whole
from sparring.report.view import Results, read_results
from sparring.report.work import read_work

HERE = Path(__file__).parent
SAMPLE_BYTES = 24_000_000
"""Trajectories read for the page's list, as they lie on the disk; on the page they take less than half of that."""


def write_page(run_dir: Path, compare: Sequence[str] = ()) -> Path:
    """Write the page; see `sparring.report.write_report`."""
    content = render(run_dir, compare).encode("utf-8", "replace")  # A lone surrogate has no UTF-8.
    path = run_dir / "report.html"
    temporary = path.with_name("report.html.tmp")
    try:
        with disk_errors(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        place = error.filename2 or error.filename
        raise DataError(f"{place}: can't be written ({error.strerror}). Move away what is in its place.") from None
    return path


def render(run_dir: Path, compare: Sequence[str] = ()) -> str:
    """Return the page's HTML; arguments as for `sparring.report.write_report`."""
    results = read_results(run_dir)
    with content_of(run_dir / "config.json"):
        config = read_object(run_dir / "config.json")
        own = config.get("arms", {}).get(results.featured.name, {})
        found = own.get("analysis", {}).get("hard_thresholds") or AnalysisConfig.hard_thresholds
        thresholds = tuple(float(one) for one in found)
        context = {
            "facts": about.facts(results, config),
            "notes": about.notes(results, config),
            "settings": about.settings(config, results),
        }
    with content_of(run_dir / "results.json"):
        context |= _sections(run_dir, results, thresholds, compare)
        return _environment().get_template("page.html.j2").render(context)


def _sections(run_dir: Path, results: Results, thresholds: Sequence[float], compare: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of the results and of the phases' files."""
    versions = run_dir / "versions.json"
    seeds = list(dict.fromkeys(seed for arm in results.arms.values() for seed in arm.seeds))
    phases = list_phases(run_dir, seeds, list(results.arms))
    pairs, duel = read_pairs(phases), between_arms.duel(results, compare)
    shown = pair_sides.last_pairs(pairs)
    wanted = [wanted_of(shown, phases), between_arms.wanted_of(duel, phases) if duel else {}]
    episodes = collect(phases, max_bytes=SAMPLE_BYTES, watch=[results.featured.name], wanted=wanted)
    experts = read_experts(run_dir)
    source = Source(
        results=results,
        episodes=episodes,
        thresholds=thresholds,
        costs=read_costs(run_dir, phases),
        work=read_work(phases),
    )
    listed, num_listed = browser.payload(episodes, results)
    return {
        **_numbers(source, phases),
        "updates": updates.reached(results, pairs, phases),
        "pair_sides": pair_sides.choose(results, shown, phases, episodes.found, {one.id: one for one in experts}),
        "duel": between_arms.show(duel, results, phases, episodes.found) if duel else None,
        "made": synthetic.choose(run_dir, results),
        "nearness": nearness.sections(run_dir, results, experts),
        "papers": about.papers(results),
        "examples": examples.choose(
            experts, results.featured, episodes.watched, threshold=thresholds[0], success_eps=results.success_eps
        ),
        "listed": listed,
        "num_listed": num_listed,
        "num_episodes": episodes.num_total,
        "costs": about.costs(results, source.costs),
        "versions": about.versions(read_object(versions)) if versions.exists() else [],
    }


def _numbers(source: Source, phases: Sequence[PhaseFolder]) -> dict[str, Any]:
    """Return the tables and drawings."""
    results = source.results
    return {
        "results": results,
        "lede": sections.lede(source),
        "contribution": contribution_lines(results),
        "notices": notice_lines(results),
        "headline": sections.headline(source),
        "measures": measures.page_table(results),
        "preferences": preferences.section(results),
        "rounds": sections.rounds(source),
        "threshold": source.thresholds[0],
        "landscape": failures.landscape(source),
        "is_thinned": failures.is_thinned(source),
        "hard": failures.hard_negatives(source),
        "shares": failures.shares(source),
        "behaviour": failures.behaviour(source),
        "figure_two": figure_two.sections(results, source.episodes),
        "pairs": learning.pairs(results),
        "curves": learning.curves(results, phases),
        "gradient": reinforcement.gradient(source, phases),
        "pools": evolving.pools(results),
        "pool_lines": pool_lines(results),
    }


def _environment() -> Environment:
    script, style = (HERE / "page.js").read_text("utf-8"), (HERE / "style.css").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "reward": reward,
        "percent": percent,
        "clip": browser.clip,
        "spoken": browser.spoken,
        "count": count,
        "duration": duration,
        "whole": whole,
    }
    environment.globals |= {
        "between": between,
        "staircase": staircase,
        "max_turns": examples.MAX_TURNS,
        "script": Markup(script),
        "style": Markup(style),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment


def _visible(value: Any) -> Any:
    """Show the characters that turn the direction of the text around them, as `\\u202e`; markup is left alone."""
    return printable(value) if type(value) is str else value


def duration(seconds: float) -> str:
    """Write a time: `48 s`, `12 min`, `3.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
