"""What users of invented conversations wish for that takes several calls: a talk in, calls played and a phrase out.

Later calls use what earlier ones returned, and know what "that order" or "it" means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from invented_calls import CITIES, COMPANIES, FAR_CITIES, known_file, single, user_name
from invented_talk import Refused, Speech, Talk, file_name, name, sentence

from sparring.envs.bfcl.offers import OFFERS

DOORS = ["driver", "passenger", "rear_left", "rear_right"]


def inside(talk: Talk, speech: Speech) -> str:
    """Do something in a directory."""
    given = OFFERS["GorillaFileSystem"]["cd"](talk.live.instances["GorillaFileSystem"], talk.draw)
    if given is None or given["folder"] == "..":
        return ""
    talk.call("cd", **given)
    for _ in range(8):
        if said := single(talk, speech, "GorillaFileSystem"):
            return speech.say("inside", folder=given["folder"], what=said)
    raise Refused("nothing to do there")


def new_text(talk: Talk, speech: Speech) -> str:
    given = {"content": sentence(talk.draw), "file_name": file_name(talk.draw)}
    talk.call("touch", file_name=given["file_name"])
    talk.call("echo", **given)
    return speech.say("new text", **given)


def new_folder(talk: Talk, speech: Speech) -> str:
    file = known_file(talk.live.instances["GorillaFileSystem"], talk.draw)
    if not file:
        return ""
    folder, how = name(talk.draw), talk.draw.choice(("mv", "cp"))
    talk.call("mkdir", dir_name=folder)
    talk.call(how, source=file, destination=folder)
    return speech.say(f"new folder {how}", folder=folder, file_name=file)


def told_file(talk: Talk, speech: Speech) -> str:
    """Pass on what a file says."""
    file = known_file(talk.live.instances["GorillaFileSystem"], talk.draw)
    if not file:
        return ""
    text = talk.call("cat", file_name=file)["file_content"]
    if talk.has("TwitterAPI"):
        talk.known["tweet"] = talk.call("post_tweet", content=text)["id"]
        return speech.say("file as tweet", file_name=file)
    if talk.has("MessageAPI"):
        to = talk.draw.choice(sorted(talk.live.instances["MessageAPI"].user_map.values()))
        talk.call("send_message", receiver_id=to, message=text)
        return speech.say("file as message", file_name=file, receiver_id=to)
    new = file_name(talk.draw)
    talk.call("echo", content=text, file_name=new)
    return speech.say("file to file", file_name=file, new_name=new)


def at_its_price(talk: Talk, speech: Speech) -> str:
    stock = talk.draw.choice(sorted(talk.live.instances["TradingBot"].stocks))
    price = talk.call("get_stock_info", symbol=stock)["price"]
    given = {"order_type": talk.draw.choice(("Buy", "Buy", "Sell")), "symbol": stock}
    amount = talk.draw.randrange(1, 300)
    talk.known["order"] = talk.call("place_order", **given, price=price, amount=amount)["order_id"]
    return speech.say("at its price", **given, amount=amount)


def by_company(talk: Talk, speech: Speech) -> str:
    company = talk.draw.choice(COMPANIES)
    found = talk.call("get_symbol_by_name", name=company)["symbol"]
    if talk.draw.random() < 0.5 and found in talk.live.instances["TradingBot"].stocks:
        talk.call("get_stock_info", symbol=found)
        return speech.say("company info", name=company)
    talk.call("add_to_watchlist", stock=found)
    return speech.say("company watched", name=company)


def that_order(talk: Talk, speech: Speech) -> str:
    if (id := talk.known.get("order")) is None:
        return ""
    if talk.draw.random() < 0.5:
        talk.call("get_order_details", order_id=id)
        return speech.say("that order shown")
    talk.call("cancel_order", order_id=talk.known.pop("order"))
    return speech.say("that order cancelled")


def that_ticket(talk: Talk, speech: Speech) -> str:
    if (id := talk.known.get("ticket")) is None:
        return ""
    match talk.draw.randrange(4):
        case 0:
            talk.call("get_ticket", ticket_id=id)
            return speech.say("that ticket shown")
        case 1:
            talk.call("close_ticket", ticket_id=talk.known.pop("ticket"))
            return speech.say("that ticket closed")
        case 2:
            updates = {"priority": talk.draw.randrange(1, 6)}
            talk.call("edit_ticket", ticket_id=id, updates=updates)
            return speech.say("that ticket edited", **updates)
    text = sentence(talk.draw)
    talk.call("resolve_ticket", ticket_id=talk.known.pop("ticket"), resolution=text)
    return speech.say("that ticket resolved", resolution=text)


def that_tweet(talk: Talk, speech: Speech) -> str:
    if (id := talk.known.get("tweet")) is None:
        return ""
    match talk.draw.randrange(3):
        case 0:
            talk.call("retweet", tweet_id=id)
            return speech.say("that tweet again")
        case 1:
            text = sentence(talk.draw)
            talk.call("comment", tweet_id=id, comment_content=text)
            return speech.say("that tweet commented", content=text)
    user = f"@{user_name(talk.draw)}"
    talk.call("mention", tweet_id=id, mentioned_usernames=[user])
    return speech.say("that tweet mentions", user=user)


def signed_tweet(talk: Talk, speech: Speech) -> str:
    api = talk.live.instances["TwitterAPI"]
    text = sentence(talk.draw)
    talk.call("authenticate_twitter", username=api.username, password=api.password)
    talk.known["tweet"] = talk.call("post_tweet", content=text)["id"]
    return speech.say("signed tweet", username=api.username, password=api.password, content=text)


def flight(talk: Talk, speech: Speech) -> str:
    """A flight between cities: the airports, then the price, the booking, or both."""
    start, end = talk.draw.sample(FAR_CITIES, 2)
    ends = [talk.call("get_nearest_airport_by_city", location=city)["nearest_airport"] for city in (start, end)]
    given = {"travel_date": _day(talk.draw), "travel_class": talk.draw.choice(("economy", "business", "first"))}
    where = {"travel_from": ends[0], "travel_to": ends[1]}
    what = talk.draw.choice(("flight cost", "flight booked", "flight looked up and booked"))
    if what != "flight booked":
        talk.call("get_flight_cost", **where, **given)
    pay: dict[str, str] = {}
    if what != "flight cost":
        api = talk.live.instances["TravelAPI"]
        pay = {"access_token": api.access_token, "card_id": talk.draw.choice(sorted(api.credit_card_list))}
        day = {"travel_date": given["travel_date"]}
        told = talk.call("book_flight", **pay, **day, **where, travel_class=given["travel_class"])
        talk.known |= {"booking": told["booking_id"], "trip": pay}
    return speech.say(what, start=start, end=end, **given, **pay)


def _day(draw: Random) -> str:
    return f"{draw.randrange(2026, 2029)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"


def that_booking(talk: Talk, speech: Speech) -> str:
    if (id := talk.known.get("booking")) is None:
        return ""
    trip = talk.known["trip"]
    match talk.draw.randrange(4):
        case 0:
            talk.call("retrieve_invoice", access_token=trip["access_token"], booking_id=id)
            return speech.say("that booking invoiced")
        case 1:
            talk.call("cancel_booking", access_token=trip["access_token"], booking_id=talk.known.pop("booking"))
            return speech.say("that booking cancelled")
        case 2:
            text = sentence(talk.draw)
            talk.call("contact_customer_support", booking_id=id, message=text)
            return speech.say("that booking complained of", message=text)
    kind = talk.draw.choice(("travel", "comprehensive", "luggage", "health"))
    cost = float(talk.draw.randrange(20, 900))
    given = {"access_token": trip["access_token"], "insurance_type": kind, "booking_id": id, "insurance_cost": cost}
    talk.call("purchase_insurance", **given, card_id=trip["card_id"])
    return speech.say("that booking insured", insurance_type=kind, insurance_cost=cost)


def start_engine(talk: Talk, speech: Speech) -> str:
    talk.call("lockDoors", unlock=False, door=DOORS)
    talk.call("pressBrakePedal", pedalPosition=1.0)
    talk.call("startEngine", ignitionMode="START")
    return speech.say("engine started")


def all_doors(talk: Talk, speech: Speech) -> str:
    unlock = talk.draw.random() < 0.3
    talk.call("lockDoors", unlock=unlock, door=DOORS)
    return speech.say("all doors", unlock=unlock)


def distance(talk: Talk, speech: Speech) -> str:
    start, end = talk.draw.sample(CITIES, 2)
    ends = [talk.call("get_zipcode_based_on_city", city=city)["zipcode"] for city in (start, end)]
    far = talk.call("estimate_distance", cityA=ends[0], cityB=ends[1])["distance"]
    if talk.draw.random() < 0.6:
        return speech.say("distance", start=start, end=end)
    talk.call("estimate_drive_feasibility_by_mileage", distance=far)
    return speech.say("distance driven", start=start, end=end)


def fuel(talk: Talk, speech: Speech) -> str:
    liter = float(talk.draw.randrange(4, 60))
    talk.call("fillFuelTank", fuelAmount=talk.call("liter_to_gallon", liter=liter)["gallon"])
    return speech.say("fuel", liter=liter)


def tires(talk: Talk, speech: Speech) -> str:
    told = talk.call("check_tire_pressure")
    if talk.has("MathAPI"):
        talk.call("mean", numbers=[value for key, value in told.items() if "TirePressure" in key])
        return speech.say("tires averaged")
    talk.call("find_nearest_tire_shop")
    return speech.say("tires and shop")


def to_a_name(talk: Talk, speech: Speech) -> str:
    """Write to somebody by name."""
    user = talk.draw.choice(sorted(talk.live.instances["MessageAPI"].user_map))
    text = sentence(talk.draw)
    talk.known["receiver"] = talk.call("get_user_id", user=user)["user_id"]
    talk.call("send_message", receiver_id=talk.known["receiver"], message=text)
    return speech.say("to a name", user=user, message=text)


def signed_message(talk: Talk, speech: Speech) -> str:
    me, other = talk.draw.sample(sorted(talk.live.instances["MessageAPI"].user_map.values()), 2)
    text = sentence(talk.draw)
    talk.call("message_login", user_id=me)
    talk.call("send_message", receiver_id=other, message=text)
    talk.known["receiver"] = other
    return speech.say("signed message", user_id=me, receiver_id=other, message=text)


def that_message(talk: Talk, speech: Speech) -> str:
    if (id := talk.known.pop("receiver", None)) is None:
        return ""
    talk.call("delete_message", receiver_id=id)
    return speech.say("that message")


def sum_up(talk: Talk, speech: Speech) -> str:
    a, b, c = (float(talk.draw.randrange(2, most)) for most in (900, 90, 12))
    total = talk.call("add", a=a, b=b)["result"]
    how = talk.draw.choice(("divide", "multiply"))
    talk.call(how, a=total, b=c)
    return speech.say(f"sum and {how}", a=a, b=b, c=c)


Errand = Callable[[Talk, Speech], str]
ERRANDS: Mapping[str, Sequence[Errand]] = {
    "GorillaFileSystem": (inside, inside, inside, new_text, new_folder, told_file),
    "MathAPI": (sum_up,),
    "MessageAPI": (to_a_name, signed_message, that_message),
    "TicketAPI": (that_ticket,),
    "TradingBot": (at_its_price, by_company, that_order, that_order),
    "TravelAPI": (flight, flight, that_booking, that_booking, that_booking),
    "TwitterAPI": (that_tweet, that_tweet, signed_tweet),
    "VehicleControlAPI": (start_engine, all_doors, distance, fuel, tires),
}
"""API → errands, more often those that stand here twice. An empty phrase: the state does not allow it."""
