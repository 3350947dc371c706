"""A seeded draw in, the state, the names and the words of an invented conversation out.

States are the explorer's own (`sparring.envs.bfcl.inventing`) with every name, text and symbol drawn anew, so that no
value can be learnt by heart. Requests are made of the phrases in `invented_phrases.txt`, or of the words in which the
library itself asks for calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any

from invented_columns import coined, pick, pools

from sparring.envs.bfcl import Call, LiveApis, Scenario
from sparring.envs.bfcl.inventing import NOUNS, PEOPLE, SENTENCES, SURNAMES, SYMBOLS, invent
from sparring.envs.bfcl.played import REFUSALS, value_of
from sparring.envs.bfcl.wording import SWITCHES, ask_for, named_arguments
from sparring.models.loading import BUNDLED

PHRASES = Path(__file__).with_name("invented_phrases.txt")

SUFFIXES = ("txt", "txt", "md", "csv", "log", "pdf", "docx", "py", "json", "doc", "xlsx", "html")
REAL_SYMBOLS = ("AAPL", "GOOG", "TSLA", "MSFT", "NVDA", "ZETA", "ALPH", "OMEG", "QUAS", "NEPT", "SYNX", "AMZN")
"""Symbols that the API itself knows by their companies' names."""

SENTENCE_FORMS = (
    "The {modifier} {thing} is ready for the {person}",
    "{first} needs the {thing} by {day}",
    "Two {thing}s came in late on {day}",
    "Nobody has seen the {modifier} {thing}",
    "We are short of {modifier} {thing}s",
    "Ask the {person} for a new {thing}",
    "My {thing} arrived today! The {person} was kind",
    "Meeting with {first} about the {thing} budget",
    "The {dealing} of {coined} starts at {number}",
    "Just finished the {dealing} for {first} {last}",
    "{coined} and {coined} are closed till {day}",
    "Please review the {dealing} before {day}",
    "The {thing} in {place} was {modifier}",
    "I am on my way to {place}",
    "Total of {number} {thing}s, {number} left",
    "A {modifier} {dealing}, a {modifier} {thing}",
)
LITTLE_WORDS = (
    *(
        "the",
        "a",
        "of",
        "and",
        "to",
        "in",
        "is",
        "on",
        "for",
        "with",
        "was",
        "at",
        "by",
        "we",
        "you",
        "I",
        "my",
        "your",
    ),
    *("it", "that", "this", "has", "have", "been", "will", "can", "not", "all", "from", "as", "are", "our", "more"),
)
TITLES = ("{modifier} {thing}", "{thing} {dealing}", "{dealing} in {place}", "{coined} {dealing}", "{thing} issue")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "noon", "May", "the weekend")

CHATTER = (
    "It has been a long week at the {thing}.",
    "Thanks, that helps.",
    "Great.",
    "The {person} is waiting for this.",
    "I am getting ready for the {dealing}.",
    "One more thing.",
    "I have been meaning to tidy up for {first}.",
    "There is a {dealing} coming up in {place}.",
    "Hello, I hope you are well.",
    "My {person} told me about it.",
    "Good, now to something else.",
    "Before I forget it:",
    "I would like everything to be in order before {day}.",
    "Since the {thing} is {modifier}, there is some work to do.",
    "That looks right to me.",
    "I am not sure how this works, so help me out.",
    "With that done, we can go on.",
    "{first} {last} asked me for it.",
)
LEADS = ("Please {}", "Could you {}", "{}", "{}", "{}", "I need you to {}", "I'd like you to {}", "Would you {}")
LEADS += ("Can you please {}", "Now {}", "Next, {}", "Kindly {}", "I want you to {}", "Go ahead and {}", "Help me {}")
LEADS += ("Let's {}", "It would be great if you could {}", "I was wondering if you could {}", "My next wish: {}")
LINKS = (", then {}", " and then {}", ", and {}", ". Then {}", ". After that, {}", ". Next, {}", " and {}")
LINKS += ("; once that is done, {}", ". Following this, {}", ". Also, {}", ". Finally, {}", ". I also want you to {}")

NAMES = frozenset(
    (
        *("folder", "file_name", "file_name1", "file_name2", "new_name", "dir_name", "source", "destination", "path"),
        *("user", "user_id", "receiver_id", "user_name", "stock", "symbol", "travel_from", "travel_to", "card_id"),
        *("access_token", "username_to_follow", "username_to_unfollow", "location", "city", "name", "sector"),
        *("first_name", "last_name", "cardholder_name", "card_number", "expiration_date", "passport_number"),
        *("client_id", "client_secret", "refresh_token", "user_first_name", "user_last_name", "base_currency"),
        *("username", "password", "booking_id", "target_currency"),
    )
)
"""Arguments that a user may well write without quotes."""
CHOICES = frozenset(
    ("order_type", "mode", "unit", "travel_class", "insurance_type", "ignitionMode", "option", "grant_type")
)
"""Arguments of few values, which a user says in passing."""
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November")
MONTHS += ("December",)


