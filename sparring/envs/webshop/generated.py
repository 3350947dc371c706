"""A number in, an invented catalogue and its goals out: the world's default, ours from the first word to the last.

No product, brand or text of a real shop is in it. Products come in families that look alike on a results page: one
brand, one type, nearly the same attributes; what sets siblings apart is an attribute (which may stand on the features
page alone), the price, or the options they come in. So neither the first hit nor the title decides what to buy.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sparring.envs.webshop.goals import make_goal
from sparring.envs.webshop.products import Catalogue, Product, Review, build_catalogue
from sparring.envs.webshop.reward import Goal

NUM_PRODUCTS = 1_000
SEED = "the shop that never was, 1"
GOALS_PER_PRODUCT = 3
ATTRIBUTES_PER_PRODUCT = 5
"""Two stand in the title, one in the description, one in the first feature. Search reads all of these. The last, in
another feature, is found by looking alone."""

FAMILY_SIZES = (3, 4, 5)
DIFFERENCES = ("attribute", "price", "price", "options")
"""How a sibling differs: one attribute is another, it costs clearly more (as often as the other two together), or one
option comes in other values."""

LEAST_SURCHARGE = 12.0
"""Dollars that a dearer sibling costs more, beside its percentage."""

NEAREST_BOUNDS = 2
"""The benchmark draws a goal's price bound from the next four; here from two, which a dearer sibling breaks."""

_SENTENCES = ("{}. That is what counts for {}.", "{}, tried on {}.", "{}: good for {}.")
_OPINIONS = (
    ("does what it says", "5", "{}, as promised. We use it for {}."),
    ("good, with a catch", "4", "It is {} all right, but the box was dented."),
    ("not for me", "2", "It is {}; still I sent it back."),
    ("would buy again", "5", "Second one in the house. Made for {1}."),
)
_REQUESTS = (
    ("find me {attributes} {noun}", " with {listed}"),
    ("i need {attributes} {noun}", ", {plain}"),
    ("i am looking for {noun}, {attributes}", ", with {listed}"),
    ("please get me {attributes} {noun}", "; i want {plain}"),
)
"""How a product is asked for, and its options after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductType:
    """What all products of a type share."""

    kind: str
    noun: str
    path: str
    price: tuple[float, float]
    uses: tuple[str, ...]
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class _Line:
    """What a product of a family is made from."""

    brand: str
    attributes: list[str]
    options: dict[str, tuple[str, ...]]
    price: float


@cache
def vocabulary() -> tuple[tuple[str, ...], tuple[ProductType, ...]]:
    """Return the brands and the product types."""
    data: dict[str, Any] = tomllib.loads(Path(__file__).with_name("generated.toml").read_text(encoding="utf-8"))
    types = [
        ProductType(
            kind=entry["kind"],
            noun=entry["noun"],
            path=entry["path"],
            price=tuple(entry["price"]),
            uses=tuple(entry["uses"]),
            attributes=tuple(entry["attributes"]),
            options={
                name: tuple(data[values] if isinstance(values, str) else values)
                for name, values in entry["options"].items()
            },
        )
        for entry in data["types"]
    ]
    return tuple(data["brands"]), tuple(types)


def generated_catalogue(num: int = NUM_PRODUCTS) -> Catalogue:
    """Build the invented catalogue in memory; the same number gives the same catalogue anywhere."""
    return build_catalogue(generate_products(num))


def generate_products(num: int = NUM_PRODUCTS) -> Iterator[Product]:
    """Invent products, family by family, the types in turn; ids are dealt at random, so that they tell nothing."""
    rng = random.Random(SEED)
    brands, types = vocabulary()
    width = len(str(num))
    ids = [f"P{i:0{width}}" for i in range(1, num + 1)]
    rng.shuffle(ids)
    made = 0
    while made < num:
        for product_type in types:
            size = min(rng.choice(FAMILY_SIZES), num - made)
            yield from _family(rng, product_type, rng.choice(brands), ids[made : made + size])
            made += size


def _family(rng: random.Random, kind: ProductType, brand: str, ids: list[str]) -> Iterator[Product]:
    """Invent a product and its siblings, each of which differs from it in one way: see `DIFFERENCES`."""
    first = rng.sample(kind.attributes, ATTRIBUTES_PER_PRODUCT)
    options = {name: _some(rng, values) for name, values in kind.options.items()}
    price = rng.uniform(*kind.price)
    for i, product_id in enumerate(ids):
        line = _Line(brand=brand, attributes=list(first), options=dict(options), price=price)
        if i:
            line.price *= rng.uniform(0.9, 1.1)
            _differ(rng, kind, line, rng.choice(DIFFERENCES))
        yield _product(rng, kind, product_id, line)


def _differ(rng: random.Random, kind: ProductType, line: _Line, difference: str) -> None:
    if difference == "attribute":
        others = [attribute for attribute in kind.attributes if attribute not in line.attributes]
        line.attributes[rng.randrange(ATTRIBUTES_PER_PRODUCT)] = rng.choice(others)
    elif difference == "price":
        line.price = line.price * rng.uniform(1.3, 1.8) + LEAST_SURCHARGE
    else:
        name, values = rng.choice(list(kind.options.items()))
        others = tuple(value for value in values if value not in line.options[name])
        line.options[name] = others if len(others) >= 2 else _some(rng, values)


def _product(rng: random.Random, kind: ProductType, product_id: str, line: _Line) -> Product:
    noun, (use, other_use), attributes = kind.noun, rng.sample(kind.uses, 2), line.attributes
    reviews = [_review(rng, attributes, use) for _ in range(rng.randint(0, 2))]
    return Product(
        id=product_id,
        title=f"{line.brand} {attributes[0].title()} {noun.title()}, {attributes[1].title()}",
        description=f"{noun.capitalize()} for {use}, {attributes[2]}.",
        features=(
            rng.choice(_SENTENCES).format(attributes[3].capitalize(), other_use),
            rng.choice(_SENTENCES).format(attributes[4].capitalize(), use),
            f"{rng.choice((1, 2, 5))} year warranty.",
        ),
        price=float(int(line.price)),
        price_text=f"${int(line.price)}",
        kind=kind.kind,
        query=noun,
        path=kind.path,
        attributes=tuple(attributes),
        options=line.options,
        reviews=tuple(reviews),
        rating=f"{rng.uniform(3.2, 4.9):.1f}",
    )


def _some(rng: random.Random, values: tuple[str, ...]) -> tuple[str, ...]:
    """Draw some of an option's values, at least two, in their usual order."""
    chosen = rng.sample(values, rng.randint(2, min(5, len(values))))
    return tuple(value for value in values if value in chosen)


