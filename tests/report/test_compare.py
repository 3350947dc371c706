"""Several runs on one page, an unfinished run's page, tables to take elsewhere, and rounds that lost reward."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import shutil
from pathlib import Path

import pytest

from sparring.analysis.statistics import paired_difference
from sparring.core.errors import ConfigError, DataError
from sparring.core.phases import DONE
from sparring.report import compare_runs, tables, write_report
from sparring.report.comparison import shared_lines
from sparring.report.falls import fall_lines, falls
from sparring.report.kept_pairs import read_pairs
from sparring.report.load import load, run_names
from sparring.report.page import place_of, read_source
from sparring.report.pair_list import even_shares, list_pairs
from sparring.report.parting import word_difference
from sparring.report.text import reward
from sparring.report.unfinished import is_locked, read_state
from sparring.report.view import results_from_json
from sparring.report.watch import watch
from tests.report.run_folder import HOSTILE, RunFolder
from tests.report.test_page import Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs of one world: the second has one more seed and other arms."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        RunFolder(folder / "first", arms=("sft", "eto"), seeds=(0, 1)).write(),
        RunFolder(folder / "second", arms=("sft", "eto", "coevolving_agents"), seeds=(1, 2)).write(),
    )


def changed(run_dir: Path, folder: Path, old: str, new: str) -> Path:
    shutil.copytree(run_dir, folder, symlinks=True)
    for name in ("config.json", "results.json"):
        (folder / name).write_text((folder / name).read_text().replace(old, new))
    return folder


class TestComparison:
    def test_page_names_arms_by_run_and_pairs_what_both_share(self, runs):
        path = compare_runs(runs)
        assert path == runs[0].parent / "compare-first-second.html"
        page = Page(path)
        for words in ("first: ETO", "second: ETO", "second: Co-Evolving Agents", "The same method in several runs"):
            assert words in page.text, words
        assert "first and second share all 12 held-out tasks and seed 1: differences are paired on these." in page.text
        loaded = load(runs)
        one, other = (loaded.results.arms[f"{name}/eto"].final() for name in ("first", "second"))
        gap = paired_difference(other, one)
        assert gap.num == 12  # one seed
        assert f"{reward(gap.mean, signed=True)}<small>" in page.source
        assert page.with_id("compared") and page.with_id("trajectories") and page.with_id("tasks")
        assert {name for name, *_ in page.data["runs"]} == {"first", "second"}
        assert {row[16] for row in page.data["episodes"]} == {0, 1}

    def test_runs_of_other_worlds_splits_models_and_seeds_are_told_in_plain_words(self, runs, tmp_path):
        first = load([runs[0]]).runs[0]
        config = json.loads((runs[0] / "config.json").read_text())["arms"]["eto"]
        cases = {
            "world": (f'"{config["env"]["id"]}"', '"elsewhere"', "of different worlds"),
            "split": ('"split": "test"', '"split": "dev"', "on different splits (“test” and “dev”)"),
            "model": (f'"{config["model"]["path"]}"', '"other-model"', "start from different base models"),
            "seed": ('"1": {', '"7": {', "first and seed share all 12 held-out tasks and seed 0"),
        }
        for name, (old, new, words) in cases.items():
            other = load([changed(runs[0], tmp_path / name, old, new)]).runs[0]
            assert any(words in line for line in shared_lines(first, other)), name

    def test_nothing_is_subtracted_across_worlds(self, runs, tmp_path):
        config = json.loads((runs[0] / "config.json").read_text())["arms"]["eto"]
        other = changed(runs[0], tmp_path / "other", f'"{config["env"]["id"]}"', '"elsewhere"')
        loaded = load([runs[0], other])
        source = read_source(loaded)
        arms = loaded.results.arms
        assert source.difference(arms["first/eto"], arms["other/eto"]).num == 0
        assert source.difference(arms["first/eto"], arms["first/sft"]).num == 24
        with pytest.raises(ConfigError, match="different worlds or splits"):
            compare_runs([runs[0], other], ["first/eto", "other/eto"], out=tmp_path / "page.html")
        assert "no difference is computed" in Page(compare_runs([runs[0], other], out=tmp_path / "page.html")).text

    def test_arms_of_any_two_runs_may_be_set_side_by_side(self, runs, tmp_path):
        page = Page(compare_runs(runs, ["first/eto", "second/coevolving_agents"], out=tmp_path / "x.html"))
        assert "The same held-out task: first: ETO and second: Co-Evolving Agents" in page.text
        with pytest.raises(ConfigError, match="no arm 'eto'"):
            compare_runs(runs, ["eto", "sft"], out=tmp_path / "y.html")

    def test_names_and_places(self, runs, tmp_path):
        assert run_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
        assert run_names([Path("a/x"), Path("b/x")]) == ["a-x", "b-x"]
        assert place_of([Path("/r/a"), Path("/q/b")]) == Path("/r/compare-a-b.html")
        with pytest.raises(ConfigError, match="named twice"):
            load([runs[0], runs[0]])
        with pytest.raises(DataError, match="no run's folder"):
            load([runs[0], tmp_path])

    def test_hostile_runs_are_text_on_this_page_too(self, runs, tmp_path):
        hostile = RunFolder(tmp_path / "hostile", is_hostile=True).write()
        page = Page(compare_runs([runs[0], hostile], out=tmp_path / "x.html"))
        assert len(page.scripts) == 3
        assert "<" not in page.scripts[0] + page.scripts[1]
        assert not [
            tag for tag, attributes in page.elements if tag == "img" or any(a.startswith("on") for a in attributes)
        ]
        assert HOSTILE[1] in page.data["texts"]


class TestUnfinished:
    @pytest.fixture
    def run_dir(self, tmp_path) -> Path:
        """A run of which the last arm's second round is at work."""
        run_dir = RunFolder(tmp_path / "run", seeds=(0, 1)).write()
        (run_dir / "results.json").unlink()
        shutil.rmtree(run_dir / "seed-1/coevolving_agents/round-2")
        late = run_dir / "seed-0/coevolving_agents/round-2"
        for phase in ("train-target", "evaluate-target", "evaluate-partner"):
            shutil.rmtree(late / phase)
        (late / "rollout-target" / DONE).unlink()
        return run_dir

    def test_page_shows_what_is_finished_and_says_what_is_missing(self, run_dir):
        whole = RunFolder(run_dir.parent / "whole", seeds=(0, 1)).write()
        page = Page(write_report(run_dir))
        assert "Not finished" in page.text
        assert "12 episodes so far" in page.text
        state = load([run_dir]).runs[0].state
        assert state is not None and state.num_finished == 4 and not state.is_running
        assert [one.name for one in state.at_work] == ["round-2/rollout-target"]
        words = {(one.arm, one.seed): one.words for one in state.arms}
        assert words["eto", "0"] == "finished"
        assert words["coevolving_agents", "1"] == "round 1 of 2 evaluated"
        part, all_of_it = (load([one]).results.arms for one in (run_dir, whole))
        assert part["eto"].final() == all_of_it["eto"].final()
        assert part["coevolving_agents"].rewards("target", 1) == all_of_it["coevolving_agents"].rewards("target", 1)
        assert part["coevolving_agents"].rounds() == [0, 1]
        assert "after round 1" in page.text

    def test_a_process_that_holds_the_run_shows(self, run_dir):
        config = json.loads((run_dir / "config.json").read_text())
        with (run_dir / ".lock").open("ab") as lock:
            assert not is_locked(run_dir)
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert is_locked(run_dir)
            assert "in progress" in read_state(run_dir, config).words

    def test_a_run_that_just_began_has_a_page(self, tmp_path):
        run_dir = RunFolder(tmp_path / "run").write()
        (run_dir / "results.json").unlink()
        for folder in run_dir.glob("seed-*"):
            shutil.rmtree(folder)
        page = Page(write_report(run_dir))
        assert "not begun" in page.text and "So far: no held-out task was played yet." in page.text
        assert not page.with_id("trajectories") or page.data["pairs"] == []

    def test_watch_writes_until_the_run_is_finished_and_only_then_stops_reloading(self, run_dir, capsys):
        pages = []

        def sleep(seconds: float) -> None:
            assert seconds == 3
            pages.append(Page(run_dir / "report.html"))
            if len(pages) == 2:
                shutil.rmtree(run_dir)
                RunFolder(run_dir, seeds=(0, 1)).write()

        watch([run_dir], every=3, sleep=sleep)
        bodies = [dict(attributes) for page in pages for tag, attributes in page.elements if tag == "body"]
        assert [body.get("data-every") for body in bodies] == ["3", "3"]
        last = Page(run_dir / "report.html")
        assert "data-every" not in dict(next(a for tag, a in last.elements if tag == "body"))
        assert "In progress" not in last.text and "Not finished" not in last.text
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 and lines[-1].endswith("finished.")

    def test_ctrl_c_ends_watching_in_one_line(self, run_dir, capsys):
        def sleep(_: float) -> None:
            raise KeyboardInterrupt

        watch([run_dir], every=3, sleep=sleep)
        assert capsys.readouterr().out.splitlines()[-1].startswith("Stopped watching.")

    def test_what_is_torn_for_a_moment_is_read_again_and_what_stays_torn_is_named(self, run_dir):
        path = run_dir / "seed-0/eto/round-2/evaluate-target/trajectories.jsonl"
        path.write_text("{}\n")
        turns = []
        with pytest.raises(DataError, match=r"trajectories\.jsonl"):
            watch([run_dir], every=1, sleep=turns.append)
        assert turns == [1]


