"""Calls in, what a user would say to have them made out: the words of tasks whose goal is what somebody did.

Only what is worth asking for has words: calls that change an API's state, and those that look something up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from sparring.envs.bfcl.calls import Call
from sparring.envs.bfcl.wheel import arguments, function_docs

CHANGING: Mapping[str, str] = {
    # files
    "cd": "go to the directory {folder}",
    "cp": "copy {source} to {destination}",
    "echo": "write {content} to the file {file_name}",
    "mkdir": "create the directory {dir_name}",
    "mv": "move {source} to {destination}",
    "rm": "remove {file_name}",
    "rmdir": "remove the directory {dir_name}",
    "touch": "create the file {file_name}",
    # messages
    "add_contact": "add {user_name} to my contacts",
    "delete_message": "delete my latest message to {receiver_id}",
    "message_login": "log in to messages as {user_id}",
    "send_message": "send {receiver_id} the message {message}",
    # tickets
    "close_ticket": "close ticket {ticket_id}",
    "create_ticket": "create a ticket titled {title}",
    "edit_ticket": "edit ticket {ticket_id} with the updates {updates}",
    "logout": "log out of the ticket system",
    "resolve_ticket": "resolve ticket {ticket_id} with the resolution {resolution}",
    "ticket_login": "log in to the ticket system as {username} with the password {password}",
    # stocks
    "add_to_watchlist": "add {stock} to my watchlist",
    "cancel_order": "cancel order {order_id}",
    "fund_account": "put {amount} dollars into my trading account",
    "place_order": "place the order to {order_type} {amount} shares of {symbol} at {price} dollars each",
    "remove_stock_from_watchlist": "take {symbol} off my watchlist",
    "trading_login": "log in to trading as {username} with the password {password}",
    "trading_logout": "log out of trading",
    "withdraw_funds": "withdraw {amount} dollars from my trading account",
    # travel
    "book_flight": "book the flight from {travel_from} to {travel_to} on {travel_date} in the class {travel_class}, "
    "paid by the card {card_id}, with the access token {access_token}",
    "cancel_booking": "cancel booking {booking_id} with the access token {access_token}",
    "purchase_insurance": "buy the insurance {insurance_type} for {insurance_cost} dollars for booking {booking_id}, "
    "paid by the card {card_id}, with the access token {access_token}",
    "register_credit_card": "register the credit card {card_number} of {cardholder_name}, which expires on "
    "{expiration_date} and has the verification number {card_verification_number}, with the access token "
    "{access_token}",
    "set_budget_limit": "set the travel budget to {budget_limit} dollars with the access token {access_token}",
    # posts
    "authenticate_twitter": "log in to Twitter as {username} with the password {password}",
    "comment": "comment {comment_content} on tweet {tweet_id}",
    "follow_user": "follow {username_to_follow}",
    "mention": "mention {mentioned_usernames} in tweet {tweet_id}",
    "post_tweet": "post the tweet {content}",
    "retweet": "retweet tweet {tweet_id}",
    "unfollow_user": "stop following {username_to_unfollow}",
    # the car
    "activateParkingBrake": "{mode} the parking brake",
    "adjustClimateControl": "set the climate control to {temperature} degrees",
    "lockDoors": "{unlock} the doors {door}",
    "fillFuelTank": "fill {fuelAmount} gallons into the tank",
    "pressBrakePedal": "press the brake pedal to the position {pedalPosition}",
    "releaseBrakePedal": "release the brake pedal",
    "setCruiseControl": "turn the cruise control {activate}, with a speed of {speed} and a distance of "
    "{distanceToNextVehicle} to the next car",
    "setHeadlights": "turn the headlights {mode}",
    "set_navigation": "navigate to {destination}",
    "startEngine": "turn the ignition to {ignitionMode}",
}
"""What calls do to the world, with their arguments."""

LOOKING: Mapping[str, str] = {
    "cat": "show what is in the file {file_name}",
    "diff": "compare the files {file_name1} and {file_name2}",
    "find": "find files",
    "grep": "find the lines of {file_name} that have {pattern}",
    "ls": "list what is in the current directory",
    "sort": "sort the lines of {file_name}",
    "tail": "show the end of {file_name}",
    "wc": "count {file_name}",
    "logarithm": "compute the logarithm of {value} to the base {base} with a precision of {precision}",
    "mean": "compute the mean of {numbers}",
    "standard_deviation": "compute the standard deviation of {numbers}",
    "get_user_id": "look up the user id of {user}",
    "list_users": "list the users of my workspace",
    "search_messages": "look for messages with {keyword}",
    "view_messages_sent": "show the messages that I sent",
    "get_ticket": "show ticket {ticket_id}",
    "get_user_tickets": "show my tickets",
    "get_account_info": "show my trading account",
    "get_available_stocks": "list the stocks of the sector {sector}",
    "get_current_time": "tell me the time on the market",
    "get_order_details": "show order {order_id}",
    "get_order_history": "show my order history",
    "get_stock_info": "show the stock {symbol}",
    "get_symbol_by_name": "look up the stock symbol of {name}",
    "get_watchlist": "show my watchlist",
    "compute_exchange_rate": "convert {value} from {base_currency} to {target_currency}",
    "get_flight_cost": "tell me what a flight from {travel_from} to {travel_to} on {travel_date} costs in the class "
    "{travel_class}",
    "get_nearest_airport_by_city": "find the airport nearest to {location}",
    "list_all_airports": "list all airports",
    "retrieve_invoice": "show the invoice, with the access token {access_token}",
    "verify_traveler_information": "verify the traveler {first_name} {last_name}, born on {date_of_birth}, passport "
    "{passport_number}",
    "get_tweet": "show tweet {tweet_id}",
    "get_user_tweets": "show the tweets of {username}",
    "search_tweets": "look for tweets with {keyword}",
    "check_tire_pressure": "check the tire pressure",
    "displayCarStatus": "show the car's status: {option}",
    "estimate_distance": "estimate the distance between {cityA} and {cityB}",
    "estimate_drive_feasibility_by_mileage": "say whether the car can drive {distance} miles",
    "find_nearest_tire_shop": "find the nearest tire shop",
    "gallon_to_liter": "convert {gallon} gallons to liters",
    "get_zipcode_based_on_city": "look up the zipcode of {city}",
    "liter_to_gallon": "convert {liter} liters to gallons",
}
"""What calls find out."""

SWITCHES: Mapping[str, tuple[str, str]] = {"unlock": ("lock", "unlock"), "activate": ("off", "on")}
"""How the arguments that are False or True read in these words."""


def named_arguments(call: Call, apis: Sequence[str]) -> dict[str, Any]:
    """Return a call's arguments by name, in the order in which they were written; empty: the function is unknown."""
    api = next((api for api in apis for doc in function_docs(api) if doc["name"] == call.name), None)
    if api is None:
        return {}
    return {**dict(zip(arguments(api, call.name), call.args, strict=False)), **call.kwargs}


def ask_for(calls: Sequence[Call], apis: Sequence[str]) -> str:
    """Ask for calls, one after another: "Please create the directory 'temp', then remove 'a.txt'."; empty: no words."""
    parts = [_words(call, named_arguments(call, apis)) for call in calls]
    return f"Please {', then '.join(parts)}." if parts and all(parts) else ""


def _words(call: Call, given: Mapping[str, Any]) -> str:
    template = CHANGING.get(call.name) or LOOKING.get(call.name, "")
    used = {name for _, name, _, _ in Formatter().parse(template) if name}
    if not template or not used <= given.keys():
        return ""
    shown = {name: _shown(value) for name, value in given.items()}
    shown |= {name: words[given[name] is True] for name, words in SWITCHES.items() if name in given}
    text = template.format_map(shown)
    extra = [f"{name} {shown[name]}" for name in given if name not in used]
    return f"{text} ({', '.join(extra)})" if extra else text


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return repr(value) if isinstance(value, str) else str(value)
