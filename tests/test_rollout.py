"""Rollout. What must hold:

- trajectories come in spec order and do not depend on how long an env takes, to the byte;
- who shares a batch depends on the specs alone; lanes are never mixed, and no lane exceeds its share of the slots;
- the policy acts for one lane while the envs of the other step;
- a fault is a trajectory of its own kind, never a reward;
- waves are reported whole, and what was played alone is what is played with others;
- the reward is the best so far, within [0,1].
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict

import pytest

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import StopReason, Task
from sparring.data.chat import Chat, ChatConfig
from sparring.envs.base import EnvStep
from sparring.envs.pool import EnvPool
from sparring.envs.rewards import Rewards
from sparring.policies.base import Reply
from sparring.policies.scripted import RandomPolicy, ReplayPolicy, ScriptedPolicy
from sparring.rollouts.episodes import EpisodeSpec, episode_specs
from sparring.rollouts.loop import cut_waves, rollout
from tests.toy_world import COLOURS, ToyEnv, ToyWorld

pytestmark = pytest.mark.usefixtures("each_pool")

ACTIONS = [*(f"press {colour}" for colour in COLOURS), "look"]


class SleepyEnv(ToyEnv):
    """Answers after a random while."""

    def reset(self, task, seed):
        time.sleep(random.random() * 0.01)
        return super().reset(task, seed)

    def step(self, action):
        time.sleep(random.random() * 0.01)
        return super().step(action)


class SleepyWorld(ToyWorld):
    def make_env(self):
        return SleepyEnv()


class OddEnv(ToyEnv):
    """Rewards and faults as the action says."""

    def step(self, action):
        if action == "break":
            raise RuntimeError("the machine burns")
        if action == "refuse":
            raise DataError("catalogue.json: torn. Fetch it again.")
        if action == "shout":
            return EnvStep(observation="\ud800 \ud83d\ude00", reward=0.0, is_done=False)
        if action.startswith("burn"):
            raise RuntimeError(f"\udfff {action}")
        if action == "number":
            return EnvStep(observation=7, reward=0.0, is_done=False)  # pyright: ignore
        reward = float(action.removeprefix("reward "))
        return EnvStep(observation=f"got {action}", reward=reward, is_done=False)


class OddWorld(ToyWorld):
    def make_env(self):
        return OddEnv()


def play(
    policy,
    world="tests.toy_world:ToyWorld",
    *,
    size=4,
    num_slots=4,
    specs=None,
    num_per_task=1,
    num_turns=8,
    wave_size=32,
    waves=None,
    has_lanes=True,
    **options,
):
    """Play, by default in two lanes, as where envs have processes of their own."""
    benchmark = ToyWorld(size=size, num_turns=num_turns, per_process=has_lanes)
    if waves is None:
        waves = cut_waves(specs_of(size, num_per_task) if specs is None else specs, wave_size)
    with EnvPool(world, {"size": size}, num_envs=num_slots, max_retries=0) as pool:
        return rollout(policy, pool, benchmark, waves, num_slots=num_slots, **options)


def specs_of(size=4, num_per_task=1):
    return episode_specs("r", ToyWorld(size=size).tasks("train"), agent="target", seed=3, num_per_task=num_per_task)


def as_text(trajectories):
    return json.dumps([asdict(trajectory) for trajectory in trajectories])


class Noting:
    """A policy that notes each batch."""

    def __init__(self, inner):
        self.inner, self.batches, self.closed = inner, [], []

    def act(self, episodes, *, lane=0):
        self.batches.append((lane, tuple(episode.id for episode in episodes)))
        return self.inner.act(episodes, lane=lane)

    def close(self, episode_id):
        self.closed.append(episode_id)


def test_the_expert_replayed_wins():
    world = ToyWorld(size=4)
    tasks = world.tasks("train")
    actions = world.expert_actions(tasks)
    for task, trajectory in zip(tasks, play(ReplayPolicy(actions)), strict=True):
        assert trajectory.task == task
        assert [turn.action for turn in trajectory.turns] == actions[task.id]
        assert (trajectory.reward, trajectory.stop) == (1.0, StopReason.DONE)
        assert (trajectory.agent, trajectory.seed, trajectory.id) == ("target", 3, f"r/{task.id}/0")


def test_timing_changes_nothing():
    runs = [Noting(RandomPolicy(0, ACTIONS)) for _ in range(3)]
    worlds = ["tests.toy_world:ToyWorld", "tests.test_rollout:SleepyWorld", "tests.test_rollout:SleepyWorld"]
    played = [as_text(play(run, world, num_per_task=3, wave_size=5)) for run, world in zip(runs, worlds, strict=True)]
    assert played[0] == played[1] == played[2]
    by_lane = [[[batch for lane, batch in run.batches if lane == number] for number in (0, 1)] for run in runs]
    assert by_lane[0] == by_lane[1] == by_lane[2]
    assert runs[0].batches == runs[1].batches == runs[2].batches


class Hesitating(Noting):
    """A policy that answers one episode of a batch at a time, and has the others handed in again."""

    def act(self, episodes, *, lane=0):
        replies = super().act(episodes, lane=lane)
        return [reply if place == len(self.batches) % len(replies) else None for place, reply in enumerate(replies)]


@pytest.mark.parametrize("has_lanes", [True, False])
def test_episodes_that_the_policy_is_still_at_are_handed_in_again_as_they_are(has_lanes):
    policy = Hesitating(RandomPolicy(0, ACTIONS))
    played = play(policy, num_slots=8, has_lanes=has_lanes)
    assert as_text(played) == as_text(play(RandomPolicy(0, ACTIONS), num_slots=8, has_lanes=has_lanes))
    assert len(policy.batches) >= sum(len(one.turns) for one in played)


def test_a_sampling_model_is_reproduced_whatever_the_timing():
    from sparring.policies.local.policy import LocalPolicy
    from tests.tiny_models import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer("chatml")
    chat = Chat(tokenizer, ChatConfig(max_context=512), instruction="")
    model = tiny_model(num_tokens=len(tokenizer))
    played = [
        as_text(
            play(
                LocalPolicy(model, chat, temperature=1.0, max_new_tokens=6, num_slots_per_lane=2),
                world,
                size=2,
                wave_size=3,
                num_turns=3,
            )
        )
        for world in ("tests.toy_world:ToyWorld", "tests.test_rollout:SleepyWorld")
    ]
    assert played[0] == played[1]


def test_batches_are_lockstep_within_a_lane_and_its_wave():
    specs = specs_of(6)
    policy = Noting(RandomPolicy(0, ACTIONS))
    play(policy, size=6, specs=specs, num_slots=5, wave_size=4)
    waves = cut_waves(specs, 4)
    wave_of = {spec.id: number for number, wave in enumerate(waves) for spec in wave}
    order = {spec.id: i for i, spec in enumerate(specs)}
    for lane, batch in policy.batches:
        assert len(batch) <= 2  # half of five slots
        assert len({wave_of[id] for id in batch}) == 1
        assert wave_of[batch[0]] % 2 == lane
        assert list(batch) == sorted(batch, key=order.__getitem__)
    assert sorted(policy.closed) == sorted(order)
    lanes = [lane for lane, _ in policy.batches]
    assert lanes[:4] == [0, 1, 0, 1]  # in turns, as long as both have something open


def test_envs_that_do_not_step_by_themselves_share_one_lane():
    specs = specs_of(6)
    policy = Noting(RandomPolicy(0, ACTIONS))
    waves = cut_waves(specs, 8, num_lanes=1)
    played = play(policy, size=6, waves=waves, num_slots=5, has_lanes=False)
    assert [len(wave) for wave in waves] == [6, 6]
    assert {lane for lane, _ in policy.batches} == {0}
    assert max(len(batch) for _, batch in policy.batches) == 5
    assert as_text(played) == as_text(play(RandomPolicy(0, ACTIONS), size=6, specs=specs))


def test_freed_slots_are_refilled_in_spec_order():
    """Three of one lane's four episodes end after a turn, the first goes on."""
    specs = specs_of(4)[:4]
    lasting = specs[0].id
    jam = {spec.id: next(c for c in COLOURS if c != spec.task.data["goal"][0]) for spec in specs}
    policy = Noting(ScriptedPolicy(lambda one: "look" if one.id == lasting else f"press {jam[one.id]}"))
    played = play(policy, waves=[specs], num_slots=4)
    ids = [spec.id for spec in specs]
    one, *rest = [[ids.index(id) for id in batch] for _, batch in policy.batches]
    assert one == [0, 1]
    assert rest[:4] == [[0], [0, 2], [0], [0, 3]]  # a fresh env joins once the others have answered again
    assert [trajectory.stop for trajectory in played] == [StopReason.TURN_LIMIT, *[StopReason.DONE] * 3]
    assert len(played[0].turns) == 8


