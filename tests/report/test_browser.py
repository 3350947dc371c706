"""The page in a real browser, on a narrow and on a wide screen: nothing sticks out, and every text can be read."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparring.report import write_report
from tests.report.growing_folder import GrowingFolder
from tests.report.run_folder import RunFolder

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--virtual-time-budget=8000", "--dump-dom"),
]

MEASURE = """<script>
setTimeout(() => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  setTimeout(() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), sizes = [];
    while (walker.nextNode()) {
      const one = walker.currentNode.parentElement;
      const isHidden = one.closest("script, style, title, option") || !one.checkVisibility();
      if (!walker.currentNode.data.trim() || isHidden) continue;
      const scale = one.ownerSVGElement ? one.getScreenCTM().a : 1;
      sizes.push(scale * parseFloat(getComputedStyle(one).fontSize));
    }
    const scrolls = (one) => one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1;
    const boxes = [...document.querySelectorAll(".scroll, pre")].filter(scrolls);
    parent.postMessage(JSON.stringify({
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      texts: sizes.length, smallest: Math.min(...sizes),
      scrolling: boxes.length, unreachable: boxes.filter((one) => one.tabIndex < 0).length,
    }), "*");
  }, 1000);
}, 300);
</script></body>"""


def measured(page: Path, width: int) -> dict[str, Any]:
    """Return what a browser says of the page, all its parts unfolded, on a screen of a width in pixels."""
    assert BROWSER
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    (page.parent / "probed.html").write_text(source.replace("</body>", MEASURE), "utf-8")
    frame = page.parent / "frame.html"
    frame.write_text(
        f'<iframe src="probed.html" width={width} height=900 style="border: 0"></iframe><pre id="said"></pre>'
        '<script>onmessage = (event) => { document.getElementById("said").textContent = event.data; }</script>'
    )
    command = [BROWSER, *OPTIONS, f"--user-data-dir={page.parent / 'profile'}", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (said,) = re.findall(r'<pre id="said">(.+?)</pre>', done.stdout)
    return json.loads(html.unescape(said))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("make", [partial(RunFolder, branches=True, refreshes=True), GrowingFolder])
def test_nothing_sticks_out_and_every_text_can_be_read(tmp_path: Path, make: Callable[..., RunFolder]) -> None:
    page = write_report(make(tmp_path / "run", seeds=(0, 1)).write())
    for width in (335, 390, 700, 910, 1200):
        found = measured(page, width)
        assert found["texts"] > 1000, width
        assert found["overflow"] == 0, width
        assert found["smallest"] >= 10.99, width
        assert (found["scrolling"] > 0 or width > 640) and found["unreachable"] == 0, width
