"""The report of a damaged run folder: one message that names the file, never an error from the depths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import DataError
from sparring.report import write_report
from tests.report.growing_folder import GrowingFolder
from tests.report.run_folder import RunFolder

POOL = "seed-0/coevolve/round-1/pool.jsonl"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("damaged")
    growing = GrowingFolder(folder / "growing", arms=("sft", "coevolve"), num_rounds=2, every=1).write()
    return {"growing": growing, "pairs": RunFolder(folder / "pairs", num_rounds=1).write()}


@pytest.fixture
def mended() -> Any:
    """Give files their content back, so that the cases share their folders."""
    kept: dict[Path, bytes] = {}
    yield lambda path: kept.setdefault(path, path.read_bytes())
    for path, content in kept.items():
        path.write_bytes(content)


def put(record: Any, keys: str, value: Any) -> None:
    """Put a value in place of what `a/0/b` leads to; `...` takes the key out."""
    *before, last = (int(key) if key.isdigit() and isinstance(record, list) else key for key in keys.split("/"))
    for key in before:
        record = record[int(key)] if isinstance(record, list) else record[key]
    if value is ...:
        del record[last]
    else:
        record[int(last) if isinstance(record, list) else last] = value


HUGE = 10**400
ARM = "arms/coevolve/seeds/0"
PAIRED = "arms/eto/seeds/0"


@pytest.mark.parametrize(
    ("run", "name", "keys", "value"),
    [
        ("growing", "results.json", f"{ARM}/pool/0/retired/hopeless", HUGE),
        ("growing", "results.json", f"{ARM}/synthesis/0/counts", None),
        ("growing", "results.json", f"{ARM}/synthesis/0/outcomes/duplicate", "x"),
        ("growing", "results.json", f"{ARM}/synthesis/0/kinds", ...),
        ("growing", "results.json", f"{ARM}/pool/0/round", []),
        ("growing", "results.json", f"{ARM}/pool", "x"),
        ("pairs", "results.json", f"{PAIRED}/pairs/0/counts", ...),
        ("pairs", "results.json", f"{PAIRED}/rollouts/0/looping", HUGE),
        ("pairs", "results.json", f"{PAIRED}/rollouts/0/agent", None),
        ("pairs", "results.json", f"{PAIRED}/evaluations/0/round", None),
        ("pairs", "results.json", f"{PAIRED}/evaluations/0/round", [1]),
        ("pairs", "results.json", f"{PAIRED}/evaluations/0/rewards", {"a": float("inf")}),
        ("pairs", "results.json", "success_eps", "x"),
        ("pairs", "config.json", "arms", []),
        ("pairs", "config.json", "arms/eto", -1),
        ("pairs", "config.json", "arms/coevolving_agents/env/kinds", 7),
        ("pairs", "config.json", "arms/coevolving_agents/analysis", {"hard_thresholds": [None]}),
        ("growing", POOL, "origin", "x"),
        ("growing", POOL, "origin", ...),
    ],
    ids=lambda value: "" if isinstance(value, int) else None,
)
def test_what_no_run_writes_is_one_message(
    folders: dict[str, Path], mended: Callable[[Path], bytes], run: str, name: str, keys: str, value: Any
) -> None:
    path = folders[run] / name
    content = mended(path).decode()
    first, rest = content.split("\n", 1) if name.endswith("l") else (content, "")
    record = json.loads(first)
    put(record, keys, value)
    path.write_text(json.dumps(record) + "\n" + rest)
    with pytest.raises(DataError, match=path.name) as raised:
        write_report(folders[run])
    assert len(str(raised.value)) < 600
    assert str(raised.value).count(str(folders[run])) == 1


def test_a_held_out_episode_without_a_reward_counts_nowhere(
    folders: dict[str, Path], mended: Callable[[Path], bytes]
) -> None:
    path = folders["pairs"] / "results.json"
    record = json.loads(mended(path))
    rewards = record["arms"]["sft"]["seeds"]["0"]["evaluations"][0]["rewards"]
    rewards[next(iter(rewards))] = None
    path.write_text(json.dumps(record))
    assert write_report(folders["pairs"]).exists()


@pytest.mark.parametrize("name", ["report.html", "report.html.tmp"])
def test_a_folder_in_the_page_s_place_is_named(folders: dict[str, Path], name: str) -> None:
    place = folders["growing"] / name
    place.unlink(missing_ok=True)
    place.mkdir()
    try:
        with pytest.raises(DataError, match=f"{name}: can't be written"):
            write_report(folders["growing"])
    finally:
        place.rmdir()
