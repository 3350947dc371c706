"""WebShop's own files in, products out: the catalogue as its authors published it, or an export of what they load.

The files are not ours to ship. `WHERE_FROM` says where they come from; every message about a bad one repeats it.
Source: the loader in github.com/princeton-nlp/WebShop, web_agent_site/engine/engine.py.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from sparring.core.errors import ConfigError, DataError
from sparring.envs.webshop.products import Product, Review, Wish

WHERE_FROM = (
    "They come from github.com/princeton-nlp/WebShop: its setup.sh downloads items_shuffle_1000.json and "
    "items_ins_v2_1000.json (-d small) or items_shuffle.json and items_ins_v2.json (-d all), and items_human_ins.json."
)

FETCH_COMMAND = (
    "pip install gdown && mkdir -p data/webshop && "
    "gdown 1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib -O data/webshop/items_shuffle_1000.json && "
    "gdown 1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu -O data/webshop/items_ins_v2_1000.json && "
    "gdown 14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O -O data/webshop/items_human_ins.json"
)
"""Fetches the small set of 1,000 products, as the benchmark's own set-up does."""

NO_PRICE = 100.0
"""What a product without a price costs."""

LONGEST_ID = 10
"""Records with longer ids are broken ones; the benchmark's loader skips them too."""

_CHUNK = 1 << 20
"""Characters read at a time, at least."""

_GAP = re.compile(r"[\s,]*")


class Source:
    """The files of a folder that make up one catalogue."""

    def __init__(self, folder: Path) -> None:
        """Look for the files; reads none.

        Raises:
            ConfigError: there is no such folder, or no catalogue in it, or more than one.
        """
        expected = (
            "items_shuffle*.json with items_ins_v2*.json and, for people's instructions, items_human_ins.json; or "
            f"products*.jsonl.gz, a gzipped JSON Lines export of the loaded products. {WHERE_FROM}"
        )
        if not folder.is_dir():
            raise ConfigError(f"env.path: {folder} is no folder. Expected is one with {expected}")
        self.products = _only(folder, ("items_shuffle*.json", "products*.jsonl.gz"), f"Expected is {expected}")
        is_export = self.products.suffix == ".gz"
        is_needed = not is_export
        self.attributes = _only(folder, ("items_ins_v2*.json",), f"Expected is {expected}", is_needed)
        human = folder / "items_human_ins.json"
        self.human = human if human.is_file() else None

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.products, self.attributes, self.human) if file is not None]

    def read(self, num_products: int | None = None) -> Iterator[Product]:
        """Yield the products in the file's order, of the first `num_products` records if given; repeated ids once.

        Raises:
            DataError: a file can't be read or is malformed.
        """
        attributes = _read_object(self.attributes) if self.attributes else {}
        human = _read_object(self.human) if self.human else {}
        seen: set[str] = set()
        for where, record in islice(_records(self.products), num_products):
            try:
                product_id = str(record["asin"])
                if product_id == "nan" or len(product_id) > LONGEST_ID or product_id in seen:
                    continue
                seen.add(product_id)
                yield parse_product(record, attributes.get(product_id, {}), human.get(product_id))
            except KeyError as error:
                _refuse(where, f"has no {error}")
            except (TypeError, ValueError, AttributeError) as error:
                _refuse(where, f"is malformed ({error})")
        if not seen:
            _refuse(str(self.products), "holds no product")


def parse_product(record: Mapping[str, Any], attributes: Mapping[str, Any], human: list[Any] | None) -> Product:
    """Turn a record of the catalogue into a product.

    Args:
        record: as published, or as the benchmark's loader leaves it.
        attributes: the product's entry in items_ins_v2.
        human: the product's entry in items_human_ins; None: the record's own `instructions`, if any.
    """
    product_id, title = record["asin"], record["name"]
    price, price_text = _price(record.get("pricing"), product_id)
    features = record.get("small_description") or ""
    return Product(
        id=product_id,
        title=title,
        description=record["full_description"] or "",
        features=tuple(features) if isinstance(features, list) else (features,),
        price=price,
        price_text=price_text,
        kind=record["category"],
        query=record["query"].lower().strip(),
        path=record["product_category"],
        attributes=tuple(attributes.get("attributes", record.get("Attributes", ["DUMMY_ATTR"]))),
        options=_options(record),
        reviews=tuple(_review(review) for review in record.get("Reviews") or ()),
        rating=str(record.get("Rating", "N.A.")),
        wishes=_wishes(attributes, record.get("instructions", ()) if human is None else human),
    )