class TestTables:
    def test_rows_are_the_results(self, runs):
        loaded = load([runs[1]])
        source = read_source(loaded)
        rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.methods_table(source, loaded)))))
        assert [row["arm"] for row in rows] == ["sft", "eto", "coevolving_agents"]
        final = loaded.results.arms["eto"].final()
        values = [value for rewards in final.values() for value in rewards.values()]
        assert float(rows[1]["mean_reward"]) == pytest.approx(sum(values) / len(values), abs=1e-6)
        gap = paired_difference(final, loaded.results.arms["sft"].final())
        assert float(rows[1]["minus_sft"]) == pytest.approx(gap.mean, abs=1e-6)
        assert rows[0]["minus_sft"] == ""
        by_task = {row["task"]: row for row in csv.DictReader(io.StringIO(tables.to_csv(tables.tasks_table(source))))}
        task = next(iter(final["1"]))
        mean = (final["1"][task] + final["2"][task]) / 2
        assert float(by_task[task]["eto"]) == pytest.approx(mean, abs=1e-6)
        means = [float(by_task[task][arm]) for arm in loaded.results.arms]
        assert float(by_task[task]["spread"]) == pytest.approx(max(means) - min(means), abs=1e-6)

    def test_json_holds_both_tables(self, runs):
        loaded = load(runs)
        source = read_source(loaded)
        text = tables.to_json(tables.methods_table(source, loaded), tables.tasks_table(source), loaded)
        record = json.loads(text)
        assert [one["name"] for one in record["runs"]] == ["first", "second"]
        assert len(record["methods"]) == 5 and len(record["tasks"]) == 12
        assert "NaN" not in text

    def test_formulas_are_text_to_a_spreadsheet(self):
        table = tables.Table(head=["task"], rows=[["=1+1"], ["+x"], ["a,b"], [-0.5], [None]])
        assert tables.to_csv(table).splitlines() == ["task", "'=1+1", "'+x", '"a,b"', "-0.5", '""']

    def test_latex_of_hostile_names_is_text(self, runs):
        assert tables.latex("a_b & 5 % $x$ {y} \\n~^#") == (
            "a\\_b \\& 5 \\% \\$x\\$ \\{y\\} \\textbackslash{}n\\textasciitilde{}\\textasciicircum{}\\#"
        )
        loaded = load([runs[1]])
        text = tables.to_latex(read_source(loaded))
        for words in ("\\toprule", "\\midrule", "\\bottomrule", "Co-Evolving Agents & "):
            assert words in text
        body = text[text.index("\\midrule") : text.index("\\bottomrule")]
        rows = [line for line in body.splitlines() if "&" in line]
        assert len(rows) == 3 and len({line.count("&") for line in rows}) == 1


