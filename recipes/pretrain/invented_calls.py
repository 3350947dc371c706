"""Single calls that users of invented conversations wish for: a talk in, a call that was played and a phrase out.

Arguments are drawn from the state as it is, by the explorer's own rules (`sparring.envs.bfcl.offers`), and where
those would draw from its few words, from pools of words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from invented_columns import pick
from invented_talk import Refused, Speech, Talk, file_name, name, person_name, sentence, title, word

from sparring.envs.bfcl.offers import OFFERS, Offer

CITIES = ("Rivermist", "Stonebrook", "Maplecrest", "Silverpine", "Shadowridge", "Sunset Valley", "Oakendale")
CITIES += ("Willowbend", "Crescent Hollow", "Autumnville", "San Francisco")
FAR_CITIES = ("London", "Paris", "Pinehaven", "Greenfield", "Los Angeles", "New York", "Chicago", "Boston", "Beijing")
FAR_CITIES += ("Hong Kong", "Rome", "Tokyo", *CITIES)
COMPANIES = ("Apple", "Google", "Tesla", "Microsoft", "Nvidia", "Zeta Corp", "Alpha Tech", "Omega Industries")
COMPANIES += ("Quasar Ltd.", "Neptune Systems", "Synex Solutions", "Amazon", "Gorilla")
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CAD", "RMB", "AUD", "INR")


def _number(draw: Random) -> float:
    return draw.choice((draw.randrange(1, 900), round(draw.uniform(1, 900), draw.choice((1, 2)))))


def _of_state(api: str, function: str) -> Offer:
    """Take the explorer's arguments where they are of the state alone."""
    return OFFERS[api][function]


def _with(offer: Offer, **makers: Callable[[Random], Any]) -> Offer:
    """Take the explorer's arguments, some of them drawn anew."""

    def made(api: Any, draw: Random) -> dict[str, Any] | None:
        given = offer(api, draw)
        return None if given is None else {**given, **{key: make(draw) for key, make in makers.items() if key in given}}

    return made


def _tag(draw: Random) -> str:
    return f"#{''.join(word(draw).capitalize() for _ in range(draw.choice((1, 2))))}"


def _tweet(api: Any, draw: Random) -> dict[str, Any]:
    tags = [_tag(draw) for _ in range(draw.choice((0, 0, 1, 1, 2)))]
    return {"content": sentence(draw), **({"tags": tags} if tags else {})}


def _address(api: Any, draw: Random) -> dict[str, Any]:
    street = f"{word(draw).title()} {draw.choice(('Road', 'Street', 'Lane', 'Avenue'))}"
    return {"destination": f"{draw.randrange(1, 990)} {street}, {pick(draw, 'places')}"}


def _part_of_name(api: Any, draw: Random) -> dict[str, Any]:
    known = known_file(api, draw)
    return {"path": ".", "name": known.partition(".")[0] if known and draw.random() < 0.5 else word(draw)}


def known_file(api: Any, draw: Random) -> str | None:
    given = _of_state("GorillaFileSystem", "cat")(api, draw)
    return str(given["file_name"]) if given else None


def _echo(api: Any, draw: Random) -> dict[str, Any]:
    known = known_file(api, draw) if draw.random() < 0.4 else None
    return {"content": sentence(draw), "file_name": known or file_name(draw)}


def _elsewhere(api: Any, draw: Random) -> dict[str, Any] | None:
    given = _of_state("GorillaFileSystem", "mv")(api, draw)
    if given and "." in given["destination"]:
        given["destination"] = file_name(draw)
    return given


def user_name(draw: Random) -> str:
    return f"{word(draw)}{draw.choice(('', draw.randrange(100)))}".lower()


_F, _M, _T, _S = (OFFERS[api] for api in ("GorillaFileSystem", "MessageAPI", "TicketAPI", "TradingBot"))
_V, _P, _C = (OFFERS[api] for api in ("TravelAPI", "TwitterAPI", "VehicleControlAPI"))

