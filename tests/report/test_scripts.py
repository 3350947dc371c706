"""What the page's script does, in a real browser: filters, search, differences, addresses, keys and downloads."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from sparring.report import tables, write_report
from sparring.report.load import load
from sparring.report.page import SCRIPTS, read_source
from tests.report.run_folder import RunFolder
from tests.report.test_browser import BROWSER, OPTIONS
from tests.report.test_page import Page

SCRIPT_LINES = 400
"""Lines of one file of the page's script at most."""

PROBE = f"<script>{Path(__file__).with_name('probe.js').read_text('utf-8')}</script></body>"


def probed(page: Path, hash_: str = "", probe: str = PROBE) -> dict[str, Any]:
    """Return what a script appended to the page reports."""
    assert BROWSER
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    (page.parent / "probed.html").write_text(source.replace("</body>", probe), "utf-8")
    frame = page.parent / "frame.html"
    frame.write_text(
        f'<iframe src="probed.html{html.escape(hash_)}" width=1100 height=900></iframe><pre id="said"></pre>'
        '<script>onmessage = (event) => { document.getElementById("said").textContent = event.data; }</script>'
    )
    options = [option for option in OPTIONS if not option.startswith("--virtual")]
    command = [BROWSER, *options, "--virtual-time-budget=30000", f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, check=True, timeout=240)
    (said,) = re.findall(r'<pre id="said">(.+?)</pre>', done.stdout, re.DOTALL)
    found = json.loads(html.unescape(said))
    assert "error" not in found, found["error"]
    return found


def test_each_file_of_the_script_is_short_and_is_in_the_page(tmp_path: Path) -> None:
    folder = Path(tables.__file__).parent / "scripts"
    assert {path.stem for path in folder.glob("*.js")} == set(SCRIPTS)
    page = Page(write_report(RunFolder(tmp_path).write()))
    for path in folder.glob("*.js"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= SCRIPT_LINES, path.name
        assert text in page.scripts[2], path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path.name
        )


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunFolder(tmp_path_factory.mktemp("page") / "run", seeds=(0, 1)).write()


@pytest.fixture(scope="module")
def said(run_dir: Path) -> dict[str, Any]:
    if BROWSER is None:
        pytest.skip("no chromium: apt-get install chromium")
    return probed(write_report(run_dir))


def number(text: str) -> int:
    return int(re.sub(r"\D.*", "", text.replace(",", "")))


