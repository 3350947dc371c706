"""A task in, the actions of someone who knows what to buy out: search, page on, open, set the options, buy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sparring.core.types import Task
from sparring.envs.webshop.goals import to_goal
from sparring.envs.webshop.pages import BUY, NEXT, PAGE_SIZE
from sparring.envs.webshop.products import Catalogue, Product
from sparring.envs.webshop.reward import COLORS, Goal, is_similar

_PRICE_CLAUSE = re.compile(r", and price lower than [\d.]+ dollars$")


def expert_actions(catalogue: Catalogue, task: Task, turn_limit: int) -> list[str]:
    """Return the actions that buy a task's product, or none if no search brings it up soon enough.

    Of the searches tried, the first that takes the fewest turns is used.
    """
    goal = to_goal(task)
    product = catalogue.get(goal.product_id)
    if product is None:
        return []
    options = wanted_values(product, goal)
    best: list[str] = []
    for words in searches(product, goal):
        rank = next((i for i, hit in enumerate(catalogue.search(words)) if hit.id == product.id), None)
        if rank is None:
            continue
        clicks = [*[NEXT] * (rank // PAGE_SIZE), product.id, *options, BUY]
        if len(clicks) < turn_limit and (not best or len(clicks) < len(best) - 1):
            best = [f"search[{words}]", *(f"click[{text}]" for text in clicks)]
        if rank < PAGE_SIZE:
            break
    return best


def searches(product: Product, goal: Goal) -> Iterator[str]:
    """Yield search words for a goal, the most natural first: what the instruction says, last the product's title."""
    said = _PRICE_CLAUSE.sub("", goal.text)
    values = list(goal.options.values() if isinstance(goal.options, Mapping) else goal.options)
    wanted = [*goal.attributes, product.query]
    candidates = (wanted, [*wanted, *values], [said], [product.title])
    for parts in candidates:
        yield _searchable(" ".join(parts))


def wanted_values(product: Product, goal: Goal) -> list[str]:
    """Return the option values to click, one per option at most: those asked for, exactly or as the reward compares."""
    if isinstance(goal.options, Mapping):
        return list(goal.options.values())
    chosen: dict[str, str] = {}
    for wish in goal.options:
        for name, values in product.options.items():
            fitting = sorted(values, key=lambda value: value != wish)
            value = next((value for value in fitting if value == wish or _fits(value, wish)), None)
            if value is not None and name not in chosen:
                chosen[name] = value
                break
    return list(chosen.values())


def _fits(value: str, wish: str) -> bool:
    """Tell whether an option's value matches a wish, by the benchmark's rule for colours too."""
    colors = [next((color for color in COLORS if color in text), text) for text in (value, wish)]
    return is_similar(colors[0], colors[1])


def _searchable(words: str) -> str:
    """Drop what would break an action's form: brackets and line breaks."""
    return " ".join(re.sub(r"[\[\]\n\r]", " ", words).split()).lower()