def _wishes(attributes: Mapping[str, Any], human: Any) -> tuple[Wish, ...]:
    wishes = [
        Wish(
            text=entry["instruction"],
            attributes=tuple(entry["instruction_attributes"]),
            options=tuple(entry["instruction_options"]),
        )
        for entry in human
        if entry["instruction_attributes"]
    ]
    if attributes.get("instruction"):
        asked = tuple(attributes["instruction_attributes"])
        wishes.append(Wish(text=attributes["instruction"], attributes=asked, options=None))
    return tuple(wishes)


def _price(pricing: Any, product_id: str) -> tuple[float, str]:
    """Return a price and how it is shown; from a range, the price is drawn by the product's id."""
    if isinstance(pricing, str):
        pricing = [float(re.sub(r"[^\d.]", "", part)) for part in pricing.split("$")[1:]]
    if not pricing:
        return NO_PRICE, f"${NO_PRICE}"
    low, *rest = (float(price) for price in pricing[:2])
    if not rest:
        return low, f"${low}"
    return random.Random(f"price of {product_id}").uniform(low, rest[0]), f"${low} to ${rest[0]}"


def _options(record: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if isinstance(record.get("options"), Mapping):
        return {name: tuple(values) for name, values in record["options"].items()}
    return {
        name.lower(): tuple(entry["value"].strip().replace("/", " | ").lower() for entry in entries)
        for name, entries in (record["customization_options"] or {}).items()
        if entries is not None
    }


def _review(review: Mapping[str, Any]) -> Review:
    score, body = review.get("score", review.get("stars", "")), review.get("body", review.get("review", ""))
    return Review(title=str(review.get("title", "")), score=str(score), body=str(body))


def _only(folder: Path, patterns: tuple[str, ...], expected: str, is_needed: bool = True) -> Any:
    found = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"env.path: {folder} holds more than one of a kind: {names}. Keep one of them there.")
    if not found and is_needed:
        raise ConfigError(f"env.path: {folder} has no {' or '.join(patterns)}. {expected}")
    return found[0] if found else None


def _records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a catalogue's records one by one, each with its place for messages."""
    unit, records = ("line", _json_lines(file)) if file.suffix == ".gz" else ("entry", _json_array(file))
    try:
        for i, record in enumerate(records, start=1):
            if not isinstance(record, Mapping):
                _refuse(f"{file}: {unit} {i}", "is no JSON object")
            yield f"{file}: {unit} {i}", record
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        _refuse(str(file), f"can't be read ({error})")


def _json_lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                _refuse(f"{file}: line {number}", f"is not JSON ({error})")
            yield record


def _json_array(file: Path) -> Iterator[Any]:
    """Yield the entries of a JSON array without ever holding all of it: the full catalogue has gigabytes."""
    decoder, number = json.JSONDecoder(), 0
    with file.open(encoding="utf-8") as text:
        buffer = text.read(_CHUNK).lstrip()
        if not buffer.startswith("["):
            _refuse(str(file), "is no JSON array")
        at = 1
        while True:
            at = _end_of_gap(buffer, at)
            if buffer.startswith("]", at):
                return
            try:
                entry, at = decoder.raw_decode(buffer, at)
            except ValueError as error:
                more = text.read(max(_CHUNK, len(buffer)))
                if not more:
                    _refuse(f"{file}: entry {number + 1}", f"is not JSON or cut off ({error})")
                buffer, at = buffer[at:] + more, 0
                continue
            number += 1
            yield entry


def _end_of_gap(buffer: str, at: int) -> int:
    """Return where the white space and the comma between two entries end."""
    gap = _GAP.match(buffer, at)
    return gap.end() if gap else at


def _read_object(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        _refuse(str(file), f"can't be read ({error.strerror})")
    except ValueError as error:
        _refuse(str(file), f"is not JSON ({error})")
    if not isinstance(value, Mapping):
        _refuse(str(file), "is no JSON object of product ids")
    return value


def _refuse(where: str, problem: str) -> NoReturn:
    raise DataError(f"{where}: {problem}. Fetch the files again. {WHERE_FROM}")
