"""Safetensors files, written one tensor at a time and read a few rows at a time: nobody holds all of one.

Source: the format is described at https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparring.core.errors import DataError

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.float64: "F64"}
PIECE = 2**26
"""Bytes that are written at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor to come."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class Stream:
    """Writes a safetensors file whose tensors come one after another, in the order of its entries.

    An error of the file system is kept until the end, so that ranks that gather tensors for it go on in step.
    """

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        """Begin a file.

        Args:
            path: where to.
            entries: what will come.
        """
        self.error: OSError | None = None
        self._path = path
        self._file: BinaryIO | None = None
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for entry in entries:
            begin, end = end, end + entry.num_bytes
            header[entry.name] = {
                "dtype": DTYPES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            self._file.write(len(text).to_bytes(8, "little") + text)
        except OSError as error:
            self._fail(error)

    def add(self, tensor: Tensor) -> None:
        """Write the next tensor, which has the next entry's shape and dtype."""
        if self._file is None:
            return
        data: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        try:
            for start in range(0, len(data), PIECE):
                self._file.write(data[start : start + PIECE])
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        error.filename = error.filename or str(self._path)
        self.error, self._file = error, None


class Rows:
    """Reads rows of the tensors in some safetensors files."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> set[str]:
        """Of the tensors."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a whole tensor's shape."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return rows of a tensor, or all of it."""
        if rows is None:
            return self._files[name].get_tensor(name)
        return self._files[name].get_slice(name)[rows]

    def copy(self, name: str, rows: slice | None, target: Tensor) -> None:
        """Copy rows of a tensor, or all of it."""
        with torch.no_grad():
            target.copy_(self.read(name, rows))


@contextmanager
def open_rows(*paths: Path) -> Iterator[Rows]:
    """Open safetensors files.

    Raises:
        DataError: one is missing or torn.
    """
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                files.update(dict.fromkeys(file.keys(), file))
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: unreadable ({error}).") from None
        yield Rows(files)
