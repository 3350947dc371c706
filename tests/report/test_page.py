"""The report page: complete, self-contained, safe against what worlds and models write, and small."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.types import Turn
from sparring.report import browser, examples, write_report
from sparring.report.collect import allot, collect, read_experts
from sparring.report.folder import list_phases, read_costs
from sparring.report.load import load
from sparring.report.view import read_results
from tests.report.run_folder import HOSTILE, RunFolder


class Page(HTMLParser):
    """What a browser would make of the page: elements, their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def with_id(self, name: str) -> bool:
        return any(attributes.get("id") == name for _, attributes in self.elements)

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return RunFolder(tmp_path_factory.mktemp("run"), seeds=(0, 1)).write()


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return Page(write_report(run_dir))


def test_path_is_returned(run_dir, page):
    assert write_report(run_dir) == run_dir / "report.html"
    assert not (run_dir / "report.html.tmp").exists()


def test_page_has_every_section(page):
    for section in ("result", "rounds", "failures", "learning", "sides", "trajectories", "setup"):
        assert page.with_id(section), section
    for words in ("Co-Evolving Agents", "failure agent", "expert ≻ target", "hard negative", "averaged over action"):
        assert words in page.text, words
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", page.text)


def test_numbers_of_the_headline_are_the_results(run_dir, page):
    results = json.loads((run_dir / "results.json").read_text())
    seeds = results["arms"]["eto"]["seeds"]
    rewards = [r for s in seeds.values() for e in s["evaluations"] if e["round"] == 2 for r in e["rewards"].values()]
    assert f"{sum(rewards) / len(rewards):.3f}" in page.text


def test_page_fetches_nothing(page):
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert attributes.get("href", "#").startswith("#"), tag
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use"), tag
    assert "url(" not in page.source
    assert "@import" not in page.source
    source = page.source.replace("http://www.w3.org/2000/svg", "")  # A namespace: a name, and no address.
    assert "http://" not in source and "https://" not in source


def test_same_run_same_page(run_dir, page):
    assert write_report(run_dir).read_text("utf-8") == page.source


def test_what_worlds_and_models_write_can_not_leave_its_place(tmp_path):
    harmless = Page(write_report(RunFolder(tmp_path / "a").write()))
    hostile = Page(write_report(RunFolder(tmp_path / "b", is_hostile=True).write()))
    assert len(hostile.scripts) == len(harmless.scripts) == 3
    assert hostile.scripts[2] == harmless.scripts[2]
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in harmless.elements}
    for tag, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "pwned" not in " ".join(str(value) for _, attributes in hostile.elements for value in attributes.values())
    assert HOSTILE[0] in hostile.text  # Shown, as text.
    assert HOSTILE[3] in hostile.text
    for line_end in ("\u2028", "\u2029"):
        assert line_end not in hostile.scripts[0] + hostile.scripts[1]
    assert "<" not in hostile.scripts[0] + hostile.scripts[1] and "&" not in hostile.scripts[0] + hostile.scripts[1]


def test_list_gives_hostile_text_back_unchanged(tmp_path):
    run_dir = RunFolder(tmp_path, is_hostile=True).write()
    texts = Page(write_report(run_dir)).data["texts"]
    assert HOSTILE[1] in texts  # An action.
    assert any(HOSTILE[4] in text for text in texts)  # Line separators, a NUL, a bidi override, a lone surrogate.


def test_only_the_page_s_own_script_may_run(page):
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_hostile_names_in_results_and_config_are_escaped(tmp_path):
    run_dir = RunFolder(tmp_path).write()
    for name in ("results.json", "config.json", "versions.json"):
        path = run_dir / name
        path.write_text(
            path.read_text().replace('"ETO"', '"<script>ETO"').replace("sparring-worlds", "<img onerror=1>")
        )
    page = Page(write_report(run_dir))
    assert len(page.scripts) == 3
    assert "<script>ETO" in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")


def test_direction_overrides_are_shown_and_turn_nothing_around(tmp_path):
    folder = RunFolder(tmp_path, is_hostile=True).write()
    for name in ("results.json", "config.json", "versions.json"):
        path = folder / name
        text = path.read_text()
        for word in ("ETO", "quickstart", "find-plant", "0123abc", "sparring-worlds"):
            text = text.replace(f'"{word}', f'"\\u202e\\u2067{word}')
        path.write_text(text)
    page = Page(write_report(folder))
    assert not OVERRIDES.search(page.source)  # The list's JSON has them as escapes; the script shows them.
    for words in ("\\u202e\\u2067ETO", "\\u202e\\u2067quickstart", "\\u202e\\u2067sparring-worlds"):
        assert words in page.text, words
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.elements if tag == "svg"]
    assert any("\\u202e\\u2067ETO" in label for label in labels)


