"""The benchmark's own files: how they are read, what is said of bad ones, goals and splits, and reference shoppers."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.envs.webshop import WebShop, benchmark, official
from sparring.envs.webshop.goals import NO_BOUND, expand, make_goal
from sparring.envs.webshop.official import Source
from sparring.envs.webshop.products import Product, Wish
from sparring.envs.webshop.search import build_index
from sparring.envs.webshop.walks import walks
from tests.envs.webshop.shoppers import first_hit, play, random_clicks

RECORD: dict[str, Any] = {
    "asin": "B01",
    "name": "Oak Chair",
    "full_description": "A chair.",
    "small_description": ["sits well", "stands"],
    "pricing": "$1,020.50",
    "category": "garden",
    "query": " Chairs ",
    "product_category": "Home › Chairs",
    "customization_options": {
        "Color": [{"value": " Dark Oak/Tan "}, {"value": "Red"}],
        "Size": None,
        "Style": [{"value": "Low"}, {"value": "High"}],
    },
}
"""An invented record in the benchmark's form."""

ATTRIBUTES = {
    "B01": {
        "attributes": ["solid wood"],
        "instruction": "Find me solid wood chairs",
        "instruction_attributes": ["solid wood"],
    }
}
HUMAN = {
    "B01": [
        {"instruction": "a red chair.", "instruction_attributes": ["solid wood"], "instruction_options": ["red"]},
        {"instruction": "anything", "instruction_attributes": [], "instruction_options": []},
    ]
}


def write(folder: Path, records: Any, attributes: Any = ATTRIBUTES, human: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "items_shuffle_1000.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(attributes), encoding="utf-8")
    if human is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(human), encoding="utf-8")
    return folder


def many(num: int) -> list[dict[str, Any]]:
    return [{**RECORD, "asin": f"B{i:03}", "name": f"Oak Chair {i}"} for i in range(num)]


def many_attributes(num: int) -> dict[str, Any]:
    return {f"B{i:03}": ATTRIBUTES["B01"] for i in range(num)}


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_is_read_as_the_benchmark_reads_it(tmp_path: Path):
    skipped = [{**RECORD, "asin": "nan"}, {**RECORD, "asin": "B" * 11}, {**RECORD, "name": "again"}]
    products = list(Source(write(tmp_path, [RECORD, *skipped], human=HUMAN)).read())
    assert products == [
        Product(
            id="B01",
            title="Oak Chair",
            description="A chair.",
            features=("sits well", "stands"),
            price=1020.5,
            price_text="$1020.5",
            kind="garden",
            query="chairs",
            path="Home › Chairs",
            attributes=("solid wood",),
            options={"color": ("dark oak | tan", "red"), "style": ("low", "high")},
            wishes=(
                Wish(text="a red chair.", attributes=("solid wood",), options=("red",)),
                Wish(text="Find me solid wood chairs", attributes=("solid wood",), options=None),
            ),
        )
    ]
    assert products[0].search_text() == "oak chair a chair. sits well color: dark oak | tan, red, and style: low, high"


@pytest.mark.parametrize(
    ("pricing", "low", "high", "text"),
    [("", 100, 100, "$100.0"), (None, 100, 100, "$100.0"), ("$3.5$7$9", 3.5, 7, "$3.5 to $7.0"), ([2.0], 2, 2, "$2.0")],
)
def test_prices(tmp_path: Path, pricing: Any, low: float, high: float, text: str):
    (product,) = Source(write(tmp_path, [{**RECORD, "pricing": pricing}])).read()
    (again,) = Source(tmp_path).read()
    assert low <= product.price <= high and product.price_text == text and product == again


def test_an_export_is_read_too(tmp_path: Path):
    loaded = {
        **RECORD,
        "pricing": [5.0],
        "options": {"color": ["red"]},
        "Attributes": ["oak"],
        "instructions": HUMAN["B01"],
    }
    with gzip.open(tmp_path / "products.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(loaded) + "\n")
    (product,) = Source(tmp_path).read()
    assert (product.attributes, product.options, len(product.wishes)) == (("oak",), {"color": ("red",)}, 1)


def test_a_long_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, many(50), many_attributes(50))
    whole = list(Source(tmp_path).read())
    monkeypatch.setattr(official, "_CHUNK", 7)
    assert list(Source(tmp_path).read()) == whole and len(whole) == 50
    assert list(Source(tmp_path).read(num_products=3)) == whole[:3]