SINGLES: Mapping[str, Mapping[str, Offer]] = {
    "GorillaFileSystem": {
        **_F,
        "mkdir": lambda api, draw: {"dir_name": name(draw)},
        "touch": lambda api, draw: {"file_name": file_name(draw)},
        "echo": _echo,
        "mv": _elsewhere,
        "cp": _elsewhere,
        "find": _part_of_name,
        "ls": lambda api, draw: {"a": True} if draw.random() < 0.6 else {},
        "pwd": lambda api, draw: {},
    },
    "MathAPI": {
        **OFFERS["MathAPI"],
        **{
            function: (lambda api, draw: {"a": _number(draw), "b": _number(draw)})
            for function in ("add", "subtract", "multiply", "divide")
        },
        **{
            function: (lambda api, draw: {"numbers": [_number(draw) for _ in range(draw.randrange(2, 6))]})
            for function in ("mean", "sum_values", "max_value", "min_value", "standard_deviation")
        },
        "percentage": lambda api, draw: {"part": _number(draw), "whole": _number(draw)},
        "round_number": lambda api, draw: {
            "number": round(draw.uniform(1, 900), 5),
            "decimal_places": draw.randrange(1, 5),
        },
        "square_root": lambda api, draw: {"number": draw.randrange(2, 2000), "precision": draw.randrange(2, 11)},
        "power": lambda api, draw: {"base": draw.randrange(2, 30), "exponent": draw.randrange(2, 6)},
        "absolute_value": lambda api, draw: {"number": -_number(draw)},
    },
    "MessageAPI": {
        **_M,
        "send_message": _with(_M["send_message"], message=sentence),
        "add_contact": lambda api, draw: {"user_name": person_name(draw)},
        "search_messages": lambda api, draw: {"keyword": word(draw)},
        "get_message_stats": lambda api, draw: {},
    },
    "TicketAPI": {
        **_T,
        "ticket_login": _with(_T["ticket_login"], username=user_name, password=user_name),
        "create_ticket": _with(_T["create_ticket"], title=title, description=sentence),
        "resolve_ticket": _with(_T["resolve_ticket"], resolution=sentence),
        "logout": lambda api, draw: {},
    },
    "TradingBot": {
        **_S,
        "trading_login": _with(_S["trading_login"], username=user_name, password=user_name),
        "place_order": _with(_S["place_order"], price=lambda draw: round(draw.uniform(3, 900), draw.choice((0, 1, 2)))),
        "get_available_stocks": lambda api, draw: {"sector": draw.choice(("Technology", "Automobile"))},
        "get_symbol_by_name": lambda api, draw: {"name": draw.choice(COMPANIES)},
        "get_current_time": lambda api, draw: {},
        "trading_logout": lambda api, draw: {},
    },
    "TravelAPI": {
        **_V,
        "get_nearest_airport_by_city": lambda api, draw: {"location": draw.choice(FAR_CITIES)},
        "compute_exchange_rate": lambda api, draw: {
            **dict(zip(("base_currency", "target_currency"), draw.sample(CURRENCIES, 2), strict=True)),
            "value": float(draw.randrange(10, 3000)),
        },
        "get_all_credit_cards": lambda api, draw: {},
        "get_credit_card_balance": lambda api, draw: {
            "access_token": api.access_token,
            "card_id": draw.choice(sorted(api.credit_card_list)),
        },
        "get_booking_history": lambda api, draw: {"access_token": api.access_token},
        "verify_traveler_information": lambda api, draw: {
            "first_name": api.user_first_name,
            "last_name": api.user_last_name,
            "date_of_birth": f"{draw.randrange(1950, 2000)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}",
            "passport_number": f"{draw.choice('ABCKLP')}{draw.randrange(10**7, 10**8)}",
        },
    },
    "TwitterAPI": {
        **_P,
        "post_tweet": _tweet,
        "comment": _with(_P["comment"], comment_content=sentence),
        "mention": _with(_P["mention"], mentioned_usernames=lambda draw: [f"@{user_name(draw)}"]),
        "follow_user": lambda api, draw: {"username_to_follow": user_name(draw)},
        "search_tweets": lambda api, draw: {"keyword": word(draw)},
        "get_user_stats": lambda api, draw: {"username": api.username},
        "list_all_following": lambda api, draw: {},
        "get_tweet_comments": _P["get_tweet"],
    },
    "VehicleControlAPI": {
        **_C,
        "set_navigation": _address,
        "get_zipcode_based_on_city": lambda api, draw: {"city": draw.choice(CITIES)},
        "liter_to_gallon": lambda api, draw: {"liter": float(draw.randrange(5, 120))},
        "find_nearest_tire_shop": lambda api, draw: {},
        "get_current_speed": lambda api, draw: {},
        "releaseBrakePedal": lambda api, draw: {},
        "setHeadlights": lambda api, draw: {"mode": draw.choice(["on", "off", "auto"])},
    },
}
"""API → functions and with what they are called."""


def single(talk: Talk, speech: Speech, api: str) -> str:
    """Make one call that the state allows and return the wish for it; empty: it came to nothing."""
    function = talk.draw.choice(sorted(SINGLES[api]))
    given = SINGLES[api][function](talk.live.instances[api], talk.draw)
    if given is None:
        return ""
    num = len(talk.calls)
    try:
        told = talk.call(function, **given)
    except Refused:
        return ""
    said = speech.ask(talk.calls[-1], talk.scenario.apis)
    if not said:
        raise Refused(function)  # it has changed something, and nobody can ask for it
    _remember(talk, function, given, told)
    assert len(talk.calls) == num + 1
    return said


def _remember(talk: Talk, function: str, given: Mapping[str, Any], told: Any) -> None:
    """Keep what a later wish may speak of."""
    match function, told:
        case "place_order", {"order_id": id}:
            talk.known["order"] = id
        case "create_ticket", {"id": id}:
            talk.known["ticket"] = id
        case "post_tweet", {"id": id}:
            talk.known["tweet"] = id
        case "book_flight", {"booking_id": id}:
            talk.known["booking"] = id
            talk.known["trip"] = {key: given[key] for key in ("access_token", "card_id")}
        case "send_message", _:
            talk.known["receiver"] = given["receiver_id"]
