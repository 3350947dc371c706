"""A shop's page as an agent sees it: the benchmark's text mode, in which ETO's and AgentGym's agents shop.

A page is its visible texts in order, joined by ` [SEP] `; nothing marks what can be clicked. It repeats the instruction
each time, and does not show which options are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparring.envs.webshop.products import Product

SEPARATOR = " [SEP] "
PAGE_SIZE = 10
BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
ATTRIBUTES = "Attributes"
"""The sub-page that the benchmark shows only when asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page's text and what can be clicked on it."""

    text: str
    buttons: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    """Ids of products."""
    options: Mapping[str, str] | None = None
    """Option value → the option's name; where two options share a value, the later one has it."""

    def clickable(self) -> list[str]:
        """List all that can be clicked, as it is written on the page."""
        return [*self.buttons, *self.products, *(self.options or ())]


def search_page(instruction: str) -> Page:
    return Page(text=_join(["WebShop", "Instruction:", instruction, "Search"]))


def results_page(instruction: str, hits: Sequence[Product], number: int) -> Page:
    """Show page `number`, from 1, of a search; past the last there is an empty one, as in the benchmark."""
    shown = hits[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
    buttons = (BACK, PREVIOUS, NEXT) if number > 1 else (BACK, NEXT)
    parts = _head(instruction, BACK)
    parts += [f"Page {number} (Total results: {len(hits)})", *buttons[1:]]
    for product in shown:
        parts += [product.id, product.title, product.price_text]
    return Page(text=_join(parts), buttons=buttons, products=tuple(product.id for product in shown))


def item_page(instruction: str, product: Product, shows_attributes: bool) -> Page:
    sub_pages = (*SUB_PAGES, ATTRIBUTES) if shows_attributes else SUB_PAGES
    parts = _head(instruction, BACK, PREVIOUS)
    for name, values in product.options.items():
        parts += [name, *values]
    parts += [product.title, f"Price: {product.price_text}", f"Rating: {product.rating}", *sub_pages, BUY]
    return Page(
        text=_join(parts),
        buttons=(BACK, PREVIOUS, *sub_pages, BUY),
        options={value: name for name, values in product.options.items() for value in values},
    )


def sub_page(instruction: str, product: Product, name: str) -> Page:
    """Show one of an item's sub-pages."""
    parts = _head(instruction, BACK, PREVIOUS)
    if name == "Description":
        parts.append(product.description)
    elif name == "Features":
        parts += [f" {feature}" for feature in product.features]  # in the benchmark too, an empty one is a part
    elif name == "Reviews":
        for review in product.reviews:
            parts += [f'"{review.title}"', review.score, review.body]
    else:
        parts += [*product.attributes, product.kind, product.query, product.path]
    return Page(text=_join(parts), buttons=(BACK, PREVIOUS))


def end_page(reward: float) -> Page:
    """Thank for the purchase and tell the score; the benchmark also lists the goal, which no agent gets to answer."""
    return Page(text=_join(["Thank you for shopping with us!", "Your score (min 0.0, max 1.0)", str(reward)]))


def _head(instruction: str, *buttons: str) -> list[str]:
    return ["Instruction:", instruction, *buttons]


def _join(parts: Iterable[str]) -> str:
    return SEPARATOR.join(part.strip() for part in parts if part)