def test_a_large_catalogue_is_kept_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = write(tmp_path / "data", many(60), many_attributes(60))
    small = WebShop(path=str(folder))
    monkeypatch.setattr(benchmark, "KEPT_IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for is_first in (True, False):
        large = WebShop(path=str(folder))
        assert ("some minutes, once" in capsys.readouterr().err) == is_first
        assert large.tasks("train") == small.tasks("train")
        assert large.expert_actions(large.tasks("test")) == small.expert_actions(small.tasks("test"))


# ── Bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def broken_gzip(folder: Path) -> None:
    (folder / "products.jsonl.gz").write_bytes(gzip.compress(json.dumps(RECORD).encode() * 100)[:60])


def lines(*texts: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "products.jsonl.gz").write_bytes(gzip.compress("\n".join(texts).encode()))

    return make


def array(text: str, attributes: str = "{}", human: str | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "items_shuffle.json").write_text(text)
        (folder / "items_ins_v2.json").write_text(attributes)
        if human is not None:
            (folder / "items_human_ins.json").write_text(human)

    return make


GOOD = json.dumps(RECORD)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: folder.rmdir(), ConfigError, "is no folder"),
        (lambda folder: None, ConfigError, r"has no items_shuffle\*\.json or products\*\.jsonl\.gz"),
        (lambda folder: array("[]")(folder) or lines(GOOD)(folder), ConfigError, "more than one"),
        (lambda folder: (folder / "items_shuffle.json").write_text("[]"), ConfigError, r"has no items_ins_v2\*\.json"),
        (array("[]"), DataError, "holds no product"),
        (array("{}"), DataError, "no JSON array"),
        (array(f"[{GOOD}, 3]"), DataError, "items_shuffle.json: entry 2: is no JSON object"),
        (array(f"[{GOOD}, {GOOD[:40]}"), DataError, "entry 2: is not JSON or cut off"),
        (array(f"[{GOOD}"), DataError, "entry 2: is not JSON or cut off"),
        (array('[{"asin": "B01"}]'), DataError, "entry 1: has no 'name'"),
        (array(f"[{GOOD}]".replace("$1,020.50", "$1.2.3")), DataError, "entry 1: is malformed"),
        (array(f"[{GOOD}]", attributes="[]"), DataError, "items_ins_v2.json: is no JSON object"),
        (array(f"[{GOOD}]", attributes="{"), DataError, "items_ins_v2.json: is not JSON"),
        (array(f"[{GOOD}]", human='{"B01": [{}]}'), DataError, "entry 1: has no 'instruction"),
        (lines(GOOD, "{"), DataError, "products.jsonl.gz: line 2: is not JSON"),
        (broken_gzip, DataError, "can't be read"),
        (lambda folder: (folder / "products.jsonl.gz").write_text("plain"), DataError, "can't be read"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path: Path, make: Callable[[Path], Any], error: type, message: str):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(error, match=message) as raised:
        WebShop(path=str(folder))
    assert "princeton-nlp/WebShop" in str(raised.value) or "Keep one" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goals": "human"}, "give path"),
        ({"split": "official"}, "give path"),
        ({"goals": "both", "path": "."}, "goals = 'both' is unknown"),
        ({"split": "mine", "path": "."}, "split = 'mine' is unknown"),
        ({"num_products": 0, "path": "."}, "num_products"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        WebShop(**options)


# ── Goals and splits ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_goals_are_worded_and_ordered_as_the_benchmarks(tmp_path: Path):
    (product,) = Source(write(tmp_path, [{**RECORD, "pricing": "$12"}], human=HUMAN)).read()
    human, synthetic = product.wishes
    goals = dict(expand(product, "B01", synthetic))
    assert list(goals) == [f"garden/B01-{i}" for i in range(4)]
    first = goals["garden/B01-0"]
    assert first.options == {"color": "dark oak | tan", "style": "low"}
    assert first.text == (
        "Find me solid wood chairs with color: dark oak | tan, and style: low, "
        f"and price lower than {first.price_bound:.2f} dollars"
    )
    ((key, goal),) = expand(product, "B01-h0", human)
    assert (key, goal.options) == ("garden/B01-h0", ("red",))
    assert goal.text == f"a red chair, and price lower than {goal.price_bound:.2f} dollars"


def test_a_price_bound_is_the_larger_of_two_among_the_next_four():
    def bounds(price: float) -> set[float]:
        product = Product(
            id="B", title="", description="", features=(), price=price, price_text="", kind="", query="", path=""
        )
        return {make_goal(product, str(i), "", ["a"], ()).price_bound for i in range(200)}

    assert bounds(12.0) == {30.0, 40.0, 50.0}
    assert bounds(20.0) == {40.0, 50.0, 60.0}
    assert bounds(975.0) == {990.0}
    assert bounds(985.0) == bounds(2_000.0) == {NO_BOUND}


def test_the_official_split_shuffles_and_cuts_as_the_benchmark_does(tmp_path: Path):
    """Each product has four goals; the benchmark seeds Python's generator with 233 and shuffles the list in place."""
    world = WebShop(path=str(write(tmp_path, many(400), many_attributes(400))), split="official")
    expected = [f"garden/B{i:03}-{j}" for i in range(400) for j in range(4)]
    random.seed(233)
    random.shuffle(expected)
    assert [task.id for task in world.tasks("test")] == expected[:500]
    assert [task.id for task in world.tasks("dev")] == expected[500:1500]
    assert [task.id for task in world.tasks("train")] == expected[1500:]


def test_goals_can_be_picked_by_number(tmp_path: Path):
    folder = write(tmp_path / "data", many(30), many_attributes(30))
    numbers = tmp_path / "numbers.json"
    numbers.write_text("[5, 0, 5]")
    world = WebShop(path=str(folder), indices={"train": str(numbers)})
    assert len(world.tasks("train")) == 2
    with pytest.raises(ConfigError, match="train"):
        world.tasks("test")
    for text, message in (("[120]", "goal 120 does not exist"), ("{}", "list of goal numbers"), ("[", "is not JSON")):
        numbers.write_text(text)
        with pytest.raises(DataError, match=message):
            WebShop(path=str(folder), indices={"train": str(numbers)})


def test_too_few_goals_for_a_split_say_so(tmp_path: Path):
    folder = write(tmp_path, many(3), many_attributes(3), human={"B001": HUMAN["B01"]})
    with pytest.raises(ConfigError, match="1 human goals"):
        WebShop(path=str(folder), goals="human", split="official")
    (folder / "items_human_ins.json").write_text("{}")
    with pytest.raises(ConfigError, match="0 human goals"):
        WebShop(path=str(folder), goals="human")


def test_no_walks_through_official_products(tmp_path: Path):
    with pytest.raises(ValueError, match="invented"):
        next(walks(WebShop(path=str(write(tmp_path, many(60), many_attributes(60)))), seed=0))


# ── The official products ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def products_dir(data_dir: Path) -> Path:
    folder = data_dir / "webshop"
    if not list(folder.glob("products*.jsonl.gz")) or not list(folder.glob("items_ins_v2*.json")):
        pytest.skip(f"needs WebShop's products in {folder} (`sparring envs` says where they come from)")
    return folder


@pytest.mark.data
def test_reference_shoppers_on_the_official_products(products_dir: Path):
    """On the 500 test goals, reward and success: product and options known .994 / .960; the
    first hit with options matched by text .739 / .552; clicks at random .065 / .004."""
    world = WebShop(path=str(products_dir), split="official")
    tasks = world.tasks("test")
    assert (len(tasks), sum(len(world.tasks(split)) for split in ("train", "dev", "test"))) == (500, 6_910)
    experts, rng = world.expert_actions(tasks), random.Random(0)
    assert set(experts) == {task.id for task in tasks}
    rewards = {
        "known": [play(world, task, experts[task.id]) for task in tasks],
        "first hit": [play(world, task, first_hit(world, task)) for task in tasks],
        "random": [random_clicks(world, task, rng) for task in tasks],
    }
    means = {name: sum(values) / 500 for name, values in rewards.items()}
    successes = {name: sum(value == 1.0 for value in values) / 500 for name, values in rewards.items()}
    assert means == pytest.approx({"known": 0.994, "first hit": 0.739, "random": 0.065}, abs=0.001)
    assert successes == pytest.approx({"known": 0.960, "first hit": 0.552, "random": 0.004}, abs=0.001)


@pytest.mark.data
def test_official_searches_find_what_the_benchmarks_own_do(products_dir: Path):
    """Number of hits of Anserini 0.14.3 on the same 1,000 documents. ™ stands alone as a word, and 5 products more than
    those with shoes have it."""
    index = build_index(product.search_text() for product in Source(products_dir).read(None))
    assert [len(index.search(words, 1_000)) for words in ("™ shoes", "shoes", "red shoes", "®")] == [44, 39, 132, 4]


@pytest.mark.data
def test_a_thousand_products_start_in_two_seconds(products_dir: Path):
    start = time.process_time()
    world = WebShop(path=str(products_dir))
    assert time.process_time() - start < 2.0
    sides = [{task.data["product"] for task in world.tasks(split)} for split in ("train", "dev", "test")]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 415


@pytest.mark.data
def test_peoples_instructions_are_tied_to_products(products_dir: Path):
    world = WebShop(path=str(products_dir), goals="human")
    tasks = world.tasks("train")
    assert 5 <= len(tasks) <= 13 and all("-h" in task.id for task in tasks)
    experts = world.expert_actions(tasks)
    assert sum(play(world, task, experts[task.id]) for task in tasks) / len(tasks) > 0.9
