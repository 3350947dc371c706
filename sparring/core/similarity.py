"""How alike texts and sequences are: shared neighbours, and words weighed by how rare they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

EDGE = "\0"
"""Stands before the first and after the last item of a sequence, so that a single item makes pairs, too."""

Pairs = frozenset[tuple[str, str]]


def normalise(text: str) -> str:
    """Fold case and white space, so that a text can't pass as another one by its looks."""
    return " ".join(text.casefold().split())


def neighbours(items: Sequence[str]) -> Pairs:
    """Return the neighbouring items of a sequence; the order of the items matters, how often they occur does not."""
    return frozenset(pairwise([EDGE, *items, EDGE]))


def jaccard(a: Pairs, b: Pairs) -> float:
    """Return |a ∩ b| / |a ∪ b|; of two empty sets 1. {1,2,3} and {2,3,4}: 2/4."""
    return len(a & b) / len(a | b) if a or b else 1.0


Vector = Mapping[str, float]
"""Word → weight; of length 1, or empty."""


def weigh_words(texts: Sequence[str]) -> list[Vector]:
    """Return a vector for each text: how often a word occurs, times the logarithm of how few of the texts have it.

    A word that all texts have weighs nothing, so that what every task of a world shows makes none of them alike.
    """
    counts = [Counter(re.findall(r"\w+", text.casefold())) for text in texts]
    num_with = Counter(word for one in counts for word in one)
    vectors: list[Vector] = []
    for one in counts:
        weights = {word: num * math.log(len(texts) / num_with[word]) for word, num in one.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({word: weight / length for word, weight in weights.items() if weight} if length else {})
    return vectors


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of two vectors of length 1; 0 where one is empty."""
    small, large = sorted((a, b), key=len)
    return sum(weight * large[word] for word, weight in small.items() if word in large)
