"""Stands in for `vllm.entrypoints.cli.main` in tests: serves a model of ours at the address that it is told."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.vllm_serving import ModelServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    options, _ = parser.parse_known_args()
    name, most = options.served_model_name, options.max_model_len
    with ModelServer(options.model, name=name, max_model_len=most, port=options.port):
        time.sleep(600)


if __name__ == "__main__":
    main()
