"""List the texts of tool worlds that are the same everywhere, for the tokenizer to make one token of each.

A BFCL conversation begins with the docs of some forty functions, always in the same words: as a token for a signature
and one for a sentence they cost 80 tokens, where they cost 1,000 otherwise. So do AppWorld's first observation and the
code that logs in and reads pages. What differs from task to task is in none of them.

    python recipes/pretrain/whole_texts.py --out runs/pretrain/whole.json
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from sparring.envs.appworld.benchmark import GUIDE
from sparring.envs.appworld.drafting import ANSWER, PASSWORDS, pages
from sparring.envs.bfcl import functions_of
from sparring.envs.bfcl.functions import show_functions
from sparring.envs.bfcl.wheel import API_FILES

LEAST_CHARS = 12
"""Shorter texts are left to the merges."""

CODE = (
    "['access_token']",
    "apis.supervisor.complete_task(",
    "access_token=token",
    "access_token=",
    ".login(username='",
    ", password=passwords['",
    "Execution successful.",
    "Execution failed. Traceback:",
)


def whole_texts() -> list[str]:
    """List them, no two alike."""
    functions = functions_of(API_FILES)
    signatures = show_functions(functions, "signatures").split("\n")
    sentences = [f": {one.summary}" for one in functions]
    openings = [f"[{one.name}(" for one in functions]
    guide = [part for part in re.split(r"\{\w+\}", GUIDE) if len(part) >= LEAST_CHARS]
    start, _, end = pages("CALL(").partition("CALL(")
    loops = [start, end.removeprefix("access_token=token")]
    return list(dict.fromkeys([*signatures, *sentences, *openings, *guide, PASSWORDS, ANSWER, *loops, *CODE]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(whole_texts(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