def test_one_slot_is_one_lane():
    policy = Noting(RandomPolicy(0, ACTIONS))
    alone = play(policy, num_slots=1, wave_size=3)
    assert {lane for lane, _ in policy.batches} == {0}
    assert as_text(alone) == as_text(play(RandomPolicy(0, ACTIONS), num_slots=8, wave_size=2))


def test_envs_of_one_lane_step_while_the_policy_acts_for_the_other():
    """A pool whose steps end only once the policy has begun to act for the other lane: in turns it would never end."""
    acting = {0: threading.Event(), 1: threading.Event()}
    waited = []

    class Pool:
        rewards = Rewards(world="waiting")

        def reset(self, slot, task, seed):
            return done("go")

        def step(self, slot, action):
            future: Future[EnvStep] = Future()
            lane = slot
            acting[1 - lane].clear()

            def work():
                waited.append(acting[1 - lane].wait(10))
                future.set_result(EnvStep(observation="o", reward=0.0, is_done=False))

            threading.Thread(target=work).start()
            return future

        def retries(self, slot):
            return 0

    class Policy(RandomPolicy):
        def act(self, episodes, *, lane=0):
            acting[lane].set()
            return super().act(episodes, lane=lane)

    specs = specs_of()[:2]
    lane_of = {spec.id: lane for lane, spec in enumerate(specs)}
    rollout(
        Policy(0, ACTIONS),
        Pool(),
        ToyWorld(per_process=True),
        cut_waves(specs, 1),
        num_slots=2,
        on_episode=lambda ended: acting[lane_of[ended.id]].set(),  # the last step has nobody else to wait for
    )
    assert waited == [True] * 16


