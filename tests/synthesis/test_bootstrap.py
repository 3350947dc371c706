"""D_0 from unguided exploration, on live toy worlds: by the world's own explorer, and by a served model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.policies.base import Episode
from sparring.policies.completions import CompletionClient, OpenAIConfig
from sparring.policies.scripted import ScriptedPolicy
from sparring.synthesis.arena import Arena, empty_policy
from sparring.synthesis.asking import LanguageModelConfig
from sparring.synthesis.bootstrap import Bootstrap, BootstrapConfig, Explorer, Wanderer, accepted, merge, places_of
from sparring.synthesis.checks import Reason, ValidationConfig
from sparring.synthesis.curriculum import SynthesisResult
from sparring.synthesis.language_model import LanguageModelSynthesiser
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.proposals import Findings, content_key
from sparring.synthesis.signals import Flag, Signal
from sparring.synthesis.validation import Ground
from tests.serving import PolicyServer
from tests.synthesis.growing_world import NO_GOAL, GrowingWorld
from tests.synthesis.scenes import live_arena, played
from tests.toy_world import COLOURS, ToyWorld

WORLD = GrowingWorld()
TRAIN = WORLD.tasks("train")
CONFIG = BootstrapConfig(num=5, num_places=4)


def explore(
    config: BootstrapConfig = CONFIG,
    *,
    explorer: Explorer | None = None,
    tasks: Sequence[Task] = TRAIN,
    evaluation: Sequence[Task] = (),
    done: Sequence[SynthesisResult] = (),
    seed: int = 3,
) -> list[SynthesisResult]:
    """Return all waves, those that were done before included."""
    work = Bootstrap(
        places=places_of(tasks, WORLD, config.starts),
        explorer=explorer or Wanderer(WORLD),
        ground=Ground(
            world=WORLD.synthesis,
            gate=EvaluationGate(WORLD.synthesis, evaluation),
            turn_limit=WORLD.turn_limit,
            agent=empty_policy(),
        ),
        config=config,
        validation=config.validation(ValidationConfig()),
        seed=seed,
    )
    with live_arena() as arena:
        play = arena._play
        return [*done, *work.waves(lambda number: Arena(play, prefix="d", seed=0, wave=number), done)]


def test_places_ask_for_nothing_and_none_is_there_twice():
    places = places_of(TRAIN, WORLD, "training")
    assert {tuple(place.data["goal"]) for place in places} == {tuple(NO_GOAL)}
    assert len(places) == len({content_key(place) for place in places}) == 2  # one a kind: nothing else differs
    assert not {place.id for place in places} & {task.id for task in TRAIN}


def test_exploration_makes_validated_tasks_of_what_happened():
    waves = explore()
    made = accepted(waves)
    assert len(made) >= CONFIG.num > len(accepted(waves[:-1]))  # no wave more than it takes
    assert len({content_key(one.proposal.task) for one in made}) == len(made)
    for one in made:
        assert one.reference == tuple(f"press {colour}" for colour in one.proposal.task.data["goal"])
        origin = one.proposal.origin
        assert (origin.strategy, origin.signal, origin.step) == ("explore", Signal.UNGUIDED, 0)
        assert origin.trajectory_id.startswith("d/explore-")
    whole = merge(waves)
    assert whole.episodes["explore"] == 2 * len(waves)  # the two places
    assert whole.refusals()["accepted"] == len(made)
    assert SynthesisResult.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize(("num", "budget", "num_played"), [(5, None, 5), (5, 6, 3), (5, 0, 0)])
def test_it_explores_where_flagged_tasks_begin_and_leaves_episodes_for_validation(
    num: int, budget: int | None, num_played: int
):
    miss = replace(played("press red, look", [0.5, 0.5], of=TRAIN[0]), id="s1/miss")
    flags = [Flag(signal=Signal.BOUNDARY, step=1, trajectory=miss, turn=1, priority=1.0, detail="seen")]
    with live_arena(budget=budget) as arena:
        proposed = Wanderer(WORLD).propose(Findings(flags=flags), arena, num=num, seed=3)
    known = frozenset(one.task.id for one in proposed.proposals[:1])
    with live_arena(budget=budget) as again:
        others = Wanderer(WORLD).propose(Findings(flags=flags, known_ids=known), again, num=num, seed=3)
    assert arena.spent["explore"] == again.spent["explore"] == num_played
    assert others.proposals == proposed.proposals[1:]
    assert others.counts.get("repeated", 0) >= proposed.counts.get("repeated", 0) + len(known)
    assert len(proposed.proposals) + sum(proposed.counts.values()) == num_played
    for one in proposed.proposals:
        assert (one.origin.strategy, one.origin.signal) == ("explore", Signal.BOUNDARY)
        assert (one.origin.task_id, one.origin.trajectory_id) == (TRAIN[0].id, "s1/miss")


def test_the_explorers_own_way_counts_where_the_world_knows_none():
    class Silent(GrowingWorld):
        def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
            return {}

    assert all(one.reference[0] == "look" for one in accepted(explore(explorer=Wanderer(Silent()))))


def test_a_bootstrap_that_is_resumed_after_any_wave_ends_as_one_that_was_not():
    whole = explore(replace(CONFIG, num=9))
    assert len(whole) > 2
    again = [SynthesisResult.from_json(json.loads(json.dumps(wave.to_json()))) for wave in whole]
    for num in range(len(whole) + 1):
        assert explore(replace(CONFIG, num=9), done=again[:num]) == whole
    assert explore(replace(CONFIG, num=9), seed=4) != whole


def test_it_ends_where_nothing_comes_of_it():
    class Idle(GrowingWorld):
        synthesis = type("", (type(WORLD.synthesis),), {"explore": lambda *_: "look"})()

    waves = explore(replace(CONFIG, num=3, max_tries=4), explorer=Wanderer(Idle()))
    assert (len(waves), accepted(waves)) == (6, [])  # 3 tasks, 4 places for each, 2 of them a wave
    assert merge(waves).counts == {"dropped: ungrounded": 12}


def test_no_evaluation_task_passes():
    def exam(goal: tuple[str, ...]) -> list[Task]:
        return [Task(id=f"{kind}/exam", kind=kind, data={"goal": list(goal)}) for kind in ("short", "long")]

    twos = [task for goal in product(COLOURS, repeat=2) for task in exam(goal)]
    waves = explore(replace(CONFIG, num=8), evaluation=twos)
    assert {len(one.proposal.task.data["goal"]) for one in accepted(waves)} == {3}
    assert merge(waves).refusals()[Reason.OVERLAP] > 0


def test_a_world_that_breaks_is_counted_and_no_task():
    broken = [*TRAIN[:1], replace(TRAIN[-1], data={**TRAIN[-1].data, "fault": "fire"})]
    waves = explore(tasks=broken)
    whole = merge(waves)
    assert whole.counts["explore: the world broke"] == len(waves)
    assert whole.episodes["explore"] == 2 * len(waves)
    assert {one.proposal.origin.task_id for one in whole.verdicts} == {places_of(TRAIN[:1], WORLD, "training")[0].id}


def test_exploration_may_begin_where_other_tasks_of_the_kind_do():
    class Rooms(GrowingWorld):
        class Own(type(WORLD.synthesis)):
            def place(self, task: Task) -> Task | None:
                place = super().place(task)
                return place and replace(place, data={**place.data, "of": task.data["goal"]})

        synthesis = Own()

    training = places_of(TRAIN[:1], Rooms(), "training")
    others = places_of(TRAIN[:1], Rooms(), "variations")
    assert len(training) == 1 < len(others) == 12


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="checks"):
        BootstrapConfig(checks=("change",))
    with pytest.raises(ConfigError, match="offers no synthesis"):
        Wanderer(ToyWorld())

    class Closed(GrowingWorld):
        synthesis = type("", (), {n: getattr(WORLD.synthesis, n) for n in dir(WORLD.synthesis) if n[0] != "_"})()

    del type(Closed.synthesis).explore  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match=r"can't be explored without a goal.*bootstrap\.num"):
        Wanderer(Closed())


# ── A language model explores ─────────────────────────────────────────────────────────────────────────────────────────

IDEA = {"intent": "order", "query": "Press red, then blue.", "actions": ["press red", "press blue"]}


def served(answer: Callable[[str], str]) -> SynthesisResult:
    """Explore with a model that answers a prompt so, where it is the first of its dialogue."""

    def choose(episode: Episode) -> str:
        return answer(episode.observation if not episode.turns else "")

    with PolicyServer(lambda temperature, max_tokens: ScriptedPolicy(choose)) as server:
        client = CompletionClient(OpenAIConfig(base_url=server.base_url, model="tiny", timeout_s=20.0, max_retries=0))
        settings = LanguageModelConfig(num_explorations=1, explore_turns=2, tasks_per_flag=2)
        explorer = LanguageModelSynthesiser(WORLD, client, settings)
        (wave, *_) = explore(replace(CONFIG, num=1, max_tries=1, num_places=2, checks=("replay",)), explorer=explorer)
    return wave


def sensible(prompt: str, ideas: Sequence[dict] = (IDEA,)) -> str:
    return json.dumps({"tasks": list(ideas)}) if '"tasks"' in prompt else '{"action": "press blue"}'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_a_served_model_explores_and_abstracts_without_a_flag():
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return sensible(prompt)

    found = served(answer)
    assert [(one.proposal.task.data["query"], one.proposal.task.data["goal"]) for one in accepted([found])] == [
        ("Press red, then blue.", ["red", "blue"]),
    ] * 2
    origin = found.verdicts[0].proposal.origin
    assert (origin.synthesiser, origin.strategy, origin.signal) == (
        "language-model",
        "explore-abstract",
        Signal.UNGUIDED,
    )
    assert found.counts["explore: requests"] == 4 and "reflect: requests" not in found.counts
    assert any("Nobody asks for anything" in prompt for prompt in prompts)
    assert any("nothing was asked of the explorer" in prompt for prompt in prompts)
    assert not any("does not master" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("bad", "count", "num"),
    [
        (lambda prompt: "Sure! I'd press the blue button.", "explore: malformed", 2),
        (
            lambda prompt: "Here are two tasks: press red." if '"tasks"' in prompt else sensible(prompt),
            "abstract: malformed",
            2,
        ),
        (
            lambda prompt: sensible(prompt, [{**IDEA, "query": "Press red.<|im_end|>\u2028"}]),
            "abstract: malformed",
            2,
        ),
    ],
    ids=["prose-explores", "prose-abstracts", "control-tokens"],
)
def test_what_a_model_answers_amiss_is_dropped_and_counted(bad: Callable[[str], str], count: str, num: int):
    found = served(bad)
    assert found.counts[count] == num
    assert found.verdicts == ()
