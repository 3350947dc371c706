"""A run's folder comes in, `report.html` goes out: one file, no network, light and dark.

Everything that a world or a model wrote is escaped: the template escapes by default, drawings escape in `svg`, the
trajectory list is JSON that no tag can break out of and is shown as text alone. A content security policy lets only the
page's own script run, should anything slip through.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparring.analysis.failures import AnalysisConfig
from sparring.core.errors import DataError
from sparring.core.journal import disk_errors
from sparring.core.text import printable
from sparring.report import (
    about,
    between_arms,
    browser,
    comparison,
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
    tables,
    updates,
)
from sparring.report.charts import staircase
from sparring.report.collect import Episodes, SampledEpisode, collect, sample_experts
from sparring.report.damage import content_of
from sparring.report.falls import SMALLEST_FALL, falls
from sparring.report.folder import PhaseFolder
from sparring.report.kept_pairs import read_pairs, wanted_of
from sparring.report.load import Loaded, load, run_names
from sparring.report.pair_list import list_pairs, sides_by_folder
from sparring.report.sections import Source
from sparring.report.text import between, contribution_lines, count, notice_lines, percent, pool_lines, reward, whole
from sparring.report.work import read_work

HERE = Path(__file__).parent
SAMPLE_BYTES = 24_000_000
"""Trajectories read for the page's list, as they lie on the disk; on the page they take less than half of that."""
EXPERTS_SHARE = 4
"""Experts' trajectories take a quarter as much, over all runs."""
MAX_NAME = 120
"""Characters of a comparison's file name."""
OF_ONE_RUN = ("contribution", "pool_lines", "figure_two")
"""What the page says of one method beside others of its run; a comparison leaves it out."""
SCRIPTS = ("elements", "theme", "state", "episodes", "words", "turns", "sides", "trajectories", "pairs", "tasks")
SCRIPTS += ("downloads", "live")
"""The page's script, file by file; each may use what stands before it."""