def _review(rng: random.Random, attributes: list[str], use: str) -> Review:
    title, score, body = rng.choice(_OPINIONS)
    return Review(title=title, score=score, body=body.format(rng.choice(attributes), use))


def generated_goals(catalogue: Catalogue) -> list[tuple[str, Goal]]:
    """List the invented catalogue's goals with their ids, in an order that mixes products."""
    goals = [goal for product in catalogue.products for goal in _goals_of(product)]
    random.Random(SEED).shuffle(goals)
    return goals


def _goals_of(product: Product) -> Iterator[tuple[str, Goal]]:
    """Ask for a product in several ways: two or three of its attributes and one value of each option."""
    rng = random.Random(f"{SEED} goals of {product.id}")
    asked: set[tuple[str, ...]] = set()
    while len(asked) < GOALS_PER_PRODUCT:
        attributes = rng.sample(product.attributes, rng.choice((2, 3, 3)))
        options = {name: rng.choice(values) for name, values in product.options.items()}
        wish = (*sorted(attributes), *options.values())
        if wish in asked:
            continue
        text = word_request(rng, product, attributes, options)
        key = f"{product.id}-{len(asked)}"
        asked.add(wish)
        yield f"{product.kind}/{key}", make_goal(product, key, text, attributes, options, nearest=NEAREST_BOUNDS)


def word_request(rng: random.Random, product: Product, attributes: Sequence[str], options: Mapping[str, str]) -> str:
    """Ask for a product with attributes and options, in wording drawn by `rng`."""
    request, choices = rng.choice(_REQUESTS)
    return (request + (choices if options else "")).format(
        attributes=", ".join(attributes),
        noun=product.query,
        listed=", and ".join(f"{name}: {value}" for name, value in options.items()),
        plain=", ".join(f"{name} {value}" for name, value in options.items()),
    )
