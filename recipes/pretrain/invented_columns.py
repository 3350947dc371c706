"""Chance and pools of words in, columns of invented tables out: a name as schemas have it, a phrase, a type, values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from sparring.envs.intercode_sql.lexicon import Entity, plural

Value = str | int | float | None
Role = Literal["words", "numbers", "dates"]

WORDS = Path(__file__).with_name("invented_words.txt")

ONSETS = (*"bdfghklmnprstvz", "br", "ch", "cl", "dr", "fl", "gr", "kr", "pl", "sh", "sk", "st", "th", "tr")
VOWELS = (*"aeiou", "ai", "ea", "ia", "oo", "ou")
CODAS = ("", "", "", *"lmnrstx", "ck", "nd", "rn", "sk", "th", "lt")

FORMS = ("{modifier} {thing}", "The {modifier} {thing}", "{kind} {thing}", "{last} {thing}", "{coined} {thing}")
FORMS += ("{coined}", "{coined} {coined}", "{coined} {number}", "{place}")
"""Names of things."""

SHARE_PREFIXED = 0.12
"""Share of tables whose columns carry the table's name."""

SHARE_UNITS = 0.08
"""Share of number columns whose name ends in a unit that the question leaves out."""

SHARE_SHORTENED = 0.12
"""Share of two-word columns that the question calls by the last word alone."""

SHARE_TWINS = 0.2
"""Share of columns that share their noun with another of the table, as inner and outer height."""

SHARE_NULLS = 0.05
"""Share of columns with values missing."""

PERSONAL = frozenset({"builder", "contact", "leader", "maker", "manager", "operator", "owner", "partner"})
NATIONAL = frozenset({"allegiance", "country", "nationality", "origin"})
PLACED = frozenset({"birthplace", "county", "depot", "destination", "district", "habitat", "headquarters", "home town"})
PLACED |= {"location", "place", "province", "region", "residence", "route", "sector", "station", "territory"}
PLACED |= {"township", "venue", "zone"}
"""Qualities whose values are persons, countries or places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column before it has a name in the table's style."""

    phrase: str
    """How questions call it."""
    words: tuple[str, ...]
    """What its name is made of."""
    type: str
    role: Role
    values: tuple[Value, ...]

    @property
    def is_shortened(self) -> bool:
        """Whether questions call it by the last of several words."""
        return len(self.words) > 1 and self.phrase == self.words[-1]

    def is_confused_with(self, other: Column) -> bool:
        """Whether the phrase of one may mean the other."""
        are_alike = self.words[-1] == other.words[-1] and (self.is_shortened or other.is_shortened)
        return are_alike or self.phrase == other.phrase


@cache
def pools() -> Mapping[str, Sequence[str]]:
    """Read the pools of words."""
    found = {}
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, words = line.partition(":")
            found[name] = tuple(word.strip() for word in words.split(","))
    return found


def pick(draw: Random, *names: str) -> str:
    return draw.choice(pools()[draw.choice(names)])


def coined(draw: Random) -> str:
    """A word that there is not: it can only be copied. Long enough to be none that SQL reserves."""
    word = ""
    while len(word) < 4 or (len(word) < 7 and draw.random() < 0.4):
        word += draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
    return word if word != "then" else "thenor"


def person(draw: Random) -> str:
    last = coined(draw).capitalize() if draw.random() < 0.2 else pick(draw, "last")
    return f"{pick(draw, 'first')} {last}"


def split_words(phrase: str) -> tuple[str, ...]:
    return tuple(phrase.replace("-", " ").split())


Style = Callable[[Sequence[str]], str]
STYLES: Sequence[tuple[Style, float]] = (
    (lambda words: "_".join(words).lower(), 5),
    (lambda words: "_".join(word.capitalize() for word in words), 3),
    (lambda words: "".join(word.capitalize() for word in words), 2),
    (lambda words: "_".join(words).capitalize(), 1),
    (lambda words: words[0].lower() + "".join(word.capitalize() for word in words[1:]), 1),
    (lambda words: "".join(words).lower(), 1),
    (lambda words: "_".join(words).upper(), 1),
)
"""Ways to write a name of several words, with their weights."""


def draw_style(draw: Random) -> Style:
    return draw.choices([style for style, _ in STYLES], [weight for _, weight in STYLES])[0]


# Each maker below draws one column of so many rows.


class Making(NamedTuple):
    draw: Random
    num_rows: int
    heads: list[str]
    """Nouns that the table's columns have so far, to make twins of."""


