"""`sparring push`: a checkpoint goes to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sparring.core.folder import check_place
from sparring.core.ranges import Name
from sparring.core.terminal import write


@dataclass(frozen=True, kw_only=True)
class Options:
    """Upload a checkpoint to the Hugging Face Hub, with a model card that tells how it was made and what it scored.

    The token is HF_TOKEN's, or that of `hf auth login`.
    """

    checkpoint: tyro.conf.Positional[Path]
    """The folder of a model or an adapter, for instance a run's seed-0/eto/round-2/train-target/checkpoint."""
    repo: tyro.conf.Positional[Name]
    """The repository: NAME, or OWNER/NAME. It is made where there is none."""
    private: bool = False
    """Make the repository private, where it is new."""
    dry_run: bool = False
    """Upload nothing; write the folder that would be uploaded."""
    out: Path | None = None
    """That folder; none: the repository's name, here. It must not exist yet."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Upload, or write the folder, and print where it is."""
    from sparring.runs.publishing import stage, upload

    if not options.dry_run:
        write(upload(options.checkpoint, options.repo, private=options.private))
        return
    out = options.out or Path(options.repo.rpartition("/")[2])
    check_place(out.parent)
    names = stage(options.checkpoint, options.repo, out)
    write(f"{len(names)} files: {out}")
