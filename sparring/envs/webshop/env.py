"""One shopper's visit: actions in, pages out, a reward for the purchase. Envs share the catalogue and cost little."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.base import EnvStep
from sparring.envs.webshop.goals import to_goal
from sparring.envs.webshop.pages import (
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    Page,
    end_page,
    item_page,
    results_page,
    search_page,
    sub_page,
)
from sparring.envs.webshop.products import Catalogue, Product, is_random
from sparring.envs.webshop.reward import Goal, Reward, purchase_reward


class WebShopEnv:
    """One live world. What is no action, or can't be clicked here, changes nothing: the page is shown again.

    As in the benchmark, searching works on every page, and letters' case does not matter.
    """

    def __init__(self, catalogue: Catalogue, *, shows_attributes: bool = False) -> None:
        self._catalogue = catalogue
        self._shows_attributes = shows_attributes
        self._goal: Goal | None = None
        self.page = search_page("")
        """What the shopper sees."""
        self.purchase: Reward | None = None
        """What was bought, graded; None before."""

    def reset(self, task: Task, seed: int) -> str:
        """Enter the shop, and do what lies before the task's start. `seed` decides what `search[<r>]` lists, no more.

        Raises:
            ConfigError: the catalogue does not have the task's product.
        """
        self._goal = to_goal(task)
        self._chance = random.Random(seed)
        self.wanted = self._find(self._goal.product_id)
        """The goal's own product."""
        self.hits: Sequence[Product] = ()
        """What the last search found, all pages of it."""
        self._words = ""
        self._number = 1
        self.product: Product | None = None
        """The product whose page, or sub-page, is open."""
        self._is_on_sub_page = False
        self.chosen: dict[str, str] = {}
        """Option name → the value chosen for it, since the last page of results."""
        self.purchase = None
        self._show(search_page(self._goal.text))
        prefix = task.data.get("prefix", ())
        for action in prefix:
            self.step(action)
        # No page shows which options are chosen.
        return f"Done so far: {'; '.join(prefix)}.\n\n{self.page.text}" if prefix else self.page.text

    def step(self, action: str) -> EnvStep:
        """Search, click, or stay."""
        name, argument = parse_action(action)
        if self._goal is not None and self.purchase is None:
            if name == "search":
                self._search(argument)
            elif name == "click":
                clickable = {text.lower(): text for text in reversed(self.page.clickable())}
                if argument in clickable:
                    self._click(clickable[argument])
        reward = self.purchase.total if self.purchase else 0.0
        return EnvStep(observation=self.page.text, reward=reward, is_done=self.purchase is not None)

    def close(self) -> None:
        """Nothing to free: the catalogue is shared."""

    def _search(self, words: str) -> None:
        self._words = words
        self.hits = () if is_random(words) else self._catalogue.search(words)
        self._show_results(1)

    def _click(self, text: str) -> None:
        if text == BUY:
            self._buy()
        elif text == BACK:
            self.product, self.chosen, self.hits = None, {}, ()
            self._show(search_page(self._text))
        elif text == NEXT:
            self._show_results(self._number + 1)
        elif text == PREVIOUS:
            if self.product is None:
                self._show_results(self._number - 1)
            elif self._is_on_sub_page:
                self._show_item()
            else:
                self._show_results(self._number)
        elif text in self.page.buttons:
            self._is_on_sub_page = True
            self._show(sub_page(self._text, self._bought(), text))
        elif text in self.page.products:
            self.product = self._find(text)
            self._show_item()
        elif self.page.options:
            self.chosen[self.page.options[text]] = text
            self._show_item()

    def _show_results(self, number: int) -> None:
        """Show a page of results; options chosen before are forgotten.

        As in the benchmark, a search for products by chance draws anew for each page that is shown.
        """
        if is_random(self._words):
            self.hits = self._catalogue.search(self._words, self._chance)
        self._number, self.product, self.chosen = number, None, {}
        self._show(results_page(self._text, self.hits, number))

    def _show_item(self) -> None:
        self._is_on_sub_page = False
        self._show(item_page(self._text, self._bought(), self._shows_attributes))

    def _buy(self) -> None:
        assert self._goal is not None
        self.purchase = purchase_reward(self._bought(), self.chosen.values(), self._goal, self.wanted)
        self._show(end_page(self.purchase.total))

    def _bought(self) -> Product:
        assert self.product is not None
        return self.product

    @property
    def _text(self) -> str:
        assert self._goal is not None
        return self._goal.text

    def _find(self, product_id: str) -> Product:
        product = self._catalogue.get(product_id)
        if product is None:
            raise ConfigError(f"task: this catalogue has no product {product_id!r}. Was the task made with another?")
        return product

    def _show(self, page: Page) -> None:
        self.page = page


def parse_action(action: str) -> tuple[str, str]:
    """Split an action into its name and what is in brackets, in lower case; both empty where it has another form.

    As in the benchmark only the first line counts, what follows the last closing bracket is not looked at, and of
    several opening brackets the last one counts. A regular expression would take minutes over 100,000 brackets.
    """
    line = action.strip().partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(1, end - 1))
    return ("", "") if start < 0 else (line[:start], line[start + 1 : end].lower())
