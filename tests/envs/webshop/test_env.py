"""A visit: every page to the letter, every button, and what is no action."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.webshop.env import WebShopEnv, parse_action
from sparring.envs.webshop.goals import to_task
from sparring.envs.webshop.products import Catalogue, Product, Review, build_catalogue
from sparring.envs.webshop.reward import Goal

HEAD = "Instruction: [SEP] buy a red mug [SEP] Back to Search [SEP] "


def mug(number: int, **changes) -> Product:
    fields = {
        "id": f"M{number:02}", "title": f"Mug {number}", "description": "", "features": ("holds tea",),
        "price": 5.0 + number, "price_text": f"${5 + number}", "kind": "kitchen", "query": "mugs",
        "path": "Home › Kitchen › Mugs", "attributes": ("hand made",),
    }  # fmt: skip
    return Product(**(fields | changes))


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    first = mug(
        1,
        title="Mug 1",
        description="A mug\nfor tea.",
        features=("holds tea", " warm "),
        options={"color": ("red", "blue"), "size": ("small", "Features", "red")},
        reviews=(Review(title="fine", score="4", body="no leaks"),),
        rating="4.1",
    )
    return build_catalogue([mug(i) for i in range(12, 1, -1)] + [first])


@pytest.fixture
def task() -> Task:
    goal = Goal(
        product_id="M01", text="buy a red mug", attributes=("hand made",), options={"color": "red"}, price_bound=10.0
    )
    return to_task("kitchen/M01-0", "kitchen", goal)


@pytest.fixture
def env(catalogue: Catalogue, task: Task) -> WebShopEnv:
    env = WebShopEnv(catalogue)
    env.reset(task, 0)
    return env


def see(env: WebShopEnv, *actions: str) -> str:
    """Play actions and return the last page."""
    return [env.step(action).observation for action in actions][-1]


def test_the_search_page(env: WebShopEnv, task: Task):
    assert env.reset(task, 3) == "WebShop [SEP] Instruction: [SEP] buy a red mug [SEP] Search"
    assert env.page.clickable() == []


def test_a_results_page_shows_ten_products_and_the_next_the_rest(env: WebShopEnv):
    rows = [f"M{i:02} [SEP] Mug {i} [SEP] ${5 + i}" for i in range(1, 11)]  # M01 says mug twice; equal scores go by id
    assert see(env, "search[mug]") == HEAD + "Page 1 (Total results: 12) [SEP] Next > [SEP] " + " [SEP] ".join(rows)
    assert see(env, "click[Next >]") == HEAD + (
        "Page 2 (Total results: 12) [SEP] < Prev [SEP] Next > [SEP] M11 [SEP] Mug 11 [SEP] $16 [SEP] "
        "M12 [SEP] Mug 12 [SEP] $17"
    )
    assert see(env, "click[next >]").endswith("Page 3 (Total results: 12) [SEP] < Prev [SEP] Next >")
    assert see(env, "click[< Prev]", "click[< prev]").startswith(HEAD + "Page 1 (Total results: 12)")


def test_a_search_without_hits(env: WebShopEnv):
    assert see(env, "search[zebra]") == HEAD + "Page 1 (Total results: 0) [SEP] Next >"


def test_an_item_page_and_its_sub_pages(env: WebShopEnv):
    item = HEAD + (
        "< Prev [SEP] color [SEP] red [SEP] blue [SEP] size [SEP] small [SEP] Features [SEP] red [SEP] Mug 1 [SEP] "
        "Price: $6 [SEP] Rating: 4.1 [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert see(env, "search[mug warm tea small]", "click[m01]") == item
    assert see(env, "click[Description]") == HEAD + "< Prev [SEP] A mug\nfor tea."
    assert see(env, "click[< Prev]") == item
    assert see(env, "click[features]") == HEAD + "< Prev [SEP] holds tea [SEP] warm"
    assert see(env, "click[Buy Now]") == HEAD + "< Prev [SEP] holds tea [SEP] warm", "no such button here"
    assert see(env, "click[< Prev]", "click[Reviews]") == HEAD + '< Prev [SEP] "fine" [SEP] 4 [SEP] no leaks'
    assert see(env, "click[< Prev]", "click[Attributes]") == item
    assert see(env, "click[< Prev]").startswith(HEAD + "Page 1")


def test_an_empty_feature_is_an_empty_part_as_in_the_benchmark(task: Task):
    env = WebShopEnv(build_catalogue([mug(1, features=("",), description="")]))
    env.reset(task, 0)
    assert see(env, "search[mug]", "click[M01]", "click[Features]") == HEAD + "< Prev [SEP] "
    assert see(env, "click[< Prev]", "click[Description]") == HEAD + "< Prev"


def test_the_attributes_page_is_there_when_asked_for(catalogue: Catalogue, task: Task):
    env = WebShopEnv(catalogue, shows_attributes=True)
    env.reset(task, 0)
    assert see(env, "search[small mug]", "click[M01]").endswith("Reviews [SEP] Attributes [SEP] Buy Now")
    assert see(env, "click[Attributes]") == HEAD + (
        "< Prev [SEP] hand made [SEP] kitchen [SEP] mugs [SEP] Home › Kitchen › Mugs"
    )


def test_buying_ends_the_visit_and_is_graded_with_the_options_chosen(env: WebShopEnv):
    see(env, "search[small mug]", "click[M01]", "click[blue]", "click[RED]")
    end = env.step("click[Buy Now]")
    assert (end.reward, end.is_done) == (1.0, True)
    assert end.observation == "Thank you for shopping with us! [SEP] Your score (min 0.0, max 1.0) [SEP] 1.0"
    assert env.step("search[mug]") == end, "nothing happens any more"


@pytest.mark.parametrize(
    ("between", "reward"),
    [
        ((), 1.0),
        (("click[Features]", "click[< Prev]"), 1.0),  # sub-pages keep the options
        (("click[blue]",), 1.0),  # `red` is taken for the later option that has it, as in the benchmark
        (("click[< Prev]", "click[M01]"), 2 / 3),  # results forget them
        (("click[Back to Search]", "search[small mug]", "click[M01]"), 2 / 3),
        (("search[small mug]", "click[M01]"), 2 / 3),  # searching works from everywhere
    ],
)
def test_how_long_options_are_kept(env: WebShopEnv, between: tuple[str, ...], reward: float):
    see(env, "search[small mug]", "click[M01]", "click[red]", *between)
    assert env.step("click[Buy Now]").reward == pytest.approx(reward)


def test_the_reward_is_that_of_what_was_bought(env: WebShopEnv):
    see(env, "search[mug]", "click[M02]")
    assert env.step("click[Buy Now]").reward == pytest.approx(2 / 3)  # attribute and price, no option
    assert env.purchase is not None and env.purchase.options_matched == 0


@pytest.mark.parametrize(
    "action",
    ["", "search", "search[]", "find[mug]", "Search[mug]", "click[M02]", "click[search]", "search[a\nb]", "[x]"],
)
def test_what_is_no_action_shows_the_page_again(env: WebShopEnv, action: str):
    before = env.page.text
    answer = env.step(action)
    assert (answer.observation, answer.reward, answer.is_done) == (before, 0.0, False)


def test_actions_are_read_as_the_benchmark_reads_them():
    assert parse_action("search[Red Mug]") == ("search", "red mug")
    assert parse_action("  click[Buy Now] and so on") == ("click", "buy now")
    assert parse_action("I will search[mug]") == ("I will search", "mug")
    assert parse_action("click[a] click[b]") == ("click[a] click", "b")
    assert parse_action("click[[x]]") == ("click[", "x]")
    start = time.process_time()
    assert parse_action("[" * 100_000) == ("", "")
    assert time.process_time() - start < 0.5


def test_a_task_of_another_catalogue_is_refused(env: WebShopEnv, task: Task):
    other = Task(id="x", kind="x", data={**task.data, "product": "B000"})
    with pytest.raises(ConfigError, match="B000"):
        env.reset(other, 0)
    assert env.step("search[mug]").observation


@pytest.fixture(scope="module")
def shelves() -> Catalogue:
    """Sixty mugs in descending order, every tenth hand made, every twentieth of another department and query."""
    return build_catalogue(
        mug(
            i,
            attributes=("hand made", "blue") if i % 10 == 0 else (),
            kind="garden" if i % 20 == 0 else "kitchen",
            query="tea for two" if i % 20 == 0 else "mugs",
        )
        for i in range(60, 0, -1)
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("<a> Hand Made", ["M60", "M50", "M40", "M30", "M20", "M10"]),
        ("<A> blue ", ["M60", "M50", "M40", "M30", "M20", "M10"]),
        ("<a> hand", []),
        ("<c> garden", ["M60", "M40", "M20"]),
        ("<c> garden hose", ["M60", "M40", "M20"]),  # one word counts
        ("<c>", []),
        ("<q> tea for two", ["M60", "M40", "M20"]),
        ("<q> tea", []),
    ],
)
def test_special_searches_list_products_in_the_sources_order(
    shelves: Catalogue, task: Task, words: str, expected: list[str]
):
    env = WebShopEnv(shelves)
    env.reset(_for(task, "M10"), 0)
    env.step(f"search[{words}]")
    assert list(env.page.products) == expected
    assert f"(Total results: {len(expected)})" in env.page.text


def test_a_shelf_is_listed_whole_and_other_marks_are_words(shelves: Catalogue, task: Task):
    env = WebShopEnv(shelves)
    env.reset(_for(task, "M10"), 0)
    assert "Page 1 (Total results: 57)" in see(env, "search[<c> kitchen]")
    assert "M05 [SEP]" in see(env, *["click[Next >]"] * 5) and env.page.products[-1] == "M01"
    assert "Page 1 (Total results: 50)" in see(env, "search[<x> mug]")


def test_a_search_by_chance_draws_fifty_for_each_page_from_the_seed(shelves: Catalogue, task: Task):
    def pages(seed: int) -> list[tuple[str, ...]]:
        env = WebShopEnv(shelves)
        env.reset(_for(task, "M10"), seed)
        shown = []
        for action in ("search[<r>]", "click[Next >]", "click[< Prev]", "search[<r> mug]"):
            assert "(Total results: 50)" in see(env, action)
            shown.append(env.page.products)
        return shown

    assert pages(1) == pages(1) != pages(2)
    assert all(len(set(page)) == 10 for page in pages(1)) and pages(1)[0] != pages(1)[2] != pages(1)[3]


def test_fewer_than_fifty_products_are_all_found_by_chance(env: WebShopEnv):
    assert "(Total results: 12)" in see(env, "search[<r>]")


def _for(task: Task, product: str) -> Task:
    return replace(task, data={**task.data, "product": product})