class Refused(Exception):
    """A call of an errand was refused, so that the conversation makes no sense."""


def sentence(draw: Random) -> str:
    """Draw what somebody writes; a good part of it is words that nothing but copying gets right."""
    if draw.random() < 0.6:
        words = [
            draw.choice(LITTLE_WORDS) if draw.random() < 0.4 else _any_word(draw) for _ in range(draw.randint(2, 10))
        ]
        text = " ".join(words)
        return text[0].upper() + text[1:] + draw.choice(("", "", ".", "!"))
    return _fill(draw.choice(SENTENCE_FORMS), draw)


def _any_word(draw: Random) -> str:
    """Draw a word of any pool, a coined one now and then."""
    words = _all_words()
    return coined(draw) if draw.random() < 0.1 else draw.choice(words)


@cache
def _all_words() -> Sequence[str]:
    """List the pools' words, and those that are tokens of the first model: each token has to be copied now and then."""
    state = json.loads((BUNDLED["sparring-worlds"] / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [token.lstrip("Ġ") for token in state["model"]["vocab"] if re.fullmatch(r"Ġ?[A-Za-z]{2,}", token)]
    return sorted({word for pool in pools().values() for entry in pool for word in entry.split()} | {*tokens})


def _fill(form: str, draw: Random) -> str:
    pools = {"thing": "things", "person": "people", "modifier": "modifiers", "dealing": "dealings", "place": "places"}
    pools |= {"first": "first", "last": "last"}

    def word(match: re.Match[str]) -> str:
        name = match[1]
        if name in pools:
            return coined(draw) if draw.random() < 0.12 else pick(draw, pools[name])
        return {"coined": coined(draw), "number": str(draw.randrange(2, 90)), "day": draw.choice(DAYS)}[name]

    return re.sub(r"\{(\w+)\}", word, form)


def word(draw: Random) -> str:
    """Draw a word that may name anything."""
    if draw.random() < 0.25:
        return draw.choice(_all_words()).lower()
    return coined(draw) if draw.random() < 0.35 else pick(draw, "things", "dealings", "kinds", "people").split()[0]


def name(draw: Random) -> str:
    """Draw what a directory may be called."""
    words = [word(draw) for _ in range(draw.choice((1, 1, 2)))]
    style = draw.randrange(4)
    if style == 0:
        return "".join(one.capitalize() for one in words)
    if style == 1:
        return "_".join(one.capitalize() for one in words)
    return "_".join(words) + (f"_{draw.randrange(1, 2030)}" if draw.random() < 0.15 else "")


def file_name(draw: Random) -> str:
    return f"{name(draw)}.{draw.choice(SUFFIXES)}"


def title(draw: Random) -> str:
    """Draw what a ticket may be called."""
    return _fill(draw.choice(TITLES), draw).title()


def person_name(draw: Random) -> str:
    return coined(draw).capitalize() if draw.random() < 0.35 else pick(draw, "first")


def symbol(draw: Random) -> str:
    if draw.random() < 0.3:
        return draw.choice(REAL_SYMBOLS)
    return "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=draw.choice((3, 4, 4, 4))))


def invented_state(apis: tuple[str, ...], draw: Random) -> dict[str, Any]:
    """Draw a state and give everything in it another name."""
    made: dict[str, str] = {}
    makers = {**dict.fromkeys(SENTENCES, sentence), **dict.fromkeys(SYMBOLS, symbol), **dict.fromkeys(NOUNS, name)}
    makers |= dict.fromkeys((*PEOPLE, *SURNAMES), person_name)

    def rename(match: re.Match[str]) -> str:
        old = match[0]
        key = next((one for one in (old, old.lower(), old.capitalize()) if one in makers), "file")
        if key == "file":
            return made.setdefault(old, file_name(draw))
        new = made.setdefault(key, makers[key](draw))
        return new.lower() if old.islower() and key in (*PEOPLE, *SURNAMES) else new

    words = sorted((*SENTENCES, *SYMBOLS, *NOUNS, *PEOPLE, *SURNAMES), key=len, reverse=True)
    pattern = rf"\w+_\w+\.(?:txt|md|csv|log)|\b(?:{'|'.join(words)}|{'|'.join(map(str.lower, PEOPLE))})\b"
    return _renamed(invent(apis, draw), re.compile(pattern), rename)


def _renamed(value: Any, pattern: re.Pattern[str], rename: Callable[[re.Match[str]], str]) -> Any:
    match value:
        case str():
            return pattern.sub(rename, value)
        case dict():
            return {_renamed(key, pattern, rename): _renamed(one, pattern, rename) for key, one in value.items()}
        case list():
            return [_renamed(one, pattern, rename) for one in value]
    return value


@dataclass(slots=True)
class Talk:
    """A conversation as it comes about: calls are played at once, and what they returned can be used further on."""

    scenario: Scenario
    draw: Random
    live: LiveApis
    calls: list[Call] = field(default_factory=list)
    """Of the present user turn."""
    known: dict[str, Any] = field(default_factory=dict)
    """What follow-ups speak of: the last order, booking, ticket, tweet, and so on."""

    def call(self, function: str, /, **given: Any) -> Any:
        """Play a call and return what it says.

        Raises:
            Refused: it was refused; it is not part of the conversation.
        """
        call = Call(function, (), given)
        result = self.live.call(call)
        value = value_of(result)
        failed = isinstance(value, dict) and any(key in value for key in REFUSALS)
        if failed or result.startswith("Error during") or "not found" in result or '"Unknown"' in result:
            raise Refused(result)
        self.calls.append(call)
        return value

    def has(self, api: str) -> bool:
        return api in self.live.instances


@dataclass(frozen=True, slots=True)
class Speech:
    """How one user talks."""

    draw: Random
    is_plain: bool
    """In the library's words."""
    quote: str
    """Around names: a quote or nothing."""
    has_dates: bool
    """Dates in words."""

    @classmethod
    def of(cls, draw: Random) -> Speech:
        quotes = draw.choices(("'", "", '"', "`"), (0.45, 0.4, 0.13, 0.02))[0]
        return cls(draw, draw.random() < 0.3, quotes, draw.random() < 0.5)

    def ask(self, call: Call, apis: Sequence[str]) -> str:
        """Put a call into words; empty: there are none."""
        if self.is_plain:
            return ask_for([call], apis).removeprefix("Please ").removesuffix(".")
        given = named_arguments(call, apis)
        keys = [*(f"{call.name} {value}" for value in given.values()), *(f"{call.name} with {name}" for name in given)]
        found = next((one for one in (*keys, call.name) if one in phrases()), None)
        fitting = [one for one in phrases()[found] if _fields(one) <= given.keys()] if found else []
        if not fitting:
            return ""
        phrase = self.draw.choice(fitting)
        text = phrase.format_map({key: self.show(key, value) for key, value in given.items()})
        left = [f"{key.replace('_', ' ')} {self.show(key, given[key])}" for key in given if key not in _fields(phrase)]
        return f"{text} ({', '.join(left)})" if left and found == call.name else text

    def say(self, errand: str, /, **given: Any) -> str:
        """Put an errand into words."""
        return self.draw.choice(phrases()[errand]).format_map({key: self.show(key, one) for key, one in given.items()})

    def show(self, key: str, value: Any) -> str:
        """Spell a value out."""
        if key in ("start", "end", "what", "tags"):
            return " ".join(value) if isinstance(value, list) else value
        if key in SWITCHES:
            return SWITCHES[key][value is True]
        if isinstance(value, dict):
            return ", ".join(f"{one} {self.show(one, part)}" for one, part in value.items())
        if isinstance(value, list | tuple):
            shown = [self.show(key, one) for one in value]
            return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
        if isinstance(value, float) and value.is_integer() and not self.is_plain:
            return f"{value:,.0f}" if value >= 1000 and self.draw.random() < 0.3 else f"{value:.0f}"
        if not isinstance(value, str):
            return str(value)
        if key in CHOICES:
            return value.lower() if self.draw.random() < 0.7 else f"{self.quote}{value}{self.quote}"
        if key == "travel_date":
            return self._date(value)
        quote = self.quote if key in NAMES else self.quote or "'"
        return f"{quote}{value}{quote}"

    def _date(self, value: str) -> str:
        if not self.has_dates:
            return f"{self.quote}{value}{self.quote}"
        year, month, day = value.split("-")
        ending = {"1": "st", "2": "nd", "3": "rd"}.get(day[1], "th") if day[0] != "1" else "th"
        return f"{MONTHS[int(month) - 1]} {int(day)}{ending} {year}"

    def request(self, parts: Sequence[str]) -> str:
        """Make one message of several wishes."""
        if self.is_plain:
            return f"Please {', then '.join(parts)}."
        draw = self.draw
        lead = draw.choice(LEADS)
        text = lead.format(parts[0])
        for part in parts[1:]:
            text += draw.choice(LINKS).format(part)
        is_question = lead.startswith(("Could", "Would", "Can")) and "." not in text
        text = text[0].upper() + text[1:] + ("?" if is_question else ".")
        text = re.sub(r"\. ([a-z])", lambda match: f". {match[1].upper()}", text)
        if draw.random() < 0.45:
            text = f"{_fill(draw.choice(CHATTER), draw)} {text}"
        return text


@cache
def phrases() -> Mapping[str, Sequence[str]]:
    """Read the phrases."""
    lines = (line for line in PHRASES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {
        function: [phrase.strip() for phrase in rest.split(" | ")]
        for function, _, rest in (line.partition(":") for line in lines)
    }


@cache
def _fields(phrase: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(phrase) if name)
