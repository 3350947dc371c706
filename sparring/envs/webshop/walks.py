"""Scripted walks through the invented shop: text for a base model to learn the shop's language from.

In: the benchmark on its invented catalogue, and a seed. Out: for training goals alone, the actions of shoppers who do
what can be done there: search with more or fewer words, page on and back, look at products and their sub-pages, set
options right or wrong, change their mind, and mostly buy in the end, the right thing or another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from sparring.core.types import Task
from sparring.envs.webshop.benchmark import TURN_LIMIT, WebShop
from sparring.envs.webshop.env import WebShopEnv
from sparring.envs.webshop.goals import to_goal
from sparring.envs.webshop.pages import BACK, BUY, NEXT, PREVIOUS, SUB_PAGES

SEARCHES_AGAIN, PAGES_ON, VISITS_ANOTHER = 0.15, 0.2, 0.4
"""How often a walk goes back to search once more, looks at the second page, or looks at another product first."""

READS, CHANGES_OPTION = 0.35, 0.15
"""How often a product's sub-page is read, and an option is set twice."""

IS_RIGHT, BUYS = 0.75, 0.9
"""How often the wanted product or option value is taken where it can be, and a walk that gets there buys."""


def walks(benchmark: WebShop, *, seed: int, num_per_task: int = 1) -> Iterator[tuple[Task, list[str]]]:
    """Yield walks over the training goals, each with its task; a walk depends on its task, its number and the seed.

    Raises:
        ValueError: the benchmark is on official data, whose texts belong in no corpus of ours.
    """
    if not benchmark.is_generated:
        raise ValueError("walks: only in the invented catalogue; build WebShop without path.")
    env = benchmark.make_env()
    for number in range(num_per_task):
        for task in benchmark.tasks("train"):
            yield task, walk(env, task, random.Random(f"walk {seed} {number} {task.id}"))


def walk(env: WebShopEnv, task: Task, rng: random.Random) -> list[str]:
    """Walk through the shop once; every action is one that the page allows, and there are ten at most."""
    walker = _Walker(env, task, rng)
    walker.search()
    if rng.random() < SEARCHES_AGAIN:
        walker.click(BACK)
        walker.search()
    if rng.random() < PAGES_ON:
        walker.click(NEXT)
        if rng.random() < IS_RIGHT:
            walker.click(PREVIOUS)
    if env.page.products and rng.random() < VISITS_ANOTHER:
        walker.visit(rng.choice(env.page.products))
        walker.click(PREVIOUS)
    if env.page.products:
        walker.visit(walker.choose())
        walker.set_options()
        if rng.random() < BUYS:
            walker.click(BUY)
    return walker.actions


class _Walker:
    """Acts, and knows what the page shows."""

    def __init__(self, env: WebShopEnv, task: Task, rng: random.Random) -> None:
        self.env, self.rng = env, rng
        self.goal = to_goal(task)
        self._options: dict[str, str] = dict(task.data["options"])
        self.actions: list[str] = []
        env.reset(task, 0)

    def search(self) -> None:
        """Search for the type, with some of the attributes and sometimes of the options."""
        wanted = self.env.wanted.query
        attributes = [attribute for attribute in self.goal.attributes if self.rng.random() < IS_RIGHT]
        values = self._options.values() if self.rng.random() > IS_RIGHT else ()
        self._act(f"search[{' '.join([*attributes, wanted, *values])}]")

    def click(self, text: str) -> None:
        if text in self.env.page.clickable():
            self._act(f"click[{text}]")

    def choose(self) -> str:
        """Choose a product on this page: mostly the wanted one if it is there."""
        products = self.env.page.products
        is_right = self.goal.product_id in products and self.rng.random() < IS_RIGHT
        return self.goal.product_id if is_right else self.rng.choice(products)

    def visit(self, product_id: str) -> None:
        """Open a product and sometimes read on."""
        self.click(product_id)
        if self.rng.random() < READS:
            self.click(self.rng.choice(SUB_PAGES))
            self.click(PREVIOUS)

    def set_options(self) -> None:
        """Set each option of the product that is open: mostly as wanted, sometimes another value, sometimes both."""
        options = self.env.product.options if self.env.product else {}
        for name, values in options.items():
            if self.rng.random() < CHANGES_OPTION:
                self.click(self.rng.choice(values))
            wanted = self._options.get(name, "")
            is_right = wanted in values and self.rng.random() < IS_RIGHT
            self.click(wanted if is_right else self.rng.choice(values))

    def _act(self, action: str) -> None:
        if len(self.actions) < TURN_LIMIT:
            self.actions.append(action)
            self.env.step(action)
