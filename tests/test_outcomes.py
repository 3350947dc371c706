"""What shipped examples and quickstarts end with: no method well below the imitation that it began with."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean

import pytest

from sparring.core.progress import SilentProgress
from sparring.report.view import results_from_json
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = sorted([*ROOT.glob("recipes/quickstart*.toml"), *ROOT.glob("examples/*.toml")])
NUM_SEEDS = int(os.environ.get("SPARRING_OUTCOME_SEEDS", "5"))
MAX_LOSS = 0.05


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_method_ends_below_its_start(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes a seed: these are whole runs."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    recipe = load_recipe(path, seeds=range(NUM_SEEDS))
    results = results_from_json(run_recipe(recipe, tmp_path, SilentProgress(), with_report=False))
    sft = results.first("sft")
    assert sft is not None
    start = {seed: fmean(rewards.values()) for seed, rewards in sft.final().items()}
    assert min(start.values()) > 0
    for arm in results.arms.values():
        final = {seed: fmean(rewards.values()) for seed, rewards in arm.final().items()}
        assert final.keys() == start.keys()
        assert {seed: end for seed, end in final.items() if end < start[seed] - MAX_LOSS} == {}, (arm.label, start)