def falling(*means: float, spread: float = 0.0, sft: float | None = None) -> dict:
    """An arm whose rounds earn these means on ten tasks, and perhaps SFT."""

    def seeds(values) -> dict:
        evaluations = [
            {
                "round": number,
                "agent": "target",
                "rewards": {f"t{i}": mean + (spread if i % 2 else -spread) * (-1) ** number for i in range(10)},
            }
            for number, mean in enumerate(values)
        ]
        return {"0": {"evaluations": evaluations}}

    arms = {"sft": {"method": "sft", "label": "SFT", "seeds": seeds([sft])}} if sft is not None else {}
    arms["eto"] = {"method": "eto", "label": "ETO", "seeds": seeds(means)}
    return {"name": "x", "split": "test", "success_eps": 1e-6, "arms": arms}


class TestFalls:
    def test_a_round_that_falls_is_named_with_its_interval(self):
        (fall,) = falls(results_from_json(falling(0.6, 0.6, 0.5)))
        assert (fall.round, fall.since) == (2, "round 1")
        assert fall.gap.mean == pytest.approx(-0.1)
        (line,) = fall_lines(falling(0.6, 0.6, 0.5))
        assert line == "Warning: ETO: held-out reward fell by 0.100 in round 2 against round 1 [−0.10, −0.10]."

    def test_what_may_be_chance_or_is_tiny_is_not(self):
        assert falls(results_from_json(falling(0.6, 0.55, spread=0.3))) == []
        assert falls(results_from_json(falling(0.6, 0.59))) == []
        assert len(falls(results_from_json(falling(0.6, 0.59)), at_least=0.005)) == 1

    def test_a_slow_decline_is_seen_against_sft(self):
        found = falls(results_from_json(falling(0.6, 0.59, 0.58, 0.57, sft=0.6)))
        assert [(fall.round, fall.since) for fall in found] == [(2, "SFT"), (3, "SFT")]

    def test_the_page_warns(self, tmp_path):
        run_dir = RunFolder(tmp_path / "run", num_rounds=1).write()
        record = json.loads((run_dir / "results.json").read_text())
        last = record["arms"]["eto"]["seeds"]["0"]["evaluations"][-1]
        last["rewards"] = dict.fromkeys(last["rewards"], 0.0)
        (run_dir / "results.json").write_text(json.dumps(record))
        page = Page(write_report(run_dir))
        assert "Held-out reward fell" in page.text and "in round 1 against its start" in page.text


