"""What the site needs besides the pages in docs/.

The home page is the README, and the reference lists the names that `sparring` exports. Links to files outside docs/
work on a code host. On the site they lead to the repository where `repo_url` is set, and else they are plain text.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent
REFERENCE = """\
# The public names

Everything below is imported from `sparring`, by its name alone: `from sparring import Trajectory`. Each name is loaded
when it is first used, so `import sparring` loads neither torch nor transformers.
"""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
GENERATED = ("results/*.json", "results/*.md")
"""Below docs/, but no pages: the figures from which docs/results.md is made."""


def on_files(files: Any, config: Any) -> Any:
    """Add the home page and the reference, and leave out what is no page."""
    for file in list(files):
        if any(Path(file.src_uri).match(pattern) for pattern in GENERATED):
            files.remove(file)
    text = (ROOT / "README.md").read_text("utf-8")
    files.append(File.generated(config, "index.md", content=_moved(text, "", "docs", config)))
    files.append(File.generated(config, "api.md", content=_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mend the links of a page."""
    if page.file.src_uri in ("index.md", "api.md"):
        return markdown
    here = posixpath.dirname(f"docs/{page.file.src_uri}")
    return _moved(markdown, here, here, config)


def _reference() -> str:
    """Return the page of the public names, in the order of the rooms that they live in."""
    sys.path.insert(0, str(ROOT))  # MkDocs restores the path once a hook is loaded
    from sparring import _HOMES

    parts = [REFERENCE]
    for module, names in _HOMES.items():
        parts += [f"## sparring.{module}", *(f"::: sparring.{module}.{name}" for name in names)]
    return "\n\n".join(parts)


def _moved(text: str, source: str, place: str, config: Any) -> str:
    """Return a text with links that are right for a page in folder `place`, written for one in folder `source`."""

    def mended(link: re.Match[str]) -> str:
        target, anchor = link["target"], link["anchor"] or ""
        if re.match(r"[a-z]+:|/", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(source, target))
        if path == "README.md":
            path = "docs/index.md"
        if (
            path.startswith("docs/")
            and not any(Path(path).match(f"docs/{one}") for one in GENERATED)
            and path[-1] != "/"
        ):
            if (ROOT / path).is_dir():
                return link["text"]
            return f"{link['image']}[{link['text']}]({posixpath.relpath(path, place)}{anchor})"
        if config.repo_url:
            return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return link["text"] if "`" in link["text"] or link["text"] != path else f"`{path}`"

    return LINK.sub(mended, text)
