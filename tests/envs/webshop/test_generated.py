"""The invented catalogue: the same everywhere, demanding, and fair; its experts and its walks."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from sparring.core.types import Task
from sparring.envs.webshop import WebShop
from sparring.envs.webshop.generated import generate_products, generated_catalogue, vocabulary
from sparring.envs.webshop.goals import to_goal
from sparring.envs.webshop.pages import item_page, results_page
from sparring.envs.webshop.reward import count_options, is_similar, purchase_reward
from sparring.envs.webshop.store import to_record
from sparring.envs.webshop.walks import walks
from tests.envs.webshop.shoppers import first_hit, play

TASKS_OF = "from sparring.envs.webshop import WebShop; w = WebShop(); import json, hashlib; "
DIGEST = "print(hashlib.sha256(json.dumps([[t.id, dict(t.data)] for t in w.tasks('train')]).encode()).hexdigest())"


@pytest.fixture(scope="module")
def world() -> WebShop:
    return WebShop()


def test_it_is_the_same_in_every_process(world: WebShop):
    command = [sys.executable, "-c", TASKS_OF + DIGEST]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    ours = json.dumps([[task.id, dict(task.data)] for task in world.tasks("train")])
    assert hashlib.sha256(ours.encode()).hexdigest() == other
    assert [to_record(product) for product in generate_products()] == [to_record(p) for p in generate_products()]


def test_it_starts_fast():
    start = time.process_time()
    WebShop()
    assert time.process_time() - start < 2.0


def test_there_are_enough_tasks_and_no_product_is_on_two_sides(world: WebShop):
    products = {split: {task.data["product"] for task in world.tasks(split)} for split in ("train", "dev", "test")}
    assert {split: len(world.tasks(split)) for split in products} == {"train": 2076, "dev": 294, "test": 630}
    assert sum(len(ids) for ids in products.values()) == len(set().union(*products.values())) == 1_000
    assert {task.kind for task in world.tasks("test")} == {entry.kind for entry in vocabulary()[1]}
    texts = [task.data["instruction"] for split in products for task in world.tasks(split)]
    assert len(set(texts)) > 0.99 * len(texts)


def test_no_attribute_or_option_value_passes_for_another_of_its_type():
    for entry in vocabulary()[1]:
        for one, other in itertools.permutations(entry.attributes, 2):
            assert not is_similar(one, other) and one not in other, (entry.noun, one, other)
        for name, values in entry.options.items():
            assert all(count_options([value], {name: value}) for value in values), (entry.noun, values)
            for one, other in itertools.permutations(values, 2):
                assert not count_options([one], {name: other}), (entry.noun, one, other)


def test_no_text_of_a_product_has_an_attribute_that_is_not_its_own(world: WebShop):
    pools = {entry.noun: entry.attributes for entry in vocabulary()[1]}
    for product in world.catalogue.products:
        text = " ".join([product.title, product.description, *product.features]).lower()
        assert {one for one in pools[product.query] if one in text} == set(product.attributes)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_task_has_an_expert_who_earns_it_all(world: WebShop, every: int):
    for split in ("train", "dev", "test"):
        tasks = world.tasks(split)[::every]
        experts = world.expert_actions(tasks)
        assert set(experts) == {task.id for task in tasks}
        assert {play(world, task, experts[task.id]) for task in tasks} == {1.0}
        assert max(len(actions) for actions in experts.values()) <= 10


def test_each_choice_counts(world: WebShop):
    """The goal's product earns 1 with its options, less with any other value, and less for any other bound."""
    for task in world.tasks("dev"):
        goal = to_goal(task)
        product = world.catalogue.get(goal.product_id)
        assert product is not None
        right = dict(task.data["options"])
        assert purchase_reward(product, right.values(), goal, product).total == 1.0
        for name, values in product.options.items():
            for value in set(values) - {right[name]}:
                assert purchase_reward(product, (right | {name: value}).values(), goal, product).total < 1.0


def test_the_first_hit_is_often_not_good_enough(world: WebShop):
    """Whoever buys the first hit, with the options that the instruction names, fails in two of five visits or more."""
    tasks = world.tasks("test")[:300]
    rewards = [play(world, task, first_hit(world, task)) for task in tasks]
    success = sum(reward == 1.0 for reward in rewards) / len(rewards)
    assert 0.4 < success < 0.65
    assert sum(rewards) / len(rewards) < 0.93


def test_pages_are_short(world: WebShop):
    """Ten results and an item page stay below 350 tokens of ordinary text: 1,150 characters, 40 of them separators."""
    for task in world.tasks("test")[:200]:
        text = task.data["instruction"]
        assert len(results_page(text, world.catalogue.search(text), 1).text) < 1_150
        product = world.catalogue.get(task.data["product"])
        assert product is not None and len(item_page(text, product, False).text) < 600


def test_any_number_of_envs_share_the_catalogue(world: WebShop):
    envs = [world.make_env() for _ in range(300)]
    tasks = world.tasks("train")[:300]
    for env, task in zip(envs, tasks, strict=True):
        env.reset(task, 0)
    experts = world.expert_actions(tasks)
    rewards = []
    for turn in range(10):
        for env, task in zip(envs, tasks, strict=True):
            if turn < len(experts[task.id]):
                answer = env.step(experts[task.id][turn])
                rewards += [answer.reward] if answer.is_done else []
    assert rewards == [1.0] * 300


def test_ten_times_the_catalogue_is_made_the_same_way():
    catalogue = generated_catalogue(10_000)
    assert len(catalogue) == 10_000
    assert len({product.id for product in catalogue.products}) == 10_000


# ── Walks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def some_walks(world: WebShop) -> list[tuple[Task, list[str]]]:
    return list(itertools.islice(walks(world, seed=0), 600))


def test_walks_are_over_training_tasks_and_repeat_themselves(world: WebShop, some_walks: list[tuple[Task, list[str]]]):
    assert some_walks == list(itertools.islice(walks(world, seed=0), 600))
    assert some_walks != list(itertools.islice(walks(world, seed=1), 600))
    train = {task.id for task in world.tasks("train")}
    assert {task.id for task, _ in some_walks} <= train


@pytest.mark.slow
def test_each_training_task_has_as_many_walks_as_asked_for(world: WebShop):
    found = Counter(task.id for task, _ in walks(world, seed=0, num_per_task=2))
    assert found == dict.fromkeys((task.id for task in world.tasks("train")), 2)


def test_walks_do_all_that_can_be_done_and_never_what_cannot(world: WebShop, some_walks: list[tuple[Task, list[str]]]):
    env, rewards, seen = world.make_env(), [], Counter()
    for task, actions in some_walks:
        env.reset(task, 0)
        assert 1 <= len(actions) <= world.turn_limit(task)
        for action in actions:
            text = action.removeprefix("click[").removesuffix("]")
            assert action.startswith("search[") or text in env.page.clickable()
            seen[text if text in env.page.buttons else action.partition("[")[0]] += 1
            answer = env.step(action)
        rewards.append(answer.reward)
    assert {"search", "click", "Next >", "< Prev", "Back to Search", "Buy Now", "Description", "Reviews"} <= set(seen)
    share = sum(reward == 1.0 for reward in rewards) / len(rewards)
    assert 0.3 < share < 0.6 and min(rewards) == 0.0, "right and wrong purchases, and visits without any"
