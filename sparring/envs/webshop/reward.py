"""A purchase and a goal in, the reward out: type, attributes, options and price, each term as the benchmark defines it.

reward = r_type · (attributes matched + options matched + [price ≤ bound]) / (attributes + options + 1)

Source: arXiv 2207.01206, section 3 and appendix A, and the benchmark's code, which differs from the paper in details.

Deviates: the benchmark takes a title's nouns from a spaCy model; here they are the words that are left when numbers,
function words and common adjectives are dropped (`title_nouns`). It decides only what another product than the
goal's own is worth; docs/worlds/webshop.md says how much depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from sparring.envs.webshop.products import Product

LEAST_SIMILARITY = 85
"""Two texts match if their similarity is above this, of 100."""

_COLORS_TEXT = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo "
    "caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream "
    "crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather "
    "indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha "
    "multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal "
    "rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise "
    "violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLORS_TEXT.split())
"""An option that contains one of these stands for the first of them that it contains: the benchmark's list."""

_FUNCTION_WORDS_TEXT = (
    "a about above across after against all along also am among an and another any are around as at be because been "
    "before behind being below beneath beside besides between beyond both but by can cannot could did do does doing "
    "down during each either every few for from had has have having he her here hers him his how i if in inside into "
    "is it its itself just less like may me might mine more most much must my near neither no none nor not of off on "
    "once one only onto or other our ours out outside over own per same shall she should since so some such than that "
    "the their theirs them then there these they this those through throughout to too toward towards under until up "
    "upon us versus very via was we were what when where which while who whom whose why will with within without "
    "would yet you your yours"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())

_ADJECTIVES_TEXT = (
    "active adjustable antique artificial automatic basic beautiful best big breathable bright casual cheap classic "
    "clean clear comfortable comfy compact complete cool cute dark deep different double dry durable easy elastic "
    "elegant extra fast fine firm flat formal free fresh full funny general genuine gentle gluten good great green "
    "happy hard healthy heavy high hot hypoallergenic inflatable insulated large lightweight little long loose low "
    "luxury machine metallic mini modern multiple natural new nice non old organic original outdoor perfect personal "
    "plain plastic plus portable premium proof pure quick quiet raw ready real rechargeable removable replacement "
    "resistant rich round safe sexy sharp short simple single sleeveless slim small smart smooth soft solid special "
    "square stainless stretchy strong sturdy super sweet thick thin tight traditional ultra unique universal "
    "unscented vegan vertical vintage warm washable waterproof wet wide wireless wooden young"
)
_ADJECTIVES = frozenset(_ADJECTIVES_TEXT.split())
"""Words of product titles that are adjectives wherever they stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a shopper wants: a product as it must be."""

    product_id: str
    text: str
    """The instruction."""
    attributes: tuple[str, ...]
    options: Mapping[str, str] | tuple[str, ...]
    """Option name → value where the product's own options are meant; plain values where a person named them."""
    price_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A purchase's reward and what it is made of."""

    total: float
    type_score: float
    """0, 0.1, 0.5 or 1."""
    attributes_matched: int
    options_matched: int
    is_price_met: bool


def purchase_reward(bought: Product, chosen: Collection[str], goal: Goal, wanted: Product) -> Reward:
    """Grade a purchase.

    Args:
        bought: the product.
        chosen: the option values that were clicked, one per option name at most.
        goal: what was asked for.
        wanted: the goal's own product, whose type counts.
    """
    type_score = grade_type(bought, wanted)
    attributes = count_attributes(bought, goal.attributes)
    options = count_options(chosen, goal.options)
    is_price_met = bought.price <= goal.price_bound
    share = (attributes + options + is_price_met) / (len(goal.attributes) + len(goal.options) + 1)
    return Reward(
        total=type_score * share,
        type_score=type_score,
        attributes_matched=attributes,
        options_matched=options,
        is_price_met=is_price_met,
    )


def grade_type(bought: Product, wanted: Product) -> float:
    """Grade how far two products are of one type: 1, 0.5 (neither search, category nor title fit), 0.1 or 0 (title)."""
    nouns = title_nouns(wanted.title)
    shared = set(title_nouns(bought.title)) & set(nouns)
    title_score = len(shared) / len(nouns) if nouns else 0.2
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    shared_path = {part.strip() for part in bought.path.split("›")} & {part.strip() for part in wanted.path.split("›")}
    is_match = bought.query == wanted.query or len(shared_path) >= 2 or title_score > 0.2
    return 1.0 if is_match else 0.5


def title_nouns(title: str) -> list[str]:
    """Return the words of a title that stand for things, in lower case, repeats included."""
    words = re.findall(r"[^\W\d_]+", title.lower().replace("'s", " ").replace("’s", " "))
    return [word for word in words if len(word) > 1 and word not in _FUNCTION_WORDS and word not in _ADJECTIVES]


def count_attributes(bought: Product, attributes: Sequence[str]) -> int:
    """Count the wanted attributes that a product has: like one of its own, or literally in one of its texts."""
    texts = (bought.title.lower(), " ".join(bought.features).lower(), bought.description.lower())
    return sum(
        any(is_similar(own, wanted) for own in bought.attributes) or any(wanted in text for text in texts)
        for wanted in attributes
    )


def count_options(chosen: Collection[str], wanted: Mapping[str, str] | Sequence[str]) -> int:
    """Count the wanted options that one of the chosen values matches.

    The benchmark compares colours by the first colour word that a value contains. A wanted option with a name is
    compared as the text of the pair, ('size', 'large'), unless either is just a colour word.
    """
    values = [_color_or_all(value) for value in chosen]
    if isinstance(wanted, Mapping):
        goals = [next((color for color in COLORS if color in option), str(option)) for option in wanted.items()]
    else:
        goals = [_color_or_all(value) for value in wanted]
    return sum(any(is_similar(value, goal) for value in values) for goal in goals)


def _color_or_all(option: str) -> str:
    return next((color for color in COLORS if color in option), option)


def is_similar(one: str, other: str) -> bool:
    """Tell whether two texts match, as sets of words."""
    return similarity(one, other) > LEAST_SIMILARITY


def similarity(one: str, other: str) -> int:
    """Compare two texts as sets of words, 0 to 100: what thefuzz 0.19, which the benchmark pins, calls token_set_ratio.

    The words both have, sorted, are compared with each side's words (the shared ones first), and the two sides with
    each other; the best of the three counts. So 100 where one side's words are all in the other.
    """
    left, right = _words(one), _words(other)
    if not left or not right:
        return 0
    shared = " ".join(sorted(left & right))
    left_all = f"{shared} {' '.join(sorted(left - right))}".strip()
    right_all = f"{shared} {' '.join(sorted(right - left))}".strip()
    return max(_ratio(shared, left_all), _ratio(shared, right_all), _ratio(left_all, right_all))


def _words(text: str) -> set[str]:
    without_latin_1 = "".join(letter for letter in text if not 128 <= ord(letter) < 256)
    return set(re.sub(r"\W", " ", without_latin_1).lower().split())


def _ratio(one: str, other: str) -> int:
    """Return the share of letters in matching blocks, in percent, rounded."""
    if one == other:
        return 100
    if not one or not other:
        return 0
    return round(100 * SequenceMatcher(None, one, other).ratio())
