"""The reward: each term by hand, and the whole against the definition written out once more, on random cases."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from sparring.envs.webshop.products import Product
from sparring.envs.webshop.reward import (
    COLORS,
    Goal,
    count_attributes,
    count_options,
    grade_type,
    purchase_reward,
    similarity,
    title_nouns,
)


def product(title: str = "Oak Chair", **changes) -> Product:
    fields = {
        "id": "P1", "title": title, "description": "", "features": (), "price": 20.0, "price_text": "$20",
        "kind": "furniture", "query": "chairs", "path": "Home › Furniture › Chairs",
    }  # fmt: skip
    return Product(**(fields | changes))


def goal(**changes) -> Goal:
    fields = {
        "product_id": "P1", "text": "a chair", "attributes": ("solid wood",), "options": {"color": "red"},
        "price_bound": 30.0,
    }  # fmt: skip
    return Goal(**(fields | changes))


# ── Similarity ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("solid wood", "wood, solid!", 100),  # the same words
        ("wood", "solid wood frame", 100),  # all of one's words
        ("", "wood", 0),
        ("?", "wood", 0),
        ("abcd", "bcde", 75),  # 2 · |bcd| / 8
        ("leak proof", "leak free", 63),  # leak, leak proof: 8/14 = 57; leak, leak free: 8/13 = 62; both: 12/19 = 63
        ("wet xab", "wet abx", 86),  # "wet xab" with "wet abx": "wet " and "ab", 12/14
    ],
)
def test_similarity_by_hand(one: str, other: str, expected: int):
    assert similarity(one, other) == similarity(other, one) == expected


def blocks(one: str, other: str) -> int:
    """Count the letters in Ratcliff and Obershelp's matching blocks: the longest common piece, then left and right."""
    size, start, at = 0, 0, 0
    for i in range(len(one)):
        for j in range(len(other)):
            k = 0
            while i + k < len(one) and j + k < len(other) and one[i + k] == other[j + k]:
                k += 1
            if k > size:
                size, start, at = k, i, j
    if not size:
        return 0
    return size + blocks(one[:start], other[:at]) + blocks(one[start + size :], other[at + size :])


