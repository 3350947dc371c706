"""Text in, index terms out: words, stop words and stems as Lucene's English analysis makes them.

Source: Porter (1980), "An algorithm for suffix stripping", with the two rules that his later releases and Lucene have
changed ("-bli" to "-ble", "-logi" to "-log"), and words of one or two letters left as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sparring.envs.webshop.words import words

_STOP_WORDS_TEXT = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
"""Lucene's English stop words."""

_POSSESSIVES = ("'s", "\u2019s", "\uff07s")
_VOWELS_CONSONANTS = re.compile("v+c+")

_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"),
    ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"),
    ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"),
    ("iviti", "ive"), ("biliti", "ble"), ("logi", "log"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
)  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
)  # fmt: skip


def terms(text: str) -> list[str]:
    """Return the index terms of a text, in order, repeats included."""
    found = (word[:-2] if word.endswith(_POSSESSIVES) else word for word in words(text.lower()))
    return [_stem(word) for word in found if word not in STOP_WORDS]


def stem(word: str) -> str:
    """Strip a lower-case word's suffixes.

    >>> [stem(word) for word in ("bottles", "insulated", "relational", "possibly", "sky", "us")]
    ['bottl', 'insul', 'relat', 'possibl', 'sky', 'us']
    """
    if len(word) <= 2:
        return word
    word = _plurals_and_participles(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(_replace(word, _STEP_2), _STEP_3)
    return _final_e_and_l(_drop_ending(word))


_stem = lru_cache(maxsize=1 << 16)(stem)


def _plurals_and_participles(word: str) -> str:
    """Step 1a and 1b: caresses → caress, ponies → poni, cats → cat; agreed → agree, hopping → hop, filing → file."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix) and _has_vowel(word[: -len(suffix)]):
            return _mend(word[: -len(suffix)])
    return word


def _mend(word: str) -> str:
    """Repair what is left after -ed or -ing."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _ends_in_double(word):
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _measure(word) == 1 and _ends_in_cvc(word) else word


def _replace(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Step 2 and 3: the first suffix that fits is replaced, if what is before it has a measure above 0."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            head = word[: -len(suffix)]
            return head + replacement if _measure(head) > 0 else word
    return word


def _drop_ending(word: str) -> str:
    """Step 4: the first suffix that fits is dropped, if what is before it has a measure above 1."""
    for suffix in _STEP_4:
        if word.endswith(suffix):
            head = word[: -len(suffix)]
            if suffix == "ion" and not head.endswith(("s", "t")):
                continue
            return head if _measure(head) > 1 else word
    return word


def _final_e_and_l(word: str) -> str:
    """Step 5: probate → probat, rate → rate, controll → control."""
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_in_cvc(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _shape(word: str) -> str:
    """Write c for consonants and v for vowels; a y is a vowel after a consonant."""
    shape = ""
    for i, letter in enumerate(word):
        is_vowel = letter in "aeiou" or (letter == "y" and i > 0 and shape[-1] == "c")
        shape += "v" if is_vowel else "c"
    return shape


def _measure(word: str) -> int:
    """Count the vowel-consonant sequences, Porter's m: tree 0, trouble 1, troubles 2."""
    return len(_VOWELS_CONSONANTS.findall(_shape(word)))


def _has_vowel(word: str) -> bool:
    return "v" in _shape(word)


def _ends_in_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _ends_in_cvc(word: str) -> bool:
    """Tell whether a word ends consonant, vowel, consonant (the last no w, x or y), as in hop or file without its e."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"