def make_label(making: Making, *, is_person: bool) -> Column:
    """The column that names a row: mostly no two alike."""
    draw, num = making.draw, making.num_rows
    if is_person:
        phrase = draw.choice(("name", "name", "full name", "last name", "first name"))
        pool = {"last name": "last", "first name": "first"}.get(phrase)
        make = (lambda: pick(draw, pool)) if pool else (lambda: person(draw))
    else:
        phrase = draw.choice(("name", "name", "name", "title", "title", "label", "designation", "heading", "{} name"))
        phrase = phrase.format(
            draw.choice(("short", "full", "code", "local", "common", "trade", "stage", coined(draw)))
        )
        make = _naming(draw)
    values = _unlike(make, num)
    return _column(draw, phrase, "words", _text_type(draw), values)


def make_quality(making: Making) -> Column:
    """A word that several rows share, or few."""
    draw, num = making.draw, making.num_rows
    head, phrase = _phrase(making, "qualities", share_plain=0.6)
    make = _describing(draw, head)
    is_own = draw.random() < 0.2
    values = _unlike(make, num) if is_own else _shared(draw, _unlike(make, draw.randint(2, 5)), num)
    return _column(draw, phrase, "words", _text_type(draw), values)


def make_code(making: Making) -> Column:
    draw, num = making.draw, making.num_rows
    letters = "".join(draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(draw.randint(1, 3)))
    joint, width = draw.choice(("", "-", "_", "/")), draw.randint(2, 4)
    own = draw.random() < 0.4
    phrase = draw.choice(("code", "{} code", "{} code", "{} number", "serial number", "abbreviation"))
    phrase = phrase.format(pick(draw, "qualities", "events"))

    def make() -> str:
        head = "".join(draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(len(letters))) if own else letters
        if phrase == "abbreviation":
            return "".join(draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(3))
        return f"{head}{joint}{draw.randrange(10**width):0{width}}"

    values = _unlike(make, num) if draw.random() < 0.5 else _shared(draw, _unlike(make, draw.randint(2, 5)), num)
    return _column(draw, phrase, "words", draw.choice(("varchar(20)", "char(15)", "varchar(12)", "text")), values)


def make_flag(making: Making) -> Column:
    draw = making.draw
    kind, values = draw.choice((("varchar(1)", "TF"), ("varchar(1)", "YN"), ("text", ("yes", "no")), ("int", (1, 0))))
    word = pick(draw, "flags")
    column = _column(draw, f"{word} flag", "words", kind, _shared(draw, values, making.num_rows))
    return replace(column, words=draw.choice((("is", *split_words(word)), column.words, split_words(word))))


def make_number(making: Making) -> Column:
    draw, num = making.draw, making.num_rows
    if draw.random() < 0.2:
        phrase = pick(draw, "totals")
        making.heads.append(phrase)
    else:
        _, phrase = _phrase(making, "numbers", share_plain=0.65)
    column = _column(draw, phrase, "numbers", *_amounts(draw, num))
    if draw.random() < SHARE_UNITS:
        unit = draw.choice(("cm", "kg", "m", "km", "usd", "eur", "pct", "total", "value", "level", "millions", "avg"))
        column = replace(column, words=(*column.words, unit))
    return column


def make_count(making: Making) -> Column:
    """As `Num_of_Ticket` or `ticket_count`: the number of tickets."""
    draw, num = making.draw, making.num_rows
    one = pick(draw, "counted")
    many = plural(Entity(noun=one, label=""))
    names = ("num {m}", "num of {m}", "number of {m}", "number {m}", "{o} count", "{m}", "no of {m}", "n {m}")
    words = split_words(draw.choice(names).format(m=many, o=one))
    most = draw.choice((9, 30, 400, 20_000))
    values = tuple(draw.randint(1, most) for _ in range(num))
    return Column(phrase=f"number of {many}", words=words, type="int", role="numbers", values=values)


def make_year(making: Making) -> Column:
    draw, num = making.draw, making.num_rows
    first = draw.choice((1850, 1950, 1990, 2005))
    values = [draw.randint(first, 2024) for _ in range(num)]
    if draw.random() < 0.3:
        return _column(draw, pick(draw, "years"), "words", "text", [str(year) for year in values])
    return _column(draw, pick(draw, "years"), "numbers", "int", values)


def make_date(making: Making) -> Column:
    draw = making.draw
    event = pick(draw, "events")
    first = draw.choice((1960, 1990, 2015))
    kind = draw.choice(("date", "date", "datetime", "timestamp", "text"))

    def make() -> str:
        day = f"{draw.randint(first, 2024)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
        if kind in ("date", "text"):
            return day
        return f"{day} {draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02}"

    phrase = draw.choice((f"{event} date", f"date of {event}"))
    words = draw.choice((("date", "of", event), (event, "date"), (event, "date"), (event, "day")))
    values = tuple(make() for _ in range(making.num_rows))
    return Column(phrase=phrase, words=words, type=kind, role="dates", values=values)


