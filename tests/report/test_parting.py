"""Two trajectories from where they part: pairs that begin alike, two arms on one task, the partner's updates."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.report import between_arms, pair_sides, updates, write_report
from sparring.report.collect import collect, read_experts
from sparring.report.folder import PhaseFolder, list_phases
from sparring.report.kept_pairs import KeptPairs, own_id, pairs_of, read_pairs, wanted_of
from sparring.report.parting import Parting, Side, evenly_spaced, num_alike, who_played
from sparring.report.view import Results, read_results
from tests.report.run_folder import HOSTILE, RunFolder
from tests.report.test_page import Page


def played(*actions: str, seen: str = "a room", reward: float = 0.5) -> Trajectory:
    turns = tuple(Turn(observation=f"{seen} {i}", text=a, action=a, reward=reward) for i, a in enumerate(actions))
    return Trajectory(
        id="round-2/rollout-target/find/1/0",
        task=Task(id="find/1", kind="find"),
        agent="target",
        turns=turns,
        final_observation="the end",
        reward=reward,
        stop=StopReason.DONE,
    )


def parting(one: Trajectory, other: Trajectory) -> Parting:
    sides = [Side(title=title, who="", agent="target", trajectory=t) for title, t in (("A", one), ("B", other))]
    return Parting(place="", sides=(sides[0], sides[1]))


def test_sides_part_where_what_they_do_differs():
    two = parting(played("look", "go", "take"), played("look", "go", "wait", "wait"))
    assert two.num_shared == 2
    assert two.seen == "a room 2"
    assert two.num_turns == 4
    assert two.reward == 0.5


def test_what_looks_the_same_and_was_seen_otherwise_is_not_shared():
    assert num_alike(played("look", "go"), played("look", "go", seen="another room")) == 0
    two = parting(played("look"), played("look", seen="another room"))
    assert two.seen == "" and two.goal == "" and two.reward == 0.0


def test_one_side_may_end_where_the_other_goes_on():
    two = parting(played("look"), played("look", "go"))
    assert two.num_shared == 1
    assert two.seen == ""  # the one saw the end there, the other another room
    assert parting(played("look"), played("look")).seen == "the end"


@pytest.mark.parametrize(("num", "shown"), [(3, [0, 4, 8]), (2, [0, 8]), (1, [0]), (20, list(range(9)))])
def test_evenly_spaced_holds_first_and_last(num: int, shown: list[int]):
    assert evenly_spaced(range(9), num) == shown


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return RunFolder(folder, seeds=(0, 1), num_rounds=3, refreshes=False, branches=True).write()


@pytest.fixture(scope="module")
def results(run_dir: Path) -> Results:
    return read_results(run_dir)


@pytest.fixture(scope="module")
def phases(run_dir: Path, results: Results) -> list[PhaseFolder]:
    return list_phases(run_dir, ["0", "1"], list(results.arms))


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page(write_report(run_dir))


class TestPairs:
    def test_every_pair_is_found_again_with_its_context(self, run_dir: Path, phases: list[PhaseFolder]):
        experts = {one.id: one for one in read_experts(run_dir)}
        for kept in read_pairs(phases):
            found = collect(phases, max_bytes=0, wanted=[wanted_of([kept], phases)]).found
            pairs = pairs_of(kept, phases, found, experts)
            assert len(pairs) == len(kept.records) > 0
            assert all(pair.chosen.task.id == pair.rejected.task.id for pair in pairs)
            pivots = [pair for pair in pairs if pair.kind == "pivot"]
            assert pivots
            for pair in pivots:
                assert num_alike(pair.chosen, pair.rejected) >= pair.chosen.num_given == pair.rejected.num_given > 0

    def test_pairs_whose_episodes_were_deleted_are_left_out(self, tmp_path: Path):
        run_dir = RunFolder(tmp_path, branches=True).write()
        results = read_results(run_dir)
        for folder in run_dir.glob("seed-0/eto/round-*/branch-target"):
            shutil.rmtree(folder)
        phases = list_phases(run_dir, ["0"], list(results.arms))
        kept = next(one for one in read_pairs(phases) if one.phase.arm == "eto")
        found = collect(phases, max_bytes=0, wanted=[wanted_of([kept], phases)]).found
        pairs = pairs_of(kept, phases, found, {one.id: one for one in read_experts(run_dir)})
        assert 0 < len(pairs) < len(kept.records)
        assert not [pair for pair in pairs if pair.kind == "pivot"]
        assert Page(write_report(run_dir)).with_id("pairs")  # of Co-Evolving Agents

    def test_last_round_of_the_first_seed_is_shown_pivots_first(
        self, run_dir: Path, results: Results, phases: list[PhaseFolder]
    ):
        shown = pair_sides.last_pairs(read_pairs(phases))
        assert {(one.phase.seed, one.phase.round) for one in shown} == {("0", 3)}
        found = collect(phases, max_bytes=0, wanted=[wanted_of(shown, phases)]).found
        experts = {one.id: one for one in read_experts(run_dir)}
        first, *_ = pair_sides.choose(results, shown, phases, found, experts)
        assert first["title"] == "Co-Evolving Agents"
        kinds = [one["kind"] for one in first["pairs"]]
        assert kinds[: pair_sides.MAX_PIVOTS] == ["pivot"] * pair_sides.MAX_PIVOTS
        counts = {one["name"]: (one["alike"], one["total"]) for one in first["counts"]}
        assert counts["pivot"][0] == counts["pivot"][1] > 0

    def test_page_folds_what_both_share_and_says_what_counts(self, page: Page):
        part = page.source[page.source.index('id="pairs"') : page.source.index('id="arms"')]
        assert part.count('class="beginning"') >= pair_sides.MAX_PIVOTS
        assert 'class="beginning" open' not in part
        assert "Chosen: target agent, round 3, playing on after turn" in part
        assert "Rejected: target agent, round 3" in part
        assert "it counts in the loss" in part and "From here on nothing counts in the loss." in part
        assert re.search(r"turn \d+ · \d\.\d\d", part)

    def test_who_played_and_when(self, results: Results):
        arm = results.arms["coevolving_agents"]
        one = played("look")
        again = replace(one, id="round-1/rollout-partner-refreshed/find/1/0", agent="partner")
        assert who_played(arm, one) == "target agent, round 2"
        assert who_played(arm, again) == "failure agent, round 1, second rollout"
        assert who_played(arm, replace(one, id="expert/find/1", agent="expert")) == "expert"

    @pytest.mark.parametrize(("name", "own"), [("a/1@3", "a/1"), ("a@b/1", "a@b/1"), ("a/1", "a/1")])
    def test_context_is_no_part_of_an_id(self, name: str, own: str):
        assert own_id(name) == own


class TestArms:
    def test_every_episode_is_counted_once_and_both_outcomes_are_shown(
        self, results: Results, phases: list[PhaseFolder]
    ):
        duel = between_arms.duel(results)
        assert duel is not None
        assert [arm.name for arm in duel.arms] == ["eto", "coevolving_agents"]
        found = collect(phases, max_bytes=0, wanted=[between_arms.wanted_of(duel, phases)]).found
        shown = between_arms.show(duel, results, phases, found)
        first, second = (arm.final() for arm in duel.arms)
        both = [(first[s][t], r) for s, rewards in second.items() for t, r in rewards.items() if t in first[s]]
        higher, lower = (group["num"] for group in shown["groups"])
        assert higher == sum(b > a for a, b in both) > 0
        assert lower == sum(b < a for a, b in both) > 0
        assert higher + lower + shown["num_alike"] == shown["num"] == len(both)
        for place, group in ((1, shown["groups"][0]), (0, shown["groups"][1])):
            assert len(group["pairs"]) == min(group["num"], between_arms.MAX_SHOWN)
            for one in group["pairs"]:
                ours, theirs = (one.sides[i].trajectory for i in (place, 1 - place))
                assert ours.task.id == theirs.task.id
                assert ours.reward > theirs.reward

    def test_largest_and_smallest_difference_are_among_those_shown(self, results: Results):
        duel = between_arms.duel(results)
        assert duel is not None
        gaps = sorted(gap for gap in duel.gaps.values() if gap > 0)
        shown = [duel.gaps[key] for key in duel.shown(1)]
        assert (shown[0], shown[-1]) == (gaps[-1], gaps[0])

    def test_any_two_arms_may_be_named(self, run_dir: Path, results: Results):
        text = Page(write_report(run_dir, ["sft", "coevolving_agents"])).text
        assert "The same held-out task: SFT and Co-Evolving Agents" in text
        for names, what in ((["sft", "nobody"], "no arm 'nobody'"), (["sft"], "two arms"), (["sft", "sft"], "two")):
            with pytest.raises(ConfigError, match=what):
                between_arms.duel(results, names)

    def test_one_arm_alone_has_nobody_beside_it(self, tmp_path: Path):
        page = Page(write_report(RunFolder(tmp_path, arms=("coevolving_agents",)).write()))
        assert not page.with_id("arms")


class TestUpdates:
    def test_in_the_paper_s_order_an_update_reaches_the_next_round(self, results: Results, phases: list[PhaseFolder]):
        (section,) = updates.reached(results, read_pairs(phases), phases)
        assert section["title"] == "Co-Evolving Agents"
        assert [row["updates"] for row in section["rows"]] == ["none", "round 1", "rounds 1, 2"]
        assert [row["is_updated"] for row in section["rows"]] == ["yes"] * 3
        assert section["rows"][0]["num_updated"] == 0 < section["rows"][0]["num_pairs"]
        assert "updated 3 times, per seed; 2 of its updates reached" in section["line"]

    def test_a_second_rollout_brings_it_in_the_same_round(self, tmp_path: Path):
        run_dir = RunFolder(tmp_path, arms=("sft", "coevolving_agents"), refreshes=True).write()
        results = read_results(run_dir)
        phases = list_phases(run_dir, ["0"], list(results.arms))
        (section,) = updates.reached(results, read_pairs(phases), phases)
        assert [row["updates"] for row in section["rows"]] == ["round 1", "rounds 1, 2"]
        assert "updated 2 times; 2 of its updates reached" in section["line"]

    def test_an_update_that_was_skipped_does_not_count(self, tmp_path: Path):
        run_dir = RunFolder(tmp_path, arms=("sft", "coevolving_agents"), num_rounds=3).write()
        shutil.rmtree(run_dir / "seed-0" / "coevolving_agents" / "round-1" / "train-partner")
        results = read_results(run_dir)
        phases = list_phases(run_dir, ["0"], list(results.arms))
        (section,) = updates.reached(results, read_pairs(phases), phases)
        assert [row["updates"] for row in section["rows"]] == ["none", "none", "round 2"]
        assert [row["is_updated"] for row in section["rows"]] == ["no", "yes", "yes"]

    def test_a_partner_that_never_learns_says_so(self, tmp_path: Path):
        run_dir = RunFolder(tmp_path, arms=("sft", "coevolving_frozen")).write()
        text = Page(write_report(run_dir)).text
        assert "The frozen partner was never updated" in text

    def test_late_starts_are_played_before_the_update_of_their_round(self):
        phase = PhaseFolder(
            seed="0", arm="a", name="round-2/train-target", round=2, act="train", agent="target", part="", path=Path()
        )
        names = ("round-2/branch-partner-late/x/0/0", "round-2/branch-partner-script-refreshed/x/0/0")
        lessons = [
            updates.lesson(
                KeptPairs(phase=phase, records=[{"kind": "expert>partner", "chosen": "expert/x", "rejected": name}]),
                [1, 2],
            )
            for name in names
        ]
        assert [one.updates for one in lessons] == [{1}, {1, 2}]
        assert [one.num_pairs for one in lessons] == [1, 1]


def test_hostile_text_stays_text_where_two_sides_part(tmp_path: Path):
    harmless = Page(write_report(RunFolder(tmp_path / "a", branches=True, refreshes=True).write()))
    hostile = Page(write_report(RunFolder(tmp_path / "b", branches=True, refreshes=True, is_hostile=True).write()))
    assert len(hostile.scripts) == 3
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in harmless.elements}
    for name in ("pairs", "arms"):
        begin = hostile.source.index(f'id="{name}"')
        part = hostile.source[begin : hostile.source.index("</section>", begin)]
        assert "&lt;/script&gt;&lt;script&gt;" in part, name
        assert HOSTILE[0] not in part and "<img" not in part, name
    names = [name for _, attributes in hostile.elements for name in attributes]
    assert not [name for name in names if name.startswith("on")]


def test_hostile_ids_in_pairs_are_no_way_out_of_the_run_s_folder(tmp_path: Path):
    run_dir = RunFolder(tmp_path, branches=True).write()
    path = run_dir / "seed-0" / "eto" / "round-2" / "train-target" / "pairs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["chosen"] = "../../../../etc/passwd"
    lines[1]["rejected"] = "<script>round-1/rollout-target/x@99999"
    (path.parent / "done.json").unlink()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    from sparring.core.phases import Phase

    Phase(path.parent).finish({"steps": 6})
    page = Page(write_report(run_dir))
    assert page.with_id("pairs") and "passwd" not in page.text