@needs_browser
class TestPage:
    def test_differences_are_by_words(self, said):
        pieces = [["same", "go to the "], ["out", "kitchen"], ["in", "hallway"], ["same", " now"]]
        assert said["difference"] == pieces
        assert said["same"] == [["same", "a b"]]
        assert said["long"] <= 4  # Too long to compare: one text for the other.
        assert said["hits"] == [[0, 8], [0, 2], []]

    def test_csv_of_the_page_is_that_of_the_command(self, said, run_dir):
        assert said["csv"] == '\'=1,"say ""x""","a,b",,-0.5\n'
        own = tables.to_csv(tables.tasks_table(read_source(load([run_dir]))))
        ours, theirs = (list(csv.reader(io.StringIO(text))) for text in (own, said["tasks_csv"]))
        assert ours[0] == theirs[0] and len(ours) == len(theirs) == 13
        for one, other in zip(ours[1:], theirs[1:], strict=True):
            assert one[:2] == other[:2] and list(map(float, one[2:])) == list(map(float, other[2:]))

    def test_tasks_are_sorted_and_the_best_is_marked(self, said):
        assert said["spreads"] == sorted(said["spreads"], reverse=True) and len(said["spreads"]) == 12
        assert said["sorted"][-1] == "descending" and not any(said["sorted"][:-1])
        for values, marks in said["best"]:
            best = [value == max(values) for value in values]
            assert marks == (best if max(values) > min(values) else [False] * len(values))

    def test_a_cell_leads_to_the_trajectories_of_its_task_and_method(self, said):
        hash_, keys, focused = said["cell"]
        assert "m=sft" in hash_ and "act=evaluate" in hash_ and focused == "SUMMARY"
        assert len(keys) == 2 and len({key.split("evaluate-target/")[1] for key in keys}) == 1

    def test_search_counts_and_marks_its_hits(self, said, run_dir):
        data = Page(run_dir / "report.html").data
        hits = [
            sum(data["texts"][i].lower().count("open door") for turn in row[11] for i in turn[:3] if i >= 0)
            + data["texts"][row[12]].lower().count("open door")
            for row in data["episodes"]
        ]
        assert number(said["searched"]) == sum(1 for num in hits if num)
        assert f"{sum(hits):,} hits" in said["searched"]
        assert "q=OPEN+DOOR" in said["in_hash"]
        assert said["marks"] == number(said["badge"]) == next(num for num in hits if num)
        assert said["thoughts"].startswith("None found")

    def test_two_trajectories_stand_side_by_side_from_where_they_part(self, said):
        sides = said["sides"]
        assert all(f"{name}={key}" in sides["hash"] for name, key in zip("tu", sides["keys"], strict=True))
        assert sides["labels"][0].startswith("A, ") and sides["labels"][1].startswith("B, ")
        assert sides["labels"][0] in (f"A, turn {sides['alike'] + 1}", "A, the end")
        assert sides["cells"] == 2 * (sides["longest"] - sides["alike"] + 1)
        assert sides["heads"] == ["A: target agent", "B: failure agent"] and sides["columns"] == 2

    def test_the_back_button_goes_back(self, said):
        assert said["back"] == [True, False, True]
        assert said["closed"] == 0
        assert "trajectories.jsonl" in said["origin"] and "sparring run RECIPE --out run" in said["origin"]

    def test_keys_walk_through_the_list(self, said):
        assert said["slash"] == "q"
        assert said["keys"] == [0, 1, 2, 1]

    def test_pairs_are_filtered_sorted_and_set_side_by_side(self, said, run_dir):
        data = Page(run_dir / "report.html").data
        assert number(said["pairs"]) == sum(row[4] == "failure>failure" for row in data["pairs"])
        gaps = [float(text) for text in said["gaps"]]
        assert gaps == sorted(gaps) and gaps[0] > 0
        assert [head.partition(":")[0] for head in said["pair_heads"]] == ["Chosen", "Rejected"]
        assert said["pair_hash"]

    @pytest.mark.parametrize("name", ["svg", "table_svg"])
    def test_a_drawing_stands_alone(self, said, name):
        root = ET.fromstring(said[name].partition("?>")[2])
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width")
        assert "class=" not in said[name] and "var(" not in said[name] and "light-dark" not in said[name]
        inked = [one for one in root.iter() if one.get("stroke", "none") != "none"]
        assert inked and all(one.get("stroke", "").startswith("rgb") for one in inked)
        assert any("Co-Evolving" in (one.text or "") for one in root.iter()) or name == "svg"


@needs_browser
def test_an_address_restores_filters_search_and_both_trajectories(run_dir: Path) -> None:
    page = write_report(run_dir)
    data = Page(page).data
    held = [row for row in data["episodes"] if row[2] == "evaluate" and row[4] == 2 and row[1] == "0"]
    one = next(row for row in held if data["keys"][row[0][0]] == "eto")
    other = next(row for row in held if data["keys"][row[0][0]] == "coevolving_agents" and row[6] == one[6])
    keys = [f"{data['keys'][row[0][0]]}/{row[1]}/{row[13]}" for row in (one, other)]
    probe = """<script>setTimeout(() => {
      const opened = [...document.querySelectorAll("#list details[open].episode")];
      parent.postMessage(JSON.stringify({
        keys: opened.map((one) => one.dataset.key), grid: opened[0].querySelectorAll(".sidegrid").length,
        other: opened[0].querySelector("select").value, q: document.querySelector("#filters [name=q]").value,
        m: document.querySelector("#filters [name=m]").value, hash: location.hash,
      }), "*");
    }, 1000);</script></body>"""
    said = probed(page, f"#m=eto&act=evaluate&q=door&t={keys[0]}&u={keys[1]}", probe)
    assert said["keys"] == [keys[0]] and said["other"] == keys[1]
    assert (said["q"], said["m"], said["grid"]) == ("door", "eto", 1)
