"""WebShop's part in making tasks: other wishes for training products, visits begun in the middle, and what was bought.

A synthetic task is a goal, as all tasks are, and may have more `data`:

    prefix   actions that are done at the reset, so that the visit begins on the page they lead to

Reward comes with the purchase alone, which ends a visit: before the start nothing is earned, and all that is earned
counts. No product that an evaluation task asks for is asked for here.

Source: ours.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from sparring.core.types import Task, Trajectory
from sparring.envs.synthesis import Draft, synthetic_id
from sparring.envs.webshop.env import WebShopEnv, parse_action
from sparring.envs.webshop.generated import NEAREST_BOUNDS as NEAREST_GENERATED
from sparring.envs.webshop.generated import word_request
from sparring.envs.webshop.goals import NEAREST_BOUNDS, make_goal, to_task
from sparring.envs.webshop.pages import ATTRIBUTES, BACK, BUY, NEXT, PREVIOUS, SUB_PAGES
from sparring.envs.webshop.products import Catalogue, Product, is_random

MAX_PRODUCTS = 12
"""Most products that a task's variations ask for."""

MAX_DRAWS = 20
"""How often a wish for a product is drawn until it is a new one."""

NUM_ATTRIBUTES = (2, 3)
"""How many attributes a wish names."""

Wish = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A product, the attributes, and the option values that are asked for, both in order."""


class WebShopSynthesis:
    """What WebShop offers (`Synthesis`)."""

    def __init__(self, catalogue: Catalogue, splits: Mapping[str, Sequence[Task]], *, is_generated: bool) -> None:
        """Args:
        catalogue: what is sold.
        splits: split → tasks; all but `train` are kept for evaluation.
        is_generated: whether the catalogue is ours, whose price bounds are tighter.
        """
        self._catalogue = catalogue
        self._nearest = NEAREST_GENERATED if is_generated else NEAREST_BOUNDS
        self._given = {_wish(task) for tasks in splits.values() for task in tasks}
        self._held_out = {task.data["product"] for split, tasks in splits.items() if split != "train" for task in tasks}
        self._by_kind: dict[str, list[str]] = {}
        for task in splits.get("train", ()):
            if task.data["product"] not in self._held_out:
                self._by_kind.setdefault(task.kind, []).append(task.data["product"])

    def variations(self, task: Task) -> list[Task]:
        """Ask for training products of the department in ways in which nobody has asked for them."""
        if task.data["product"] in self._held_out:
            return []
        ids = sorted(set(self._by_kind.get(task.kind, ())), key=lambda id: _draw(task.id, id))
        found = (self._catalogue.get(id) for id in ids[:MAX_PRODUCTS])
        made = (self._new_wish(task, product) for product in found if product is not None)
        return [one for one in made if one is not None]

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Begin on the page to which a prefix leads, which follows the task's own; not on the first or the last.

        What `search[<r>]` lists is another list at each reset: after it there is no restart.
        """
        if not prefix or task.data["product"] in self._held_out or any(map(_is_by_chance, prefix)):
            return None
        data = {**task.data, "prefix": [*task.data.get("prefix", ()), *prefix]}
        made = _named(task, "restart", data)
        env = WebShopEnv(self._catalogue)
        env.reset(made, 0)
        return made if env.purchase is None and env.page.buttons else None

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Ask for the product that was bought, with the options that were chosen: one more wish for it."""
        env = self._replay(trajectory)
        product = env.product
        if env.purchase is None or product is None or product.id in self._held_out:
            return None
        asked = [one for one in trajectory.task.data["attributes"] if one in product.attributes]
        attributes = list(dict.fromkeys([*asked, *product.attributes]))[: max(NUM_ATTRIBUTES)]
        if not attributes:
            return None
        options = {name: env.chosen[name] for name in product.options if name in env.chosen}
        made = self._make(trajectory.task, "relabel", product, attributes, options, query)
        if _wish(made) in self._given:
            return None
        prefix = trajectory.task.data.get("prefix")
        return _named(made, "relabel", {**made.data, "prefix": prefix}) if prefix else made

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Return none: a purchase ends the visit."""
        return None

    def footprint(self, task: Task) -> dict[str, str]:
        """Return the instruction, and the product with the option values that are asked for."""
        product, _, options = _wish(task)
        return {"text": task.data["instruction"], "answer": f"{product}: {', '.join(options)}"}

    def pattern(self, action: str) -> str:
        """Return the kind of an action: `search`, `buy`, the button, or whether a product or an option is clicked."""
        name, argument = parse_action(action)
        if name == "search":
            return "search"
        if name != "click":
            return ""
        buttons = {text.lower(): text for text in (BACK, PREVIOUS, NEXT, BUY, *SUB_PAGES, ATTRIBUTES)}
        if argument in buttons:
            return buttons[argument]
        return "product" if self._catalogue.get(argument.upper()) else "option"

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether something was bought: all else is looking."""
        return self._replay(trajectory).purchase is not None

    def _new_wish(self, base: Task, product: Product) -> Task | None:
        """Draw a wish for a product that is new; None where all seem to have been asked."""
        rng = random.Random(f"{base.id} wishes {product.id}")
        most = min(max(NUM_ATTRIBUTES), len(product.attributes))
        subsets = [one for num in NUM_ATTRIBUTES if num <= most for one in combinations(product.attributes, num)]
        for _ in range(MAX_DRAWS if subsets else 0):
            attributes = list(rng.choice(subsets))
            rng.shuffle(attributes)
            options = {name: rng.choice(values) for name, values in product.options.items()}
            made = self._make(base, "variation", product, attributes, options)
            if _wish(made) not in self._given:
                return made
        return None

    def _make(
        self,
        base: Task,
        made_by: str,
        product: Product,
        attributes: Sequence[str],
        options: Mapping[str, str],
        query: str = "",
    ) -> Task:
        key = f"{product.id} {', '.join([*attributes, *options.values()])}"
        text = word_request(random.Random(key), product, attributes, options)
        goal = make_goal(product, key, f"{query} {text}" if query else text, attributes, options, nearest=self._nearest)
        return _named(base, made_by, to_task(base.id, base.kind, goal).data)

    def _replay(self, trajectory: Trajectory) -> WebShopEnv:
        env = WebShopEnv(self._catalogue)
        env.reset(trajectory.task, trajectory.seed)
        for turn in trajectory.turns:
            env.step(turn.action)
        return env


def _is_by_chance(action: str) -> bool:
    name, argument = parse_action(action)
    return name == "search" and is_random(argument)


def _named(base: Task, made_by: str, data: Mapping[str, Any]) -> Task:
    return Task(id=synthetic_id(base.id, made_by, data), kind=base.kind, data=data)


def _wish(task: Task) -> Wish:
    options = task.data["options"]
    values = options.values() if isinstance(options, Mapping) else options
    return task.data["product"], tuple(sorted(task.data["attributes"])), tuple(sorted(values))


def _draw(*names: str) -> str:
    return hashlib.sha256("/".join(names).encode()).hexdigest()
