"""Record a run's experts, which it has played in its world, as demonstrations: runs that name them need not play them.

In: a run's folder. Out: a file for `expert.path`, packed, the same bytes each time.

    sparring run recipes/quickstart.toml --out runs/played --expert.path none --arms sft
    python recipes/gold/demonstrations.py runs/played recipes/quickstart-experts.jsonl.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from sparring.core.records import read_trajectories
from sparring.rollouts.demonstrations import demonstration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    experts = read_trajectories(args.run / "experts.jsonl")
    text = "".join(json.dumps(demonstration(expert), ensure_ascii=False) + "\n" for expert in experts)
    args.out.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0))
    print(f"{len(experts)} demonstrations: {args.out}")


if __name__ == "__main__":
    main()
