"""Products in, shelves out: which products have an attribute, belong to a department, or were found by a query.

The benchmark lists a shelf for the searches `<a> ATTRIBUTE`, `<c> DEPARTMENT` and `<q> QUERY`, whole and in the order
of its source.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from sparring.envs.webshop.search import term_key

if TYPE_CHECKING:
    from sparring.envs.webshop.products import Product

RANDOM, ATTRIBUTE, DEPARTMENT, QUERY = "<r>", "<a>", "<c>", "<q>"
"""First words of the benchmark's special searches. The first one lists products by chance."""

ARRAYS = ("keys", "starts", "numbers")
"""The arrays of shelves, each in a file of that name, after `shelf_`, where they are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelves:
    """The products of all shelves, one shelf after the other."""

    keys: np.ndarray
    """The shelves' hashes, sorted (uint64)."""
    starts: np.ndarray
    """Where each shelf starts, and where the last one ends (int64)."""
    numbers: np.ndarray
    """Numbers of products (int32)."""

    def find(self, words: str) -> np.ndarray | None:
        """Return the products that a special search lists; None: this is not one that asks for a shelf.

        As in the benchmark, only a search's first word after `<c>` counts.
        """
        mark, *rest = words.split(" ")
        if mark not in (ATTRIBUTE, DEPARTMENT, QUERY):
            return None
        name = " ".join(rest[:1] if mark == DEPARTMENT else rest).strip()
        key = term_key(f"{mark} {name}")
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return self.numbers[:0]
        return self.numbers[self.starts[at] : self.starts[at + 1]]


def build_shelves(products: Iterable[tuple[int, Product]]) -> Shelves:
    """Put products with their numbers on shelves, in the order in which they come."""
    shelves: dict[str, array[int]] = {}
    for number, product in products:
        for name in dict.fromkeys(_names(product)):
            shelves.setdefault(name, array("i")).append(number)
    in_order = sorted((int(term_key(name)), name) for name in shelves)
    sizes = [len(shelves[name]) for _, name in in_order]
    return Shelves(
        keys=np.array([key for key, _ in in_order], np.uint64),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        numbers=np.concatenate([np.zeros(0, np.int32), *(shelves[name] for _, name in in_order)]).astype(np.int32),
    )


def save_shelves(shelves: Shelves, folder: Path) -> None:
    for name in ARRAYS:
        np.save(folder / f"shelf_{name}.npy", getattr(shelves, name))


def open_shelves(folder: Path) -> Shelves:
    """Map shelves that `save_shelves` has written."""
    return Shelves(
        **{name: np.load(folder / f"shelf_{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    )


class ReadWhenAsked(Sequence["Product"]):
    """Products that are read one by one, when they are looked at."""

    @overload
    def __getitem__(self, at: int) -> Product: ...
    @overload
    def __getitem__(self, at: slice) -> list[Product]: ...
    def __getitem__(self, at: int | slice) -> Product | list[Product]:
        if isinstance(at, slice):
            return [self.read(number) for number in range(*at.indices(len(self)))]
        return self.read(at)

    @abstractmethod
    def read(self, number: int) -> Product:
        """Read one product."""


class Listed(ReadWhenAsked):
    """Products of a catalogue by their numbers, read when they are looked at: a shelf may be long."""

    def __init__(self, products: Sequence[Product], numbers: Sequence[int] | np.ndarray) -> None:
        self._products, self._numbers = products, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> Product:
        return self._products[int(self._numbers[number])]


def _names(product: Product) -> Iterator[str]:
    yield from (f"{ATTRIBUTE} {name}" for name in product.attributes)
    yield f"{DEPARTMENT} {product.kind}"
    yield f"{QUERY} {product.query}"