class TestWords:
    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            (
                "go to kitchen",
                "go to hallway",
                ([("go to ", False), ("kitchen", True)], [("go to ", False), ("hallway", True)]),
            ),
            ("look", "look around", ([("look", False)], [("look", False), (" around", True)])),
            ("open door", "wait", ([("open door", True)], [("wait", True)])),
            ("a b", "c d", ([("a b", True)], [("c d", True)])),
            ("", "wait", ([("", True)], [("wait", True)])),
        ],
    )
    def test_differences_are_by_words(self, one, other, expected):
        assert word_difference(one, other) == expected
        for text, pieces in zip((one, other), word_difference(one, other), strict=True):
            assert "".join(piece for piece, _ in pieces) == text

    def test_the_page_marks_where_two_arms_part(self, runs):
        page = Page(write_report(runs[1]))
        assert '<em class="differs">' in page.source.split('id="data"')[0]


class TestPairList:
    def test_pairs_name_their_sides_and_are_spread_evenly(self, runs):
        loaded = load([runs[1]])
        trainings = read_pairs(loaded.phases, of_all=True)
        everything = list_pairs(loaded, trainings)
        assert len(everything) == sum(len(kept.records) for kept in trainings)
        assert {pair.agent for pair in everything} == {"target", "partner"}
        few = list_pairs(loaded, trainings, at_most=30)
        assert len(few) <= 30 + len({(pair.arm, pair.seed, pair.round, pair.kind, pair.agent) for pair in everything})
        groups = {(pair.arm, pair.seed, pair.round, pair.agent, pair.kind) for pair in few}
        assert groups == {(pair.arm, pair.seed, pair.round, pair.agent, pair.kind) for pair in everything}

    def test_page_holds_both_sides_of_each_pair(self, runs):
        page = Page(write_report(runs[1]))
        data = page.data
        assert data["pairs"]
        for pair in data["pairs"]:
            chosen, rejected = data["episodes"][pair[5]], data["episodes"][pair[6]]
            assert chosen[6] == rejected[6]  # the same task
            assert chosen[7] >= rejected[7]
            assert pair[7] == len(chosen[11]) and pair[8] == len(rejected[11])

    def test_shares_by_hand(self):
        assert even_shares([10, 100, 200], 150) == [10, 70, 70]
        assert even_shares([3, 2], 100) == [3, 2]
        assert even_shares([], 5) == []