def test_headings_skip_no_level_and_what_scrolls_has_a_name_and_is_reached_by_keyboard(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    boxes = [attributes for _, attributes in page.elements if attributes.get("class") == "scroll"]
    assert len(boxes) >= 8
    assert {(box.get("tabindex"), box.get("role")) for box in boxes} == {("0", "region")}
    names = [box.get("aria-label") for box in boxes]
    assert all(names) and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arms", "rounds", "present", "absent"),
    [
        (("sft",), 0, ("result", "trajectories"), ("rounds", "learning", "sides")),
        (("sft", "rft"), 1, ("rounds", "failures"), ("learning",)),
        (("eto",), 1, ("rounds", "failures", "learning", "sides"), ()),
        (("coevolving_agents",), 1, ("rounds", "failures", "learning", "sides"), ()),
        (("sft", "eto", "coevolving_frozen"), 1, ("rounds", "failures", "learning", "sides"), ()),
    ],
)
def test_missing_parts_are_left_out(tmp_path, arms, rounds, present, absent):
    page = Page(write_report(RunFolder(tmp_path, arms=arms, num_rounds=rounds).write()))
    assert [name for name in present if not page.with_id(name)] == []
    assert [name for name in absent if page.with_id(name)] == []
    linked = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert [href for href in linked if not page.with_id(href[1:])] == []


def test_files_that_a_run_may_lack(tmp_path):
    run_dir = RunFolder(tmp_path).write()
    for name in ("timings.jsonl", "versions.json", "experts.jsonl"):
        (run_dir / name).unlink()
    for seed in run_dir.glob("seed-*"):
        shutil.rmtree(seed)  # A run whose trajectories were deleted to save space still has its results.
    page = Page(write_report(run_dir))
    assert page.with_id("result") and page.with_id("rounds")
    assert not page.with_id("trajectories") and not page.with_id("sides")


def test_partner_without_held_out_rewards_is_shown_while_exploring(tmp_path):
    page = Page(write_report(RunFolder(tmp_path, evaluates_partner=False).write()))
    rounds = page.source[page.source.index('id="rounds"') : page.source.index('id="failures"')]
    held_out, _, exploring = rounds.partition("while exploring")
    assert "failure agent" not in held_out
    assert "failure agent" in exploring


def test_torn_last_line_is_left_alone(tmp_path):
    run_dir = RunFolder(tmp_path).write()
    path = run_dir / "timings.jsonl"
    torn = path.read_bytes() + b'{"seed": 0, "ar'
    path.write_bytes(torn)
    write_report(run_dir)
    assert path.read_bytes() == torn


def test_unfinished_run_and_wrong_folder_say_so(tmp_path):
    with pytest.raises(DataError, match="is no run's folder"):
        write_report(tmp_path)
    run_dir = RunFolder(tmp_path / "run").write()
    (run_dir / "results.json").unlink()
    assert "Not finished" in Page(write_report(run_dir)).text