MAKERS: Sequence[tuple[Callable[[Making], Column], float]] = (
    (make_quality, 0.38),
    (make_number, 0.25),
    (make_count, 0.1),
    (make_date, 0.09),
    (make_code, 0.08),
    (make_year, 0.06),
    (make_flag, 0.04),
)


def make_column(making: Making) -> Column:
    """Draw any column but a label."""
    draw = making.draw
    make = draw.choices([maker for maker, _ in MAKERS], [weight for _, weight in MAKERS])[0]
    column = make(making)
    if len(column.words) == 2 and column.phrase == " ".join(column.words) and draw.random() < SHARE_SHORTENED:
        column = replace(column, phrase=column.words[-1])
    if making.num_rows > 4 and draw.random() < SHARE_NULLS:
        missing = set(draw.sample(range(making.num_rows), draw.randint(1, 2)))
        column = replace(column, values=tuple(None if i in missing else v for i, v in enumerate(column.values)))
    return column


def _column(draw: Random, phrase: str, role: Role, type: str, values: Sequence[Value]) -> Column:
    words = split_words(phrase)
    if len(words) == 2 and words[0] in (*pools()["events"], *pools()["qualities"]) and draw.random() < 0.3:
        words = (words[1], "of", words[0])
    return Column(phrase=phrase, words=words, type=type, role=role, values=tuple(values))


def _phrase(making: Making, pool: str, *, share_plain: float) -> tuple[str, str]:
    """Draw a noun of a pool and what a column of it is called."""
    draw, known = making.draw, [head for head in making.heads if head in pools()[pool]]
    is_twin = bool(known) and draw.random() < SHARE_TWINS
    head = draw.choice(known) if is_twin else pick(draw, pool)
    making.heads.append(head)
    if not is_twin and draw.random() < share_plain:
        return head, head
    return head, f"{coined(draw) if draw.random() < 0.1 else pick(draw, 'modifiers')} {head}"


def _describing(draw: Random, quality: str) -> Callable[[], str]:
    """Draw one way to make a quality's values."""
    if quality in PERSONAL:
        return lambda: person(draw)
    if quality in NATIONAL:
        return lambda: pick(draw, "countries")
    if quality in PLACED:
        return lambda: coined(draw).capitalize() if draw.random() < 0.25 else pick(draw, "places")
    written = draw.choice((str.capitalize, str.capitalize, str.lower, str.upper))
    share_coined = draw.choice((0, 0.2, 1))
    return lambda: written(coined(draw) if draw.random() < share_coined else pick(draw, "kinds", "modifiers"))


def _naming(draw: Random) -> Callable[[], str]:
    """Draw one way to name the things of a table."""
    form = draw.choice(FORMS)

    def make() -> str:
        name = form.replace("{coined}", coined(draw), 1).format(
            modifier=pick(draw, "modifiers"),
            thing=pick(draw, "things", "animals"),
            kind=pick(draw, "kinds"),
            coined=coined(draw),
            place=pick(draw, "places"),
            last=pick(draw, "last"),
            number=draw.randint(1, 99),
        )
        return name.title()

    return make


def _amounts(draw: Random, num: int) -> tuple[str, list[Value]]:
    """Draw a type and numbers of one size: few, some or many digits, whole or not."""
    low, high = draw.choice(((1, 6), (1, 60), (15, 90), (100, 999), (1000, 90_000), (100_000, 9_000_000)))
    if high < 100_000 and draw.random() < 0.35:
        places = draw.choice((1, 1, 2))
        kind = draw.choice(("double", "float", "decimal(19,4)"))
        return kind, [round(draw.uniform(low, high), places) for _ in range(num)]
    step = draw.choice((1, 1, 1, 5, 50)) if high > 900 else 1
    return "bigint" if high > 900_000 else "int", [draw.randrange(low, high, step) for _ in range(num)]


def _unlike(make: Callable[[], str], num: int) -> list[str]:
    """Make values of which no two are alike but for chance's last resort."""
    found: dict[str, str] = {}
    values = []
    for _ in range(num):
        value = next((word for word in (make() for _ in range(9)) if word.casefold() not in found), None) or make()
        found[value.casefold()] = value
        values.append(value)
    return values


def _shared(draw: Random, choices: Sequence[Value], num: int) -> list[Value]:
    """Spread a few values over the rows, some more often than others."""
    return draw.choices(choices, [draw.choice((1, 2, 4)) for _ in choices], k=num)


def _text_type(draw: Random) -> str:
    return draw.choice(("text", "text", "text", "varchar(255)", "varchar(80)", "varchar(50)", "char(35)"))