def similarity_again(one: str, other: str) -> int:
    def words(text: str) -> set[str]:
        kept = "".join(c for c in text if not 128 <= ord(c) <= 255).lower()
        return set("".join(c if c.isalnum() or c == "_" else " " for c in kept).split())

    def ratio(a: str, b: str) -> int:
        return 100 if a == b else round(200 * blocks(a, b) / (len(a) + len(b))) if a and b else 0

    a, b = words(one), words(other)
    if not (a and b):
        return 0
    shared = sorted(a & b)
    texts = [" ".join(shared), " ".join(shared + sorted(a - b)), " ".join(shared + sorted(b - a))]
    return max(ratio(texts[i], texts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def random_text(rng: random.Random) -> str:
    words = ["red", "wood", "solid", "x-large", "40 mm", "café", "d'eau", "leak", "leaks", "a_b", "—"]
    words += ["".join(rng.choices("abc ", k=rng.randint(1, 6)))]
    return rng.choice((" ", "-", ", ")).join(rng.choices(words, k=rng.randint(0, 4)))


def test_similarity_on_random_texts():
    rng = random.Random(0)
    for _ in range(3_000):
        one, other = random_text(rng), random_text(rng)
        assert similarity(one, other) == similarity_again(one, other), (one, other)


# ── The terms ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_type_scores_by_hand():
    chair = product("Oak Chair")
    assert grade_type(product("Pine Chair"), chair) == 1.0  # one noun of two
    assert grade_type(product("Sofa", query="sofas", path="Toys"), chair) == 0.0  # none, whatever else fits
    long_title = "Oak Chair Seat Desk Stool Bench Sofa Couch Throne Table"  # ten nouns
    other = product("Oak Kite", query="kites", path="Toys › Kites")
    assert grade_type(other, product(long_title)) == 0.5  # one of ten: not below 0.1, not above 0.2
    assert grade_type(product("Oak Kite", query="chairs", path="Toys"), product(long_title)) == 1.0  # the search fits
    assert grade_type(product("Oak Kite", query="k", path="Home›Furniture"), product(long_title)) == 1.0  # two parts
    assert grade_type(product("Oak Kite", query="k", path="Home › Toys"), product(long_title)) == 0.5  # one part
    assert grade_type(other, product(long_title + " Shelf Lamp")) == 0.1  # one of twelve
    assert grade_type(other, product("The 3")) == 0.5  # no noun: 0.2 is assumed


def test_title_nouns():
    assert title_nouns("Women's 2-Pack Soft Cotton Socks for the Gym, XL") == [
        *("women", "pack", "cotton", "socks", "gym", "xl")
    ]


def test_attributes_by_hand():
    chair = product("Oak Chair", attributes=("solid woods",), features=("Easy clean", "Folds"), description="No smell")
    assert count_attributes(chair, ["solid wood"]) == 1  # 2 · 10 / 21 = 95
    assert count_attributes(chair, ["easy clean folds", "smell", "oak ch"]) == 3  # texts, the features as one
    assert count_attributes(chair, ["leather", "Oak"]) == 0  # texts are in lower case, wishes are taken as they are


def test_options_by_hand():
    assert count_options(["large", "red"], {"size": "large", "color": "red"}) == 2
    assert count_options(["small"], {"size": "large"}) == 0
    assert count_options(["large"], {"size": "x-large"}) == 1, "as in the benchmark: all its words are in the wish"
    assert count_options(["light blue"], {"color": "dark blue"}) == 1, "blue is blue"
    assert count_options(["standard"], {"size": "standard"}) == 0, "the benchmark finds the colour tan in it"
    assert count_options(["dark red"], ["wine red"]) == 0, "the first colour word each contains: dark, red"
    assert count_options([], {"color": "red"}) == 0
    assert COLORS[:3] == ("alabaster", "apricot", "aqua") and len(COLORS) == 102


def test_a_purchase_by_hand():
    """Two attributes of which one fits, two options of which one, the price: 3 of 5."""
    wanted = product("Oak Chair", attributes=("solid wood", "easy clean"))
    asked = goal(attributes=("solid wood", "lift top"), options={"color": "red", "size": "tall"})
    graded = purchase_reward(wanted, ["red", "short"], asked, wanted)
    assert (graded.type_score, graded.attributes_matched, graded.options_matched, graded.is_price_met) == (
        1.0,
        1,
        1,
        True,
    )
    assert graded.total == pytest.approx(3 / 5)
    dear = product("Oak Chair", attributes=("solid wood",), price=30.01)
    assert purchase_reward(dear, ["red"], asked, wanted).total == pytest.approx(2 / 5)
    exactly = product("Oak Chair", attributes=("solid wood",), price=30.0)
    assert purchase_reward(exactly, ["red"], asked, wanted).total == pytest.approx(3 / 5)


# ── The whole, against the definition ─────────────────────────────────────────────────────────────────────────────────


def reward_again(bought: Product, chosen: Mapping[str, str], asked: Goal, wanted: Product) -> float:
    """The definition, straight through."""
    ours, theirs = title_nouns(bought.title), title_nouns(wanted.title)
    title = len(set(ours).intersection(theirs)) / len(theirs) if theirs else 0.2
    parts = [{p.strip() for p in one.path.split("›")} for one in (bought, wanted)]
    fits = bought.query == wanted.query or len(parts[0] & parts[1]) > 1 or title > 0.2
    type_score = 0.0 if title == 0 else 0.1 if title < 0.1 else 1.0 if fits else 0.5

    points = 0
    for attribute in asked.attributes:
        points += any(similarity_again(own, attribute) > 85 for own in bought.attributes) or (
            attribute in bought.title.lower()
            or attribute in " ".join(bought.features).lower()
            or attribute in bought.description.lower()
        )

    def plain(option):
        for color in COLORS:
            if color in option:  # a part of a text, or one side of a pair
                return color
        return str(option)

    options = list(asked.options.items()) if isinstance(asked.options, Mapping) else list(asked.options)
    for option in options:
        points += any(similarity_again(plain(value), plain(option)) > 85 for value in chosen.values())
    points += bought.price <= asked.price_bound
    return type_score * points / (len(asked.attributes) + len(options) + 1)


def test_rewards_on_random_cases():
    rng = random.Random(0)
    attributes = ["solid wood", "solid woods", "easy clean", "easy care", "gluten free", "lift top", "anti slip"]
    values = ["red", "dark red", "navy blue", "x-large", "large", "standard", "2 pack", "2-pack", "wine\xa0red", "a1"]
    nouns = ["Oak", "Chair", "Table", "Kite", "the", "Soft", "Lamp", "Shelf", "Desk", "Bench", "Stool", "Sofa", "Rug"]

    def any_product() -> Product:
        return product(
            " ".join(rng.choices(nouns, k=rng.randint(1, 13))),
            attributes=tuple(rng.sample(attributes, rng.randint(0, 4))),
            description=rng.choice(("", "Gluten free and solid wood.")),
            features=tuple(rng.choices(("Anti slip", "lift", "top"), k=rng.randint(0, 3))),
            price=rng.choice((9.99, 30.0, 30.01)),
            query=rng.choice(("chairs", "kites")),
            path=rng.choice(("Home › Furniture › Chairs", "Home › Toys", "Furniture›Home")),
        )

    seen = set()
    for _ in range(3_000):
        bought, wanted = any_product(), any_product()
        named = rng.random() < 0.5
        options = {name: rng.choice(values) for name in rng.sample(["color", "size", "pack"], rng.randint(0, 3))}
        asked = goal(
            attributes=tuple(rng.sample(attributes, rng.randint(1, 4))),
            options=options if named else tuple(options.values()),
        )
        chosen = {name: rng.choice(values) for name in rng.sample(["color", "size", "pack"], rng.randint(0, 3))}
        total = purchase_reward(bought, chosen.values(), asked, wanted).total
        assert total == pytest.approx(reward_again(bought, chosen, asked, wanted), abs=1e-12)
        assert 0.0 <= total <= 1.0
        seen.add(round(total, 3))
    assert len(seen) > 25, "the cases cover many rewards"