def test_list_stays_below_its_size_and_keeps_every_set(run_dir):
    loaded = load([run_dir])
    episodes = collect(loaded.phases, max_bytes=10**9)
    everything, num, _ = browser.payload(loaded, episodes.sample)
    assert num == episodes.num_total == len(episodes.sample)
    small, num_small, _ = browser.payload(loaded, episodes.sample, max_bytes=len(everything) // 3)
    assert len(small) <= len(everything) // 3
    assert 0 < num_small < num
    agents = {(row[1], row[2], row[3], row[4]) for row in json.loads(small)["episodes"]}
    assert agents == {(row[1], row[2], row[3], row[4]) for row in json.loads(everything)["episodes"]}


def test_sides_show_a_hard_negative_beside_a_worse_failure(run_dir):
    results = read_results(run_dir)
    arm = results.arms["coevolving_agents"]
    phases = list_phases(run_dir, ["0", "1"], list(results.arms))
    watched = collect(phases, max_bytes=0, watch=[arm.name]).watched
    chosen = examples.choose(read_experts(run_dir), arm, watched, threshold=0.6, success_eps=results.success_eps)
    assert 1 <= len(chosen) <= examples.MAX_EXAMPLES
    expert, target, partner = chosen[0].sides
    assert expert.trajectory.reward == 1.0
    assert target.trajectory.reward < partner.trajectory.reward < 1.0
    assert partner.trajectory.reward >= 0.6
    assert partner.role == "Failure agent’s hard negative"
    assert {side.trajectory.task.id for side in chosen[0].sides} == {chosen[0].task.id}


def test_hard_negatives_are_shares_of_the_failures_and_each_rollout_has_its_row(tmp_path):
    run_dir = RunFolder(tmp_path, refreshes=True).write()
    page = Page(write_report(run_dir))
    part = page.text[page.text.index("How many of the failures") : page.text.index("Success, hard negative")]
    for name in ("failure agent", "failure agent, second rollout", "target agent"):
        assert part.count(name) >= 2, name
    results = read_results(run_dir)
    phases = list_phases(run_dir, ["0"], list(results.arms))
    episodes = collect(phases, max_bytes=0)
    arm = results.arms["coevolving_agents"]
    for played in arm.played:
        for number in played.rounds:
            rewards = episodes.pooled((arm.name, played.kind, played.agent, number))
            failed = [reward for reward in rewards if reward < 1]
            hard = sum(reward >= 0.6 for reward in failed) / len(failed)
            assert played.mean_of(number, "hard_share", "0.6") == pytest.approx(hard)
    first, again = (episodes.pooled((arm.name, kind, "partner", 2)) for kind in ("rollout", "rollout-refreshed"))
    assert len(first) == len(again) and first != again


def test_cost_stands_beside_each_result(page):
    """Of each seed: two rounds of twelve episodes by two agents; two starts of 40 steps, four trainings of 6."""
    rows = re.findall(r"<tr.*?</tr>", page.source[page.source.index('class="headline"') :], re.DOTALL)
    (row,) = [row for row in rows if "Co-Evolving Agents" in row][:1]
    cells = re.findall(r'data-name="(Episodes|Optimizer steps)">(\d+)<small>partner (\d+)', row)
    assert cells == [("Episodes", "48", "24"), ("Optimizer steps", "104", "52")]


def test_page_says_that_its_list_is_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.report.page.SAMPLE_BYTES", 2_000)
    page = Page(write_report(RunFolder(tmp_path).write()))
    assert f"{len(page.data['episodes'])} of " in page.text
    assert "spread evenly" in page.text


def test_phases_that_arms_share_are_read_and_paid_for_once(run_dir):
    results = read_results(run_dir)
    phases = list_phases(run_dir, ["0", "1"], list(results.arms))
    starts = [p for p in phases if p.name == "round-0/evaluate-target" and p.seed == "0"]
    assert [p.arm for p in starts] == ["sft", "eto", "coevolving_agents"]
    assert len({p.path for p in starts}) == 1
    costs = read_costs(run_dir, phases)
    assert costs.by_phase["sft", "target"].num == 2  # Two seeds, not two seeds of three arms.
    assert costs.of("eto", "sft").cpu == pytest.approx(1.7 * 61)
    assert costs.of("sft").cpu < costs.of("eto").cpu < costs.of("coevolving_agents").cpu
    assert costs.of("coevolving_agents", "train", agent="partner").cpu == pytest.approx(2 * 1.7 * 55)
    assert costs.of("nobody") is None


def test_shares_of_the_sample_by_hand():
    sizes = {Path("a"): 10, Path("b"): 100, Path("c"): 200}
    assert allot(sizes, 150) == {Path("a"): 10, Path("b"): 70, Path("c"): 70}
    assert allot(sizes, 1000) == sizes


@pytest.mark.parametrize(
    ("text", "action", "said"),
    [
        ("look", "look", ""),
        ("Thought: hm.\nAction: look", "look", "Thought: hm."),
        ("Action: look", "look", ""),
        ("nonsense", "", "nonsense"),
        ("Thought: a\nAction: look\nand more", "look", "Thought: a\nAction: look\nand more"),
        ("", "", ""),
    ],
)
def test_what_was_said_besides_the_action(text, action, said):
    assert browser.spoken(Turn(observation="", text=text, action=action, reward=0.0)) == said


def test_long_texts_are_cut_with_a_word():
    assert browser.clip("a" * 10, 20) == "a" * 10
    assert browser.clip("a" * 1500, 20) == "a" * 20 + " … (1,480 more characters)"


def test_report_and_results_need_neither_torch_nor_transformers():
    code = (
        "import sys, sparring.report.page, sparring.report.results; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
