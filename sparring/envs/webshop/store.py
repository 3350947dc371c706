"""A catalogue too large for memory: written to a folder once, mapped from there at every start.

The folder holds the products as JSON Lines in the source's order, where each starts and ends in the order of ids, the
ids, the numbers of the products that have wishes, the arrays of the search index and the shelves, and, written last,
`complete.json`.
"""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparring.envs.webshop.products import Catalogue, Product, Review, Wish
from sparring.envs.webshop.search import build_index, open_index
from sparring.envs.webshop.shelves import ReadWhenAsked, build_shelves, open_shelves, save_shelves

FORMAT = 2
"""Changes with what is in the folder; part of its name, so that an older folder is never misread."""

COMPLETE = "complete.json"


class StoredProducts(ReadWhenAsked):
    """Products that are read from a mapped file when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._spans = np.load(folder / "spans.npy", mmap_mode="r", allow_pickle=False)
        with (folder / "products.jsonl").open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, number: int) -> Product:
        start, end = self._spans[number]
        return from_record(json.loads(self._lines[start:end]))


def cached_catalogue(products: Iterable[Product], folder: Path) -> Catalogue:
    """Open the catalogue kept in a folder; if there is none, write it first. `products` is then read, once.

    Two runs may write at the same time: each writes beside the folder, and the first to finish moves its own there.
    """
    if not (folder / COMPLETE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            write_catalogue(products, scratch)
            if not (folder / COMPLETE).exists():
                scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return open_catalogue(folder)


def write_catalogue(products: Iterable[Product], folder: Path) -> None:
    """Write a catalogue into an empty folder; never more than one product is held at a time."""
    ids: list[bytes] = []
    starts, has_wishes = array("q", [0]), array("q")
    with (folder / "products.jsonl").open("wb") as file:
        for product in products:
            if product.wishes:
                has_wishes.append(len(ids))
            ids.append(product.id.encode())
            line = json.dumps(to_record(product), ensure_ascii=False, separators=(",", ":")) + "\n"
            starts.append(starts[-1] + file.write(line.encode("utf-8", "replace")))
    names = np.array(ids)
    order = np.argsort(names, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    bounds = np.array(starts, np.int64)
    np.save(folder / "spans.npy", np.stack([bounds[:-1], bounds[1:]], axis=1)[order])
    np.save(folder / "ids.npy", names[order])
    np.save(folder / "asked_for.npy", number[np.array(has_wishes, np.int64)])
    stored = StoredProducts(folder)
    build_index((product.search_text() for product in stored), folder=folder)
    save_shelves(build_shelves((int(at), stored[int(at)]) for at in number), folder)
    (folder / COMPLETE).write_text(json.dumps({"format": FORMAT, "products": len(ids)}) + "\n", encoding="utf-8")


def open_catalogue(folder: Path) -> Catalogue:
    """Map a catalogue that `write_catalogue` has written."""
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    asked_for = np.load(folder / "asked_for.npy", allow_pickle=False)
    return Catalogue(
        StoredProducts(folder), ids, open_index(folder, len(ids)), open_shelves(folder), asked_for.tolist()
    )


def to_record(product: Product) -> dict[str, Any]:
    """Turn a product into JSON values."""
    record = {name: getattr(product, name) for name in Product.__dataclass_fields__}
    record["reviews"] = [[review.title, review.score, review.body] for review in product.reviews]
    record["wishes"] = [[wish.text, wish.attributes, wish.options] for wish in product.wishes]
    return record


def from_record(record: dict[str, Any]) -> Product:
    """Turn JSON values back into the product."""
    for name in ("features", "attributes"):
        record[name] = tuple(record[name])
    record["options"] = {name: tuple(values) for name, values in record["options"].items()}
    record["reviews"] = tuple(Review(title=title, score=score, body=body) for title, score, body in record["reviews"])
    record["wishes"] = tuple(
        Wish(text=text, attributes=tuple(attributes), options=None if options is None else tuple(options))
        for text, attributes, options in record["wishes"]
    )
    return Product(**record)
