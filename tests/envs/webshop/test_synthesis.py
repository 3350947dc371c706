"""WebShop's synthetic tasks: new wishes for training products, visits begun in the middle, and what was bought."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sparring.core.types import StopReason, Task, Trajectory
from sparring.envs.synthesis import Draft, Synthesis, synthesis_of
from sparring.envs.webshop import WebShop
from sparring.envs.webshop.synthesis import MAX_PRODUCTS, WebShopSynthesis
from tests.envs.proposing import judge, play, refusals

SIDES = ("train", "dev", "test")


@pytest.fixture(scope="module")
def world() -> WebShop:
    return WebShop()


@pytest.fixture(scope="module")
def offered(world: WebShop) -> Synthesis:
    return synthesis_of(world)


@pytest.fixture(scope="module")
def task(world: WebShop) -> Task:
    """A training task with two options."""
    return next(task for task in world.tasks("train") if len(task.data["options"]) == 2)


def way(world: WebShop, task: Task) -> list[str]:
    return world.expert_actions([task])[task.id]


def visited(world: WebShop, task: Task, actions: Sequence[str]) -> Trajectory:
    return play(world.make_env(), task, actions)


def wish(task: Task) -> tuple[object, ...]:
    return task.data["product"], frozenset(task.data["attributes"]), tuple(task.data["options"].values())


# ── Variations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_variations_are_new_wishes_for_training_products_of_the_department(world: WebShop, offered: Synthesis):
    given = {wish(task) for side in SIDES for task in world.tasks(side)}
    training = {task.data["product"]: task.kind for task in world.tasks("train")}
    for task in world.tasks("train")[::100]:
        found = offered.variations(task)
        assert found == offered.variations(task) and len({one.id for one in found}) == len(found) == MAX_PRODUCTS
        for one in found:
            assert training[one.data["product"]] == task.kind == one.kind
            assert wish(one) not in given
            product = world.catalogue.get(one.data["product"])
            assert product is not None and product.price < one.data["price_bound"]
            said = one.data["instruction"]
            assert all(text in said for text in (*one.data["attributes"], *one.data["options"].values(), product.query))


def test_where_all_has_been_asked_there_is_no_new_wish(world: WebShop, task: Task):
    """Of a shop whose only training product was asked for in every way."""
    product = world.catalogue.get(task.data["product"])
    assert product is not None
    one = WebShopSynthesis(world.catalogue, {"train": [task]}, is_generated=True)
    assert [made.data["product"] for made in one.variations(task)] == [product.id]
    every = [task]
    for _ in range(2_000):
        made = WebShopSynthesis(world.catalogue, {"train": every}, is_generated=True).variations(task)
        if not made:
            break
        every += made
    assert 20 < len(every) < 2_000


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluation_products_are_no_material(world: WebShop, offered: Synthesis, task: Task, split: str):
    for kept in world.tasks(split)[:20]:
        actions = way(world, kept)
        assert offered.variations(kept) == []
        assert offered.restart(kept, actions[:1]) is None
        bought = visited(world, task, actions)
        assert bought.stop is StopReason.DONE
        assert offered.relabel(bought) is None  # an evaluation product, bought in a training task


# ── Restarts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_a_restart_goes_on_exactly_where_the_prefix_ends(world: WebShop, offered: Synthesis, task: Task, num: int):
    actions = way(world, task)
    begun = offered.restart(task, actions[:num])
    assert begun is not None and world.turn_limit(begun) == world.turn_limit(task)
    whole, rest = visited(world, task, actions), visited(world, begun, actions[num:])
    start = f"Done so far: {'; '.join(actions[:num])}.\n\n{whole.turns[num].observation}"
    assert rest.turns[0].observation == start
    assert [turn.observation for turn in rest.turns[1:]] == [turn.observation for turn in whole.turns[num + 1 :]]
    assert (rest.final_observation, rest.reward, rest.stop) == (whole.final_observation, 1.0, StopReason.DONE)


def test_options_chosen_before_the_start_count(world: WebShop, offered: Synthesis, task: Task):
    actions = way(world, task)
    begun = offered.restart(task, actions[:-1])
    assert begun is not None
    assert visited(world, begun, ["click[Buy Now]"]).reward == 1.0
    assert visited(world, begun, [""] * 5).reward == 0.0
    other = offered.restart(task, [*actions[:2], actions[-2]])
    assert other is not None
    assert 0.0 < visited(world, other, ["click[Buy Now]"]).reward < 1.0


def test_there_is_no_restart_on_the_first_page_after_the_purchase_or_after_chance(
    world: WebShop, offered: Synthesis, task: Task
):
    actions = way(world, task)
    for prefix in (["search[<r>]"], [], ["nothing"], [actions[0], "click[Back to Search]"], actions):
        assert offered.restart(task, prefix) is None
    once = offered.restart(task, actions[:1])
    assert once is not None
    assert offered.restart(once, actions[1:3]) == offered.restart(task, actions[:3])


def test_after_a_restart_the_env_plays_other_tasks_as_ever(world: WebShop, offered: Synthesis, task: Task):
    env, actions = world.make_env(), way(world, task)
    begun = offered.restart(task, actions[:3])
    assert begun is not None
    before = play(env, task, actions)
    env.reset(begun, 0)
    assert play(env, task, actions) == before


# ── Hindsight ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def other_purchase(world: WebShop, offered: Synthesis, task: Task) -> tuple[Trajectory, list[str]]:
    """Buy what a variation asks for, with its first option alone."""
    one = offered.variations(task)[0]
    actions = way(world, one)
    actions = [*actions[:2], *actions[2:3], "click[Buy Now]"]
    return visited(world, task, actions), actions


def test_what_was_bought_is_what_is_asked_for(world: WebShop, offered: Synthesis, task: Task):
    episode, actions = other_purchase(world, offered, task)
    assert episode.reward < 1.0
    made = offered.relabel(episode)
    assert made is not None
    assert made.data["product"] in actions[1] and len(made.data["options"]) == 1
    assert visited(world, made, actions).reward == 1.0
    assert visited(world, made, [*actions[:2], actions[-1]]).reward < 1.0
    worded = offered.relabel(episode, "A present for my aunt:")
    assert worded is not None
    assert worded.data["instruction"] == f"A present for my aunt: {made.data['instruction']}"
    assert {**worded.data, "instruction": ""} == {**made.data, "instruction": ""}


def test_whoever_bought_nothing_or_what_was_asked_makes_no_task(world: WebShop, offered: Synthesis, task: Task):
    actions = way(world, task)
    assert offered.relabel(visited(world, task, actions[:-1])) is None
    original = offered.relabel(visited(world, task, actions))
    given = {wish(one) for side in SIDES for one in world.tasks(side)}
    assert original is None or wish(original) not in given


def test_a_goal_in_hindsight_begins_where_the_visit_began(world: WebShop, offered: Synthesis, task: Task):
    actions = way(world, task)
    begun = offered.restart(task, actions[:2])
    assert begun is not None
    made = offered.relabel(visited(world, begun, ["click[Buy Now]"]))
    assert made is not None
    assert made.data["prefix"] == actions[:2]
    assert visited(world, made, ["click[Buy Now]"]).reward == 1.0


# ── The rest of what is offered ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_made_passes_the_real_validation(world: WebShop, offered: Synthesis):
    drafts: list[Draft] = []
    tasks = world.tasks("train")[::80]
    for number, task in enumerate(tasks):
        actions = way(world, task)
        for one in offered.variations(task)[:1]:
            drafts.append(Draft(task=one, actions=tuple(way(world, one))))
        if begun := offered.restart(task, actions[: 1 + number % 2]):
            drafts.append(Draft(task=begun, actions=tuple(actions[1 + number % 2 :])))
        episode, bought = other_purchase(world, offered, task)
        if made := offered.relabel(episode):
            drafts.append(Draft(task=made, actions=tuple(bought)))
    vocabulary = [action for task in tasks for action in way(world, task)]
    verdicts = judge(drafts, world, "webshop", {}, vocabulary)
    assert refusals(verdicts) == []
    assert len(verdicts) > 60


def test_a_footprint_tells_the_sides_apart(world: WebShop, offered: Synthesis):
    sides = [{pair for task in world.tasks(side) for pair in offered.footprint(task).items()} for side in SIDES]
    assert not sides[0] & (sides[1] | sides[2])
    assert {aspect for aspect, _ in sides[0]} == {"text", "answer"}


def test_patterns_are_kinds_of_action(offered: Synthesis, task: Task):
    patterns = {
        "search[mesh chair]": "search",
        f"click[{task.data['product']}]": "product",
        "click[green]": "option",
        "click[buy now]": "Buy Now",
        "click[Next >]": "Next >",
        "think[a]": "",
        "Buy": "",
        "": "",
    }
    assert {action: offered.pattern(action) for action in patterns} == patterns


def test_only_a_purchase_changes_anything(world: WebShop, offered: Synthesis, task: Task):
    actions = way(world, task)
    assert not offered.has_changed(visited(world, task, actions[:-1]))
    assert offered.has_changed(visited(world, task, actions))


def test_it_offers_no_chains_and_restarts_have_no_expert(world: WebShop, offered: Synthesis, task: Task):
    draft = Draft(task=task, actions=tuple(way(world, task)))
    assert offered.chain(draft, draft) is None
    begun = offered.restart(task, draft.actions[:1])
    assert begun is not None and world.expert_actions([begun]) == {}


@pytest.mark.data
def test_the_official_catalogue_makes_tasks_too(data_dir: Path):
    folder = data_dir / "webshop"
    if not folder.is_dir():
        pytest.skip(f"needs the official products; {folder} is not there")
    world = WebShop(path=str(folder))
    offered = synthesis_of(world)
    held_out = {task.data["product"] for side in ("dev", "test") for task in world.tasks(side)}
    for task in world.tasks("train")[::500]:
        found = offered.variations(task)
        assert found and not {one.data["product"] for one in found} & held_out
