"""How each function may be called by an explorer: an API as it is now and a draw, arguments out.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from sparring.envs.bfcl.inventing import NOUNS, PEOPLE, SENTENCES, file_name

Arguments = dict[str, Any] | None
Offer = Callable[[Any, Random], Arguments]
"""The API as it is now and a draw in, arguments out; None: there is nothing to call it with."""


def _pick(values: Sequence[Any], draw: Random) -> Any:
    return draw.choice(values) if values else None


def _given(**arguments: Any) -> Arguments:
    """Return arguments, unless the world has nothing for one of them."""
    return None if any(value is None for value in arguments.values()) else arguments


def _in_folder(api: Any, *, is_file: bool) -> list[str]:
    contents = api._current_dir.contents
    return sorted(name for name, item in contents.items() if hasattr(item, "content") == is_file)


def _file(api: Any, draw: Random) -> str | None:
    return _pick(_in_folder(api, is_file=True), draw)


def _folder(api: Any, draw: Random) -> str | None:
    return _pick(_in_folder(api, is_file=False), draw)


def _go(api: Any, draw: Random) -> Arguments:
    above = [".."] if api._current_dir.parent is not None else []
    return _given(folder=_pick([*_in_folder(api, is_file=False), *above], draw))


def _grep(api: Any, draw: Random) -> Arguments:
    name = _file(api, draw)
    words = api._current_dir.contents[name].content.split() if name else []
    return _given(file_name=name, pattern=_pick([word.strip(".") for word in words], draw))


def _diff(api: Any, draw: Random) -> Arguments:
    names = _in_folder(api, is_file=True)
    return dict(zip(("file_name1", "file_name2"), draw.sample(names, 2), strict=True)) if len(names) > 1 else None


_FILES: Mapping[str, Offer] = {
    "cd": _go,
    "mkdir": lambda api, draw: {"dir_name": f"{draw.choice(NOUNS)}_{draw.choice(NOUNS)}"},
    "touch": lambda api, draw: {"file_name": file_name(draw)},
    "echo": lambda api, draw: {"content": draw.choice(SENTENCES), "file_name": _file(api, draw) or file_name(draw)},
    "mv": lambda api, draw: _given(source=_file(api, draw), destination=_folder(api, draw) or file_name(draw)),
    "cp": lambda api, draw: _given(source=_file(api, draw), destination=_folder(api, draw) or file_name(draw)),
    "rm": lambda api, draw: _given(file_name=_file(api, draw)),
    "cat": lambda api, draw: _given(file_name=_file(api, draw)),
    "grep": _grep,
    "diff": _diff,
    "sort": lambda api, draw: _given(file_name=_file(api, draw)),
    "tail": lambda api, draw: _given(file_name=_file(api, draw), lines=draw.randrange(1, 4)),
    "wc": lambda api, draw: _given(file_name=_file(api, draw), mode=draw.choice("lwc")),
    "find": lambda api, draw: {"path": ".", "name": draw.choice(NOUNS)},
    "ls": lambda api, draw: {"a": True},
}


def _numbers(draw: Random) -> list[int]:
    return [draw.randrange(1, 500) for _ in range(draw.randrange(3, 6))]


_MATH: Mapping[str, Offer] = {
    "mean": lambda api, draw: {"numbers": _numbers(draw)},
    "standard_deviation": lambda api, draw: {"numbers": _numbers(draw)},
    "logarithm": lambda api, draw: {
        "value": draw.randrange(2, 900),
        "base": draw.choice([2, 3, 5, 10]),
        "precision": draw.randrange(3, 9),
    },
}


def _person(api: Any, draw: Random) -> str:
    return draw.choice(sorted(api.user_map))


_MESSAGES: Mapping[str, Offer] = {
    "message_login": lambda api, draw: None if api.current_user else {"user_id": api.user_map[_person(api, draw)]},
    "send_message": lambda api, draw: {
        "receiver_id": api.user_map[_person(api, draw)],
        "message": draw.choice(SENTENCES),
    },
    "add_contact": lambda api, draw: {"user_name": draw.choice(PEOPLE)},
    "delete_message": lambda api, draw: {"receiver_id": api.user_map[_person(api, draw)]},
    "get_user_id": lambda api, draw: {"user": _person(api, draw)},
    "list_users": lambda api, draw: {},
    "view_messages_sent": lambda api, draw: {},
    "search_messages": lambda api, draw: {"keyword": draw.choice(SENTENCES).split()[1]},
}


def _ticket(api: Any, draw: Random) -> int | None:
    return _pick([one["id"] for one in api.ticket_queue], draw)


_TICKETS: Mapping[str, Offer] = {
    "ticket_login": lambda api, draw: (
        None if api.current_user else {"username": draw.choice(PEOPLE), "password": draw.choice(NOUNS)}
    ),
    "create_ticket": lambda api, draw: {
        "title": f"{draw.choice(NOUNS)} order".capitalize(),
        "description": draw.choice(SENTENCES),
        "priority": draw.randrange(1, 6),
    },
    "edit_ticket": lambda api, draw: _given(ticket_id=_ticket(api, draw), updates={"priority": draw.randrange(1, 6)}),
    "resolve_ticket": lambda api, draw: _given(ticket_id=_ticket(api, draw), resolution=draw.choice(SENTENCES)),
    "close_ticket": lambda api, draw: _given(ticket_id=_ticket(api, draw)),
    "get_ticket": lambda api, draw: _given(ticket_id=_ticket(api, draw)),
    "get_user_tickets": lambda api, draw: {},
}


def _stock(api: Any, draw: Random) -> str:
    return draw.choice(sorted(api.stocks))


def _order(api: Any, draw: Random) -> Arguments:
    symbol = _stock(api, draw)
    how = {"order_type": draw.choice(["Buy", "Sell"]), "symbol": symbol, "price": api.stocks[symbol]["price"]}
    return {**how, "amount": draw.randrange(1, 40)}


_STOCKS: Mapping[str, Offer] = {
    "trading_login": lambda api, draw: (
        None if api.authenticated else {"username": draw.choice(PEOPLE).lower(), "password": draw.choice(NOUNS)}
    ),
    "add_to_watchlist": lambda api, draw: {"stock": _stock(api, draw)},
    "remove_stock_from_watchlist": lambda api, draw: _given(symbol=_pick(sorted(api.watch_list), draw)),
    "place_order": _order,
    "cancel_order": lambda api, draw: _given(order_id=_pick(sorted(api.orders), draw)),
    "fund_account": lambda api, draw: {"amount": float(draw.randrange(1, 60) * 50)},
    "withdraw_funds": lambda api, draw: {"amount": float(draw.randrange(1, 20) * 50)},
    "get_stock_info": lambda api, draw: {"symbol": _stock(api, draw)},
    "get_order_details": lambda api, draw: _given(order_id=_pick(sorted(api.orders), draw)),
    "get_order_history": lambda api, draw: {},
    "get_watchlist": lambda api, draw: {},
    "get_account_info": lambda api, draw: {},
}


def _flight(api: Any, draw: Random) -> dict[str, Any]:
    start, end = draw.sample(api.list_all_airports(), 2)
    date = f"2027-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
    seat = draw.choice(["economy", "business", "first"])
    return {"travel_from": start, "travel_to": end, "travel_date": date, "travel_class": seat}


def _card(api: Any, draw: Random) -> str | None:
    return _pick(sorted(api.credit_card_list), draw)


def _booking(api: Any, draw: Random) -> str | None:
    return _pick(sorted(api.booking_record), draw)


_TRAVEL: Mapping[str, Offer] = {
    "book_flight": lambda api, draw: _given(
        access_token=api.access_token, card_id=_card(api, draw), **_flight(api, draw)
    ),
    "cancel_booking": lambda api, draw: _given(access_token=api.access_token, booking_id=_booking(api, draw)),
    "purchase_insurance": lambda api, draw: _given(
        access_token=api.access_token,
        insurance_type=draw.choice(["travel", "luggage", "health"]),
        booking_id=_booking(api, draw),
        insurance_cost=float(draw.randrange(2, 30) * 10),
        card_id=_card(api, draw),
    ),
    "set_budget_limit": lambda api, draw: _given(
        access_token=api.access_token, budget_limit=float(draw.randrange(10, 99) * 100)
    ),
    "register_credit_card": lambda api, draw: _given(
        access_token=api.access_token,
        card_number=str(draw.randrange(10**15, 10**16)),
        expiration_date=f"{draw.randrange(1, 13):02}/2031",
        cardholder_name=f"{api.user_first_name} {api.user_last_name}",
        card_verification_number=draw.randrange(100, 1000),
    ),
    "get_flight_cost": _flight,
    "compute_exchange_rate": lambda api, draw: {
        "base_currency": draw.choice(["USD", "EUR"]),
        "target_currency": draw.choice(["GBP", "JPY"]),
        "value": float(draw.randrange(10, 900)),
    },
    "list_all_airports": lambda api, draw: {},
}


def _tweet(api: Any, draw: Random) -> int | None:
    return _pick(sorted(api.tweets), draw)


def _named(draw: Random) -> str:
    return draw.choice(PEOPLE).lower()


_POSTS: Mapping[str, Offer] = {
    "authenticate_twitter": lambda api, draw: (
        None if api.authenticated else {"username": api.username, "password": api.password}
    ),
    "post_tweet": lambda api, draw: {"content": draw.choice(SENTENCES), "tags": [f"#{draw.choice(NOUNS)}"]},
    "comment": lambda api, draw: _given(tweet_id=_tweet(api, draw), comment_content=draw.choice(SENTENCES)),
    "retweet": lambda api, draw: _given(tweet_id=_tweet(api, draw)),
    "mention": lambda api, draw: _given(tweet_id=_tweet(api, draw), mentioned_usernames=[f"@{_named(draw)}"]),
    "follow_user": lambda api, draw: {"username_to_follow": _named(draw)},
    "unfollow_user": lambda api, draw: _given(username_to_unfollow=_pick(sorted(api.following_list), draw)),
    "get_tweet": lambda api, draw: _given(tweet_id=_tweet(api, draw)),
    "get_user_tweets": lambda api, draw: {"username": api.username},
    "search_tweets": lambda api, draw: {"keyword": draw.choice(SENTENCES).split()[1]},
}


def _doors(api: Any, draw: Random) -> Arguments:
    unlock = draw.random() < 0.3
    doors = sorted(name for name, state in api.doorStatus.items() if (state == "locked") == unlock)
    return {"unlock": unlock, "door": doors} if doors else None


_CAR: Mapping[str, Offer] = {
    "lockDoors": _doors,
    "fillFuelTank": lambda api, draw: {"fuelAmount": float(draw.randrange(1, 20))},
    "pressBrakePedal": lambda api, draw: {"pedalPosition": 1.0},
    "startEngine": lambda api, draw: {"ignitionMode": "START"},
    "activateParkingBrake": lambda api, draw: {"mode": draw.choice(["engage", "release"])},
    "adjustClimateControl": lambda api, draw: {
        "temperature": float(draw.randrange(17, 27)),
        "unit": "celsius",
        "fanSpeed": draw.randrange(10, 90),
        "mode": draw.choice(["auto", "cool", "heat", "defrost"]),
    },
    "setHeadlights": lambda api, draw: {"mode": draw.choice(["on", "off"])},
    "set_navigation": lambda api, draw: {"destination": f"{draw.randrange(1, 90)} {draw.choice(NOUNS).title()} Road"},
    "setCruiseControl": lambda api, draw: {
        "speed": float(draw.randrange(5, 20) * 5),
        "activate": True,
        "distanceToNextVehicle": float(draw.randrange(20, 90)),
    },
    "check_tire_pressure": lambda api, draw: {},
    "displayCarStatus": lambda api, draw: {"option": draw.choice(["fuel", "battery", "doors", "climate", "engine"])},
    "gallon_to_liter": lambda api, draw: {"gallon": float(draw.randrange(1, 30))},
    "estimate_drive_feasibility_by_mileage": lambda api, draw: {"distance": float(draw.randrange(10, 900))},
}

OFFERS: Mapping[str, Mapping[str, Offer]] = {
    "GorillaFileSystem": _FILES,
    "MathAPI": _MATH,
    "MessageAPI": _MESSAGES,
    "TicketAPI": _TICKETS,
    "TradingBot": _STOCKS,
    "TravelAPI": _TRAVEL,
    "TwitterAPI": _POSTS,
    "VehicleControlAPI": _CAR,
}
"""API → the functions that the explorer calls, and with what."""
