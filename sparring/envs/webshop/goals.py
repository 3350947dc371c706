"""A catalogue in, goals and their splits out.

A wish without options becomes one goal per combination of its product's options, a person's wish one goal. Every goal
has a price bound drawn from its own id, so that a goal is the same in every process.

Source: arXiv 2207.01206 and the benchmark's code (order, shuffling and ranges of the official goals).

Deviates: the benchmark draws the price bounds before it seeds its generator, so that its own differ from run to run.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sparring.core.types import Task
from sparring.envs.webshop.products import Catalogue, Product, Wish
from sparring.envs.webshop.reward import Goal

PRICE_BOUNDS = tuple(10.0 * i for i in range(1, 100))
"""Bounds are round: in tens of dollars, below 1,000."""

NEAREST_BOUNDS = 4
"""A goal's bound is the larger of two drawn from so many, the next above its product's price."""

NO_BOUND = 1_000_000.0
"""The bound of a goal that names none, because its product costs too much."""

SHUFFLE_SEED = 233
"""The official goals are shuffled with this."""

OFFICIAL_RANGES: Mapping[str, tuple[int, int | None]] = {"test": (0, 500), "dev": (500, 1500), "train": (1500, None)}
"""The official splits: positions in the shuffled list of goals."""

TEST_SHARE, DEV_SHARE = 0.2, 0.1
"""How many of the products are for test and dev where goals are split by product."""

MOST_SYNTHETIC_PRODUCTS = 2_000
"""Of how many products all combinations are listed, the source's first: a million products have tens of millions."""


def official_goals(catalogue: Catalogue, *, is_human: bool) -> list[tuple[str, Goal]]:
    """List a catalogue's goals with their ids, shuffled as the benchmark does: those of people, or the synthetic."""
    pairs = _human_wishes(catalogue) if is_human else _synthetic_wishes(catalogue)
    goals = [goal for product, key, wish in pairs for goal in expand(product, key, wish)]
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals


def _human_wishes(catalogue: Catalogue) -> Iterator[tuple[Product, str, Wish]]:
    for product in (catalogue.products[number] for number in catalogue.asked_for):
        wishes = [wish for wish in product.wishes if wish.options is not None]
        for i, wish in enumerate(wishes):
            yield product, f"{product.id}-h{i}", wish


def _synthetic_wishes(catalogue: Catalogue) -> Iterator[tuple[Product, str, Wish]]:
    products = (catalogue.products[number] for number in catalogue.asked_for)
    wishes = ((product, product.id, wish) for product in products for wish in product.wishes if wish.options is None)
    return itertools.islice(wishes, MOST_SYNTHETIC_PRODUCTS)


def expand(product: Product, key: str, wish: Wish) -> Iterator[tuple[str, Goal]]:
    """Turn a wish into goals with their ids, in the benchmark's wording and order."""
    if not wish.attributes:
        return
    if wish.options is not None:
        yield f"{product.kind}/{key}", make_goal(product, key, wish.text.strip("."), wish.attributes, wish.options)
        return
    names = sorted(product.options)
    for i, values in enumerate(itertools.product(*(product.options[name] for name in names))):
        options = dict(zip(names, values, strict=True))
        listed = ", and ".join(f"{name}: {value}" for name, value in options.items())
        text = f"{wish.text} with {listed}" if listed else wish.text
        yield f"{product.kind}/{key}-{i}", make_goal(product, f"{key}-{i}", text, wish.attributes, options)


def make_goal(
    product: Product,
    key: str,
    text: str,
    attributes: Sequence[str],
    options: Mapping[str, str] | tuple[str, ...],
    *,
    nearest: int = NEAREST_BOUNDS,
) -> Goal:
    """Make a goal with a price bound, drawn by `key` from the `nearest` ones, and name the bound in its text."""
    bounds = [bound for bound in PRICE_BOUNDS if bound > product.price][:nearest]
    pairs = list(itertools.combinations(bounds, 2))
    bound = max(pairs[int(_draw(f"bound of {key}") * len(pairs))]) if pairs else NO_BOUND
    clause = f", and price lower than {bound:.2f} dollars" if bound < NO_BOUND else ""
    return Goal(
        product_id=product.id, text=text + clause, attributes=tuple(attributes), options=options, price_bound=bound
    )


def split_officially(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Split shuffled goals by their positions, as the benchmark does."""
    return {split: list(tasks[start:end]) for split, (start, end) in OFFICIAL_RANGES.items()}


def split_by_product(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Split goals so that all of a product's are on one side; its id alone decides which."""
    splits: dict[str, list[Task]] = {"train": [], "dev": [], "test": []}
    for task in tasks:
        drawn = _draw(f"split of {task.data['product']}")
        split = "test" if drawn < TEST_SHARE else "dev" if drawn < TEST_SHARE + DEV_SHARE else "train"
        splits[split].append(task)
    return splits


def _draw(key: str) -> float:
    """Draw a number in [0,1) that a text alone decides."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "little") / 2**48


def to_task(task_id: str, kind: str, goal: Goal) -> Task:
    """Turn a goal into a task, whose data says all there is to know of it."""
    options: Any = dict(goal.options) if isinstance(goal.options, Mapping) else list(goal.options)
    data = {
        "product": goal.product_id,
        "instruction": goal.text,
        "attributes": list(goal.attributes),
        "options": options,
        "price_bound": goal.price_bound,
    }
    return Task(id=task_id, kind=kind, data=data)


def to_goal(task: Task) -> Goal:
    """Turn a task back into its goal."""
    options = task.data["options"]
    return Goal(
        product_id=task.data["product"],
        text=task.data["instruction"],
        attributes=tuple(task.data["attributes"]),
        options=dict(options) if isinstance(options, Mapping) else tuple(options),
        price_bound=task.data["price_bound"],
    )
