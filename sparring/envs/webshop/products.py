"""What is sold: products, the wishes that shoppers have written about them, and a catalogue to look them up and search.

A catalogue keeps its products in the order of their ids, so that search breaks ties as the benchmark's does.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparring.envs.webshop.search import SearchIndex, build_index
from sparring.envs.webshop.shelves import RANDOM, Listed, Shelves, build_shelves

NUM_HITS = 50
"""How many products a search finds at most, as in the benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    title: str
    score: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A text that says what someone wants, which a product answers."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] | None
    """The option values a person asked for; None: every combination of the product's options is a goal of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    id: str
    title: str
    description: str
    features: tuple[str, ...]
    price: float
    """What it costs, in dollars; where the shop gives a range, a price within it."""
    price_text: str
    kind: str
    """The department, such as `beauty`."""
    query: str
    """The search that turned it up when the catalogue was gathered: as good as its type."""
    path: str
    """Its place in the shop's tree of categories, parts set off by ›."""
    attributes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reviews: tuple[Review, ...] = ()
    rating: str = "N.A."
    wishes: tuple[Wish, ...] = ()

    def search_text(self) -> str:
        """Return what search finds it by: title, description, first feature and options."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join([self.title, self.description, self.features[0] if self.features else "", options]).lower()


class Catalogue:
    """Products by number, by id, and by search. Read only: any number of envs share one."""

    def __init__(
        self,
        products: Sequence[Product],
        ids: np.ndarray,
        index: SearchIndex,
        shelves: Shelves,
        asked_for: Sequence[int],
    ):
        """Take products in the order of their ids, and the numbers of those with wishes in the source's order."""
        self.products = products
        self.asked_for = asked_for
        self._ids = ids
        self._index = index
        self._shelves = shelves

    def __len__(self) -> int:
        return len(self.products)

    def get(self, product_id: str) -> Product | None:
        """Return a product, if there is one with this id."""
        wanted = product_id.encode("utf-8", "replace")
        at = bisect_left(self._ids, wanted)
        return self.products[at] if at < len(self._ids) and self._ids[at] == wanted else None

    def search(self, words: str, chance: random.Random | None = None) -> Sequence[Product]:
        """Return the products that fit the words best, or those that one of the benchmark's special searches lists.

        Args:
            words: what is searched for, in lower case; `<r>` first: any products; `<a>`, `<c>` or `<q>` first: those
                with this attribute, of this department, found by this query.
            chance: where `<r>` draws from; without it, it is an ordinary word.
        """
        if chance is not None and is_random(words):
            return Listed(self.products, chance.sample(range(len(self)), min(NUM_HITS, len(self))))
        listed = self._shelves.find(words)
        if listed is not None:
            return Listed(self.products, listed)
        return [self.products[number] for number in self._index.search(words, NUM_HITS)]


def is_random(words: str) -> bool:
    """Tell whether a search lists products by chance."""
    return words.split(" ", 1)[0] == RANDOM


def build_catalogue(products: Iterable[Product]) -> Catalogue:
    """Make a catalogue in memory. Source order is the order of `products`."""
    given = list(products)
    in_order = sorted(given, key=lambda product: product.id.encode())
    number = {product.id: i for i, product in enumerate(in_order)}
    return Catalogue(
        in_order,
        np.array([product.id.encode() for product in in_order]),
        build_index(product.search_text() for product in in_order),
        build_shelves((number[product.id], product) for product in given),
        [number[product.id] for product in given if product.wishes],
    )