def done(value):
    future = Future()
    future.set_result(value)
    return future


def test_waves_are_reported_whole_and_in_spec_order():
    specs, waves, single = specs_of(5), [], []
    played = play(
        RandomPolicy(0, ACTIONS), size=5, specs=specs, wave_size=4, finished=waves.append, on_episode=single.append
    )
    assert sorted([t.id for t in wave] for wave in waves) == sorted(
        [s.id for s in wave] for wave in cut_waves(specs, 4)
    )
    assert Counter(t.id for t in single) == Counter(t.id for t in played) == Counter(spec.id for spec in specs)
    assert [t.id for t in played] == [spec.id for spec in specs]


def test_what_is_left_after_a_stop_is_played_the_same():
    """Interrupted after the first whole wave, resumed with the other waves: the same trajectories."""
    waves, whole = cut_waves(specs_of(5, 2), 4), []
    expected = play(RandomPolicy(0, ACTIONS), size=5, waves=waves)

    def stop(wave):
        whole.extend(wave)
        raise KeyboardInterrupt

    policy = Noting(RandomPolicy(0, ACTIONS))
    with pytest.raises(KeyboardInterrupt):
        play(policy, size=5, waves=waves, finished=stop)
    begun = {id for _, batch in policy.batches for id in batch}
    assert begun <= set(policy.closed)
    finished = {trajectory.id for trajectory in whole}
    rest = [wave for wave in waves if not finished.issuperset(spec.id for spec in wave)]
    assert len(rest) == len(waves) - 1
    whole += play(RandomPolicy(0, ACTIONS), size=5, waves=rest)
    assert sorted(as_text([t]) for t in whole) == sorted(as_text([t]) for t in expected)


def play_odd(*actions):
    policy = ReplayPolicy({task.id: actions for task in ToyWorld().tasks("train")}, then="reward 0")
    (trajectory,) = play(policy, "tests.test_rollout:OddWorld", specs=specs_of()[:1])
    return trajectory


def test_the_reward_is_the_best_so_far_within_bounds():
    trajectory = play_odd("reward -1", "reward 0.5", "reward 0.25", "reward 7")
    assert [turn.reward for turn in trajectory.turns] == [0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert (trajectory.reward, trajectory.stop) == (1.0, StopReason.TURN_LIMIT)
    assert play_odd("reward -1").reward == 0.0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("break", "the machine burns"),
    ],
)
def test_a_fault_is_never_a_reward(action, message):
    trajectory = play_odd("reward 0.5", action)
    assert (trajectory.stop, trajectory.reward, len(trajectory.turns)) == (StopReason.ENV_FAULT, 0.0, 1)
    assert message in trajectory.error


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("reward nan", "gave nan as the reward, not a finite number"),
        ("reward inf", "gave inf as the reward, not a finite number"),
        ("number", "gave an int as the observation, not text"),
    ],
)
def test_an_answer_that_is_none_is_the_authors_to_mend_and_stops_the_run(action, message):
    with pytest.raises(ConfigError, match=message):
        play_odd("reward 0.5", action)


