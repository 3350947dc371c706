"""`sparring merge`: an adapter is added to its base model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sparring.cli.output import showing
from sparring.core.folder import check_place
from sparring.core.ranges import Place
from sparring.core.terminal import write
from sparring.models.loading import hush_loading


@dataclass(frozen=True, kw_only=True)
class Options:
    """Add an adapter's weights to its base model's, and write a plain Hugging Face folder that needs no PEFT."""

    adapter: tyro.conf.Positional[Path]
    """The adapter's folder (adapter_config.json, adapter_model.safetensors)."""
    out: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet."""
    base: Place | None = None
    """The base model's folder, Hub id or bundled name; none: the one that the adapter names."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Merge an adapter and print the folder's path."""
    from sparring.models.merge import merge

    check_place(options.out.parent)
    hush_loading([options.base or ""])
    with showing(quiet=True):
        merge(options.adapter, options.out, options.base)
    write(str(options.out))
