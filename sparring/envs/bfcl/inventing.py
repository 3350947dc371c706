"""Initial states of our own for the benchmark's eight APIs: a seeded draw in, a config out that an API can start from.

All names, texts and numbers are ours; nothing is read from the benchmark's tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

NOUNS = (
    *("anchor", "basil", "cobalt", "dune", "ember", "fjord", "gravel", "hazel", "indigo", "juniper", "kelp", "lagoon"),
    *("maple", "nectar", "opal", "pebble", "quartz", "ripple", "saffron", "thicket", "umber", "velvet", "willow"),
)
TOPICS = ("menu", "ledger", "roster", "poem", "survey", "recipe", "minutes", "script", "budget", "memo", "letter")
SUFFIXES = (".txt", ".md", ".csv", ".log")
SENTENCES = (
    "The kiln is ready by noon",
    "Two crates of pears came in late",
    "Nobody has seen the spare key",
    "The choir meets in the old barn",
    "Rain is due on the second day",
    "Ask the printer for a new proof",
    "The bridge stays closed till May",
    "We are short of blue thread",
    "Lamps go out at ten sharp",
    "Every boat needs a second oar",
)
PEOPLE = (
    "Amara",
    "Benno",
    "Cosima",
    "Dilan",
    "Edda",
    "Florian",
    "Gisela",
    "Hanno",
    "Ilka",
    "Jarek",
    "Kerstin",
    "Lorin",
)
SURNAMES = ("Achterberg", "Brandl", "Czerny", "Dorn", "Engel", "Falk", "Gerber", "Holm")
SYMBOLS = ("BRGN", "CLDR", "DUNE", "EMBR", "FJRD", "KELP", "OPLX", "QRTZ", "SFRN", "WLLW")


def invent(apis: tuple[str, ...], draw: Random) -> dict[str, Any]:
    """Return a state for each of the APIs that keeps one."""
    return {api: INVENTORS[api](draw) for api in apis if api in INVENTORS}


def file_name(draw: Random) -> str:
    return f"{draw.choice(NOUNS)}_{draw.choice(TOPICS)}{draw.choice(SUFFIXES)}"


def text(draw: Random) -> str:
    return ". ".join(draw.sample(SENTENCES, draw.randrange(1, 4))) + "."


def _files(draw: Random) -> dict[str, Any]:
    def directory(depth: int) -> dict[str, Any]:
        contents: dict[str, Any] = {
            file_name(draw): {"type": "file", "content": text(draw).replace(". ", ".\n")}
            for _ in range(draw.randrange(1, 4))
        }
        if depth:
            contents |= {name: directory(depth - 1) for name in draw.sample(NOUNS, draw.randrange(1, 4))}
        return {"type": "directory", "contents": contents}

    return {"root": {draw.choice(NOUNS): directory(2)}}


def _messages(draw: Random) -> dict[str, Any]:
    people = draw.sample(PEOPLE, draw.randrange(4, 7))
    ids = {name: f"USR{i:03}" for i, name in enumerate(people, start=1)}
    inbox = [{ids[name]: draw.choice(SENTENCES)} for name in people[1:]]
    return {
        "random_seed": draw.randrange(10**6),
        "user_count": len(people),
        "user_map": ids,
        "inbox": inbox,
        "message_count": len(inbox),
        "current_user": draw.choice([None, ids[people[0]]]),
    }


def _tickets(draw: Random) -> dict[str, Any]:
    owner = draw.choice(PEOPLE)
    queue = [
        {
            "id": number,
            "title": f"{draw.choice(NOUNS)} {draw.choice(TOPICS)}".capitalize(),
            "description": draw.choice(SENTENCES),
            "priority": draw.randrange(1, 6),
            "status": "Open",
            "created_by": owner,
        }
        for number in range(1, draw.randrange(2, 5))
    ]
    return {"ticket_queue": queue, "ticket_counter": len(queue) + 1, "current_user": draw.choice([None, owner])}


def _stocks(draw: Random) -> dict[str, Any]:
    symbols = draw.sample(SYMBOLS, 5)
    stocks = {name: {"price": round(draw.uniform(5, 900), 2), **_trend(draw)} for name in symbols}
    first = draw.randrange(1000, 9000)
    order = {"id": first, "order_type": "Buy", "symbol": symbols[0], "price": stocks[symbols[0]]["price"]}
    return {
        "orders": {str(first): {**order, "amount": draw.randrange(1, 50), "status": "Pending"}},
        "account_info": {
            "account_id": draw.randrange(10**4, 10**5),
            "balance": float(draw.randrange(20, 400) * 100),
            "binding_card": draw.randrange(10**15, 10**16),
        },
        "authenticated": draw.random() < 0.7,
        "market_status": "Open",
        "order_counter": first + 1,
        "stocks": stocks,
        "watch_list": symbols[:2],
        "transaction_history": [],
        "random_seed": draw.randrange(10**6),
    }


def _trend(draw: Random) -> dict[str, float]:
    numbers = {"percent_change": 2, "volume": 3, "MA(5)": 900, "MA(20)": 900}
    return {name: round(draw.uniform(0.1, most), 2) for name, most in numbers.items()}


def _travel(draw: Random) -> dict[str, Any]:
    first, last = draw.choice(PEOPLE), draw.choice(SURNAMES)
    return {
        "random_seed": draw.randrange(10**6),
        "credit_card_list": {
            f"card_{draw.randrange(1000, 9999)}": {
                "card_number": str(draw.randrange(10**15, 10**16)),
                "expiration_date": f"{draw.randrange(1, 13):02}/20{draw.randrange(27, 33)}",
                "cardholder_name": f"{first} {last}",
                "card_verification_number": draw.randrange(100, 1000),
                "balance": float(draw.randrange(50, 300) * 100),
            }
        },
        "booking_record": {},
        "access_token": f"{draw.randrange(10**5, 10**6)}",
        "token_type": "Bearer",
        "token_expires_in": 3600,
        "token_scope": "read_write",
        "user_first_name": first,
        "user_last_name": last,
        "budget_limit": float(draw.randrange(10, 90) * 100),
    }


def _posts(draw: Random) -> dict[str, Any]:
    name, *others = (one.lower() for one in draw.sample(PEOPLE, 5))
    tweets = {
        str(number): {"id": number, "username": author, "content": draw.choice(SENTENCES), "tags": [], "mentions": []}
        for number, author in enumerate(draw.choices([name, *others], k=draw.randrange(1, 4)))
    }
    return {
        "username": name,
        "password": f"{draw.choice(NOUNS)}{draw.randrange(100)}",
        "authenticated": draw.random() < 0.7,
        "tweets": tweets,
        "comments": {},
        "retweets": {},
        "following_list": others[:2],
        "tweet_counter": len(tweets),
    }


def _car(draw: Random) -> dict[str, Any]:
    doors = {name: draw.choice(["locked", "unlocked"]) for name in ("driver", "passenger", "rear_left", "rear_right")}
    tires = {f"{where}TirePressure": round(draw.uniform(28, 36), 1) for where in ("frontLeft", "frontRight")}
    tires |= {f"{where}TirePressure": round(draw.uniform(28, 36), 1) for where in ("rearLeft", "rearRight")}
    return {
        "random_seed": draw.randrange(10**6),
        "fuelLevel": round(draw.uniform(2, 30), 1),
        "batteryVoltage": round(draw.uniform(12, 13), 1),
        "engineState": "stopped",
        "doorStatus": doors,
        "acTemperature": float(draw.randrange(16, 28)),
        "fanSpeed": draw.randrange(20, 90),
        "acMode": "auto",
        "humidityLevel": float(draw.randrange(30, 60)),
        "headLightStatus": draw.choice(["on", "off"]),
        "parkingBrakeStatus": "released",
        "brakePedalStatus": "released",
        "distanceToNextVehicle": float(draw.randrange(20, 90)),
        "cruiseStatus": "inactive",
        "destination": "None",
        **tires,
    }


INVENTORS: Mapping[str, Callable[[Random], dict[str, Any]]] = {
    "GorillaFileSystem": _files,
    "MessageAPI": _messages,
    "TicketAPI": _tickets,
    "TradingBot": _stocks,
    "TravelAPI": _travel,
    "TwitterAPI": _posts,
    "VehicleControlAPI": _car,
}
"""API → who invents its state. `MathAPI` keeps none."""