def test_all_text_can_be_encoded_where_it_enters():
    """A world's lone surrogates, a policy's, and those of a fault's message; pairs are joined."""
    trajectory = play_odd("shout", "reward 0.5", "burn \ud800")
    assert trajectory.turns[1].observation == "\ufffd \U0001f600"
    assert "RuntimeError: \ufffd burn \ufffd (" in trajectory.error
    json.dumps(asdict(trajectory), ensure_ascii=False).encode()


def test_what_a_user_can_mend_stops_the_run():
    with pytest.raises(DataError, match="torn"):
        play_odd("refuse")


def test_faults_leave_the_others_alone():
    """A pool that fails on one slot's reset and in another's step; the slots are used again."""

    class Pool(EnvPool):
        def reset(self, slot, task, seed):
            good = super().reset(slot, task, seed)
            return failed(EnvFault("no start")) if task.id.endswith("-1") else good

        def step(self, slot, action):
            good = super().step(slot, action)
            return failed(EnvFault("it died")) if action == "look" else good

        def retries(self, slot):
            return 2

    specs = specs_of()
    with Pool("tests.toy_world:ToyWorld", {"size": 4}, num_envs=2) as pool:
        policy = Noting(RandomPolicy(0, ACTIONS))
        played = rollout(policy, pool, ToyWorld(), cut_waves(specs, 3), num_slots=2)
    expected = play(RandomPolicy(0, ACTIONS), specs=specs)
    kinds = Counter()
    for trajectory, healthy in zip(played, expected, strict=True):
        looked = next((i for i, turn in enumerate(healthy.turns) if turn.action == "look"), None)
        if trajectory.task.id.endswith("-1"):
            assert (trajectory.stop, trajectory.turns) == (StopReason.ENV_FAULT, ())
            assert trajectory.error == "EnvFault: no start"
        elif looked is not None:
            assert (trajectory.stop, trajectory.turns) == (StopReason.ENV_FAULT, healthy.turns[:looked])
            assert trajectory.error == "EnvFault: it died"
        else:
            assert (trajectory.stop, trajectory.turns) == (healthy.stop, healthy.turns)
        kinds[trajectory.error] += 1
        assert trajectory.num_retries == 2
    assert len(kinds) == 3, "the seeds no longer cover all three cases"
    assert sorted(policy.closed) == sorted(spec.id for spec in specs)


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


def test_what_did_not_fit_is_no_turn():
    class Full(RandomPolicy):
        def act(self, episodes, *, lane=0):
            cut = Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT)
            return [cut if len(one.turns) == 1 else Reply(text="look", action="look") for one in episodes]

    for trajectory in play(Full(0, ACTIONS)):
        assert (trajectory.stop, len(trajectory.turns)) == (StopReason.CONTEXT_LIMIT, 1)
        assert trajectory.final_observation.endswith("done.")


def test_bad_arguments_are_named():
    task = Task(id="short/0", kind="short", data={"goal": ["red"]})
    twice = [EpisodeSpec(id="a", task=task, agent="target", seed=0)] * 2
    with pytest.raises(ConfigError, match="the same id"):
        play(RandomPolicy(0, ACTIONS), specs=twice)
    with pytest.raises(ConfigError, match="wave_size must be at least 1"):
        cut_waves(twice, 0)
    with pytest.raises(ConfigError, match="num_envs must be at least 1"):
        rollout(RandomPolicy(0, ACTIONS), EnvPool("tests.toy_world:ToyWorld", num_envs=1), ToyWorld(), [], num_slots=0)


def test_specs_are_listed_task_by_task():
    specs = specs_of(2, 3)
    assert [spec.id for spec in specs[:4]] == [f"r/short/train-0/{k}" for k in range(3)] + ["r/short/train-1/0"]


@pytest.mark.parametrize(
    ("num", "wave_size", "sizes"),
    [(12, 6, [6, 6]), (12, 5, [3, 3, 3, 3]), (100, 32, [25] * 4), (9, 5, [4, 5]), (1, 5, [1]), (0, 5, [])],
)
def test_waves_give_both_lanes_as_much_to_play(num, wave_size, sizes):
    task = specs_of()[0].task
    specs = [EpisodeSpec(id=str(i), task=task, agent="target", seed=0) for i in range(num)]
    waves = cut_waves(specs, wave_size)
    assert [len(wave) for wave in waves] == sizes
    assert [spec for wave in waves for spec in wave] == specs