def write_page(
    folders: Sequence[Path], compare: Sequence[str] = (), *, out: Path | None = None, every: int | None = None
) -> Path:
    """Write the page; see `sparring.report.write_report` and `sparring.report.compare_runs`.

    Args:
        folders: of the runs.
        compare: two arms that are set side by side.
        out: where; none: `place_of`.
        every: seconds after which the page loads itself again, while the run is unfinished.
    """
    content = render(load(folders), compare, every=every).encode("utf-8", "replace")  # A lone surrogate has no UTF-8.
    path = out or place_of(folders)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with disk_errors(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        place = error.filename2 or error.filename
        raise DataError(f"{place}: can't be written ({error.strerror}). Move away what is in its place.") from None
    return path


def place_of(folders: Sequence[Path]) -> Path:
    """Return where the page goes: into a run's folder; of several runs, beside the first one's folder."""
    if len(folders) == 1:
        return folders[0] / "report.html"
    return folders[0].resolve().parent / f"{'-'.join(['compare', *run_names(folders)])[:MAX_NAME]}.html"


def render(loaded: Loaded, compare: Sequence[str] = (), *, every: int | None = None) -> str:
    """Return the page's HTML; arguments as for `write_page`."""
    results, config, run_dir = loaded.results, loaded.config, loaded.runs[0].folder
    with content_of(run_dir / "config.json"):
        own = config.get("arms", {}).get(results.featured.name, {})
        found = own.get("analysis", {}).get("hard_thresholds") or AnalysisConfig.hard_thresholds
        thresholds = tuple(float(one) for one in found)
        context = {
            "facts": [] if loaded.is_comparison else about.facts(results, config),
            "notes": about.notes(results, config),
            "settings": about.settings(config, results),
            "is_comparison": loaded.is_comparison,
            "states": [(run.name, run.state) for run in loaded.runs if run.state is not None],
            "every": every if any(run.state is not None for run in loaded.runs) else None,
        }
    with content_of(run_dir / "results.json"):
        context |= _sections(loaded, thresholds, compare)
        return _environment().get_template("page.html.j2").render(context)


def read_source(loaded: Loaded, thresholds: Sequence[float] = (), *, episodes: Episodes | None = None) -> Source:
    """Return what tables are made from; without `episodes`, trajectories are read for their task types alone."""
    return Source(
        results=loaded.results,
        episodes=episodes or collect(loaded.phases, max_bytes=0),
        thresholds=thresholds,
        costs=loaded.costs,
        work=read_work(loaded.phases),
    )


def _sections(loaded: Loaded, thresholds: Sequence[float], compare: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of the results and of the phases' files."""
    results, phases, is_one = loaded.results, loaded.phases, not loaded.is_comparison
    trainings, duel = read_pairs(phases, of_all=True), between_arms.duel(results, compare)
    pairs = [kept for kept in trainings if kept.phase.agent == "target"]
    shown, listed_pairs = pair_sides.last_pairs(pairs) if is_one else [], list_pairs(loaded, trainings)
    wanted = [wanted_of(shown, phases), between_arms.wanted_of(duel, phases) if duel else {}]
    sides = sides_by_folder(listed_pairs)
    episodes = collect(phases, max_bytes=SAMPLE_BYTES, watch=[results.featured.name], wanted=wanted, listed=sides)
    source = read_source(loaded, thresholds, episodes=episodes)
    experts = {one.id: one for run in loaded.runs for one in run.experts}
    sample = [*episodes.sample, *_experts(loaded, sides)]
    listed, num_listed, num_pairs = browser.payload(loaded, sample, listed_pairs)
    own = {
        "pair_sides": pair_sides.choose(results, shown, phases, episodes.found, experts),
        "made": synthetic.choose(loaded.runs[0].folder, results),
        "nearness": nearness.sections(loaded.runs[0].folder, results, loaded.runs[0].experts),
        "examples": examples.choose(
            list(experts.values()),
            results.featured,
            episodes.watched,
            threshold=thresholds[0],
            success_eps=results.success_eps,
        ),
    }
    return {
        **_numbers(source, phases),
        **(own if is_one else {key: [] for key in own}),
        **_tables(loaded, source),
        **({} if is_one else {"lede": comparison.lede(loaded, source), **dict.fromkeys(OF_ONE_RUN)}),
        "comparison": comparison.section(loaded, source),
        "updates": updates.reached(results, pairs, phases),
        "duel": between_arms.show(duel, results, phases, episodes.found) if duel else None,
        "papers": about.papers(results),
        "listed": listed,
        "num_listed": num_listed,
        "num_pairs": num_pairs,
        "num_all_pairs": sum(len(kept.records) for kept in trainings),
        "num_episodes": episodes.num_total + sum(len(run.experts) for run in loaded.runs),
        "costs": about.costs(results, source.costs),
        "versions": about.versions(loaded.runs[0].versions) if is_one else [],
    }


def _experts(loaded: Loaded, sides: Mapping[Path, set[str]]) -> list[SampledEpisode]:
    """Return the experts' trajectories that the page lists."""
    room = SAMPLE_BYTES // (EXPERTS_SHARE * len(loaded.runs))
    homes = [(run, run.folder.resolve()) for run in loaded.runs]
    return [one for run, home in homes for one in sample_experts(home, run.experts, room, sides.get(home, ()))]


def _tables(loaded: Loaded, source: Source) -> dict[str, Any]:
    """Return the table by task, and what can be taken elsewhere."""
    tasks, results = tables.tasks_table(source), source.results
    own = {"tasks": tasks.rows, "arms": [arm.label for arm in results.arms.values()], "keys": list(results.arms)}
    content = {**own, "methods_csv": tables.to_csv(tables.methods_table(source, loaded)), "name": results.name}
    return {
        "num_tasks": len(tasks.rows),
        "tables": Markup(browser.safe_json(content)),
        "latex": tables.to_latex(source) if results.num_tasks else "",
        "falls": [one.words for one in falls(results)],
        "smallest_fall": SMALLEST_FALL,
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
    script = "\n".join((HERE / "scripts" / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    style = "\n".join((HERE / name).read_text("utf-8") for name in ("style.css", "reading.css"))
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
