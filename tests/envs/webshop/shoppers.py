"""Reference shoppers for the tests: one who buys the first hit, and one who clicks at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparring.core.types import Task
from sparring.envs.webshop import WebShop


def play(world: WebShop, task: Task, actions: Sequence[str]) -> float:
    """Play a visit and return its reward."""
    env = world.make_env()
    env.reset(task, 0)
    reward = 0.0
    for action in actions:
        reward = env.step(action).reward
    return reward


def search_words(task: Task) -> str:
    """Return the instruction as something to search for."""
    return task.data["instruction"].translate(str.maketrans("[]", "  "))


def first_hit(world: WebShop, task: Task) -> list[str]:
    """Search for the instruction, open the first hit, set of each option the longest value it names, and buy."""
    hits = world.catalogue.search(search_words(task))
    if not hits:
        return []
    text = task.data["instruction"]
    named = [[value for value in values if value in text] for values in hits[0].options.values()]
    options = [max(values, key=len) for values in named if values]
    clicks = [hits[0].id, *options, "Buy Now"]
    return [f"search[{search_words(task)}]", *(f"click[{text}]" for text in clicks)]


def random_clicks(world: WebShop, task: Task, rng: random.Random) -> float:
    """Search for the instruction, then click anything, for ten turns; return the reward."""
    env = world.make_env()
    env.reset(task, 0)
    reward = 0.0
    for _ in range(world.turn_limit(task)):
        clickable = env.page.clickable()
        answer = env.step(f"click[{rng.choice(clickable)}]" if clickable else f"search[{search_words(task)}]")
        reward = answer.reward
        if answer.is_done:
            break
    return reward
