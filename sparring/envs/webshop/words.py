"""Text in, words out: the tokens that Lucene's StandardTokenizer finds, which WebShop's own search is built on.

They are the words of Unicode's annex 29 (letters, digits, Katakana and Hangul in runs) and besides them single
ideographs and Hiragana, runs of scripts that are written without spaces (Thai, Lao, Khmer, Burmese), and emoji, of
which ™, ® and © are three. All other characters only separate words.

Source: Unicode annex 29, rules WB4 to WB16; Unicode report 51 for emoji; Lucene 8's StandardTokenizer for which of the
segments it keeps, and for which of two readings it takes.

Deviates: characters' properties are those of the installed `regex` package (Unicode 17, say) but for the corrections
below, where Lucene has Unicode 9's and its emoji 11's; a character that is younger than these counts here and not
there. A word that is longer than 255 characters is cut, as there, but characters outside the first plane count once.
A Thai vowel sign (or one of its kin) that follows underscores alone is dropped, where Lucene makes it a word.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

LONGEST_WORD = 255
"""Lucene cuts longer words into pieces of this length."""

_PICTOGRAPHS = (
    "A9 AE 203C 2049 2122 2139 2194-2199 21A9-21AA 231A-231B 2328 2388 23CF 23E9-23F3 23F8-23FA 24C2 25AA-25AB "
    "25B6 25C0 25FB-25FE 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271D 2721 2728 2733-2734 "
    "2744 2747 274C 274E 2753-2755 2757 2763-2767 2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C 2B50 "
    "2B55 3030 303D 3297 3299 1F000-1F0FF 1F10D-1F10F 1F12F 1F16C-1F171 1F17E-1F17F 1F18E 1F191-1F19A 1F1AD-1F1E5 "
    "1F201-1F20F 1F21A 1F22F 1F232-1F23A 1F23C-1F23F 1F249-1F3FA 1F400-1F53D 1F546-1F64F 1F680-1F6FF 1F774-1F77F "
    "1F7D5-1F7FF 1F80C-1F80F 1F848-1F84F 1F85A-1F85F 1F888-1F88F 1F8AE-1F8FF 1F90C-1F93A 1F93C-1F945 1F947-1FFFD"
)
"""Unicode's property Extended_Pictographic in emoji version 11.0 (emoji-data.txt): code points and ranges in base 16.
Later versions take some symbols out again, such as U+2605, the black star."""

_NO_LETTERS = "B8 2C2-2C5 2D2-2D7 2DE-2DF 2E5-2EB 2ED 2EF-2FF 55A-55C 55E 58A A708-A716 A720-A721 A789-A78A AB5B"
"""Symbols that were made parts of words after Unicode 9."""

_EXTENDING = "600-605 6DD 70F 8E2 1CF2-1CF3 110BD"
"""What Unicode 9 joins to the character before it, and later versions count among letters or digits."""

_ASCII_PIECE = r"(?:[a-zA-Z]++(?:[.:'](?=[a-zA-Z]))?|[0-9]++(?:[.,;'](?=[0-9]))?)++"  # u.s.a, l'eau, 6.76, 1,000
_ASCII_WORD = re.compile(rf"(_*+{_ASCII_PIECE}(?:_++{_ASCII_PIECE})*_*+)|_++")
"""What `_any_word` finds where there is nothing but ASCII, in a third of the time."""

_BEYOND_ASCII = re.compile(r"(?:(?<= )|\A)([^ \x80-\U0010FFFF]*+[^\x00-\x7F][^ ]*+)")
"""What stands between two spaces and is not all ASCII. No word reaches over a space."""


def words(text: str) -> list[str]:
    """Return a text's words in order, as they are written.

    >>> words("L'eau ™ 6.76 oz, 漢字")
    ["L'eau", '™', '6.76', 'oz', '漢', '字']
    """
    if text.isascii():
        found = _ASCII_WORD.findall(text)
    else:
        parts = _BEYOND_ASCII.split(text)
        found = [word for i, part in enumerate(parts) for word in (_any_word() if i % 2 else _ASCII_WORD).findall(part)]
    if all(len(word) <= LONGEST_WORD for word in found):
        return [word for word in found if word]
    return [word[at : at + LONGEST_WORD] for word in found for at in range(0, len(word), LONGEST_WORD)]


@cache
def _any_word() -> regex.Pattern[str]:
    """Compile the rules for all of Unicode. One group: the word. What matches outside it is passed over as a whole."""
    import regex

    # Unicode 11 made modifiers of emoji part of the character before them; here they are joined to it by rule.
    extending = rf"[[\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}{_class(_EXTENDING)}]--[\U0001F3FB-\U0001F3FF]]"
    extended = rf"{extending}*+"  # WB4
    extended_emoji = rf"[{extending}--[\uFE0E\uFE0F]]*+"

    letter = rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--{_class(_NO_LETTERS)}--{_class(_EXTENDING)}]"
    hebrew, katakana = r"\p{WB=Hebrew_Letter}", r"\p{WB=Katakana}"
    digit = rf"[[\p{{WB=Numeric}}\uFF10-\uFF19]--{_class(_EXTENDING)}--\u19DA]"
    connector = rf"(?:\p{{WB=ExtendNumLet}}{extended})"
    within_letters = rf"[[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}'\u02D7]--\u055F]{extended}"
    within_digits = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}'\uFE10\uFE14]{extended}"
    chunk = (
        rf"(?:(?:{katakana}{extended})++|(?:"
        rf"{hebrew}{extended}(?:'{extended}|\"{extended}(?={hebrew}))|"
        rf"{letter}{extended}(?:{within_letters}(?={letter}))?|"
        rf"{digit}{extended}(?:{within_digits}(?={digit}))?"
        rf")++)"
    )
    word = rf"{connector}*+{chunk}(?:{connector}++{chunk})*{connector}*+"

    pictograph, modifier, joiner = _class(_PICTOGRAPHS), r"[\U0001F3FB-\U0001F3FF]", r"\u200D"
    emoji = (
        rf"(?:(?:\p{{Emoji_Modifier_Base}}{extended_emoji})?{modifier}{extended_emoji}|"
        rf"{pictograph}{extended_emoji}(?:\uFE0F(?:{joiner}++(?={pictograph}|{modifier}))?)?)"
    )
    kept = (
        word,
        rf"(?:[\p{{LB=SA}}\u19DA]{extended})++",
        rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{extended}",
        rf"(?:{joiner}++(?={pictograph}))?{emoji}(?:(?<={joiner}){emoji})*",
        rf"[#*]{extended_emoji[:-1]}\uFE0F?\u20E3{extended_emoji}",  # the last mark that closes a key
        rf"\p{{WB=Regional_Indicator}}{extended}\p{{WB=Regional_Indicator}}{extended}",
    )
    return regex.compile(rf"({'|'.join(kept)})|{connector}++|{joiner}++", regex.VERSION1)


def _class(ranges: str) -> str:
    """Write code points and ranges of them in base 16 as a class of a pattern.

    >>> _class("41 61-7A")
    '[Aa-z]'
    """
    return f"[{''.join(re.sub('[0-9A-F]+', lambda code: chr(int(code[0], 16)), part) for part in ranges.split())}]"
