"""Episodes that begin inside others. What must hold:

- the given turns are replayed in the env, are context for the policy, and carry no gradient;
- a policy that goes on from its own episode's middle goes on as it did, and greedy branches end alike;
- a world that answers otherwise than it did ends the branch with a name of its own, and no reward;
- a pair that shares its given turns has the loss of the whole trajectories: the shared part cancels.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from sparring.core.errors import ConfigError, DataError
from sparring.core.filters import counted, usable
from sparring.core.records import trajectory_from_json, trajectory_to_json
from sparring.core.types import PairKind, PreferencePair, StopReason
from sparring.data.batches import groups_from_pairs, num_action_tokens
from sparring.data.chat import Chat, ChatConfig
from sparring.envs.base import EnvStep
from sparring.learning.objectives import LossConfig, PreferenceObjective
from sparring.policies.local.policy import LocalPolicy
from sparring.policies.scripted import RandomPolicy, ScriptedPolicy
from sparring.rollouts.branch import Branch
from sparring.rollouts.episodes import branch_specs
from tests.test_rollout import ACTIONS, play
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyEnv, ToyWorld


class MoodyEnv(ToyEnv):
    """Its machine clicks otherwise each time."""

    clicks = itertools.count()

    def step(self, action):
        step = super().step(action)
        return EnvStep(observation=f"{step.observation} {next(self.clicks)}", reward=step.reward, is_done=step.is_done)


class MoodyWorld(ToyWorld):
    def make_env(self):
        return MoodyEnv()


def played():
    return [one for one in play(RandomPolicy(3, ACTIONS)) if len(one.turns) >= 2]


def go_on(policy, branches, *, has_lanes=True, world="tests.toy_world:ToyWorld", num=1):
    specs = branch_specs("b", branches, agent="partner", num_per_branch=num)
    return play(policy, world, specs=specs, has_lanes=has_lanes)


@pytest.mark.parametrize("has_lanes", [True, False])
def test_a_branch_replays_its_beginning_and_plays_on(has_lanes):
    found = played()
    branches = [Branch(of=one, turn=len(one.turns) - 1) for one in found]
    ended = go_on(ScriptedPolicy(lambda _: "look"), branches, has_lanes=has_lanes, num=2)
    assert len(ended) == 2 * len(found) and len({one.id for one in ended}) == len(ended)
    for branch, one, other in zip(branches, ended[::2], ended[1::2], strict=True):
        assert one.turns == other.turns
        assert one.num_given == branch.turn and one.agent == "partner" and one.seed == branch.of.seed
        for given, then in zip(one.turns, branch.of.turns[: branch.turn], strict=False):
            assert (given.observation, given.text, given.action, given.reward) == (
                then.observation, then.text, then.action, then.reward)  # fmt: skip
        assert {turn.action for turn in one.turns[one.num_given :]} == {"look"}
        assert trajectory_from_json(trajectory_to_json(one)) == one


def test_a_greedy_policy_goes_on_from_its_own_episodes_as_it_did():
    model, tokenizer = tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml")  # pyright: ignore
    chat = Chat(tokenizer, ChatConfig(format="action", instruction="", max_context=512), instruction="")

    def policy():
        return LocalPolicy(model, chat, temperature=0.0, max_new_tokens=6, num_slots_per_lane=2)

    whole = play(policy())
    branches = [Branch(of=one, turn=turn) for one in whole for turn in (0, 1, len(one.turns) // 2)]
    ended = go_on(policy(), branches)
    assert [one.turns for one in ended] == [branch.of.turns for branch in branches]


def test_a_world_that_is_not_the_same_twice_is_named_and_earns_nothing():
    found = play(RandomPolicy(3, ACTIONS), f"{__name__}:MoodyWorld")
    branches = [Branch(of=one, turn=len(one.turns)) for one in found if len(one.turns) > 1]
    ended = go_on(RandomPolicy(3, ACTIONS), branches, world=f"{__name__}:MoodyWorld")
    assert ended and {one.stop for one in ended} == {StopReason.DIVERGED}
    assert all("differs before turn" in one.error and one.reward == 0 for one in ended)
    assert not counted(ended) and not usable(ended)


def test_a_branch_beyond_the_end_is_refused():
    one = played()[0]
    with pytest.raises(ConfigError, match=r"can't begin after turn 99 of r/.*, which has \d"):
        Branch(of=one, turn=99)
    with pytest.raises(DataError, match="num_given is 99"):
        trajectory_from_json({**trajectory_to_json(one), "num_given": 99})


def test_a_branch_at_the_end_of_an_episode_is_that_episode():
    found = [one for one in played() if one.stop is StopReason.DONE]
    ended = go_on(RandomPolicy(3, ACTIONS), [Branch(of=one, turn=len(one.turns)) for one in found])
    assert [(one.reward, one.stop, one.num_given) for one in ended] == [
        (one.reward, one.stop, len(one.turns)) for one in found
    ]
    assert not usable(ended), "the agent did nothing of its own"


def test_what_two_sides_share_cancels_in_the_preference_loss():
    model, tokenizer = tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml")  # pyright: ignore
    chat = Chat(tokenizer, ChatConfig(format="action", instruction="", max_context=512), instruction="")
    policy = LocalPolicy(model, chat, temperature=1.5, max_new_tokens=6, num_slots_per_lane=4)
    first = max(play(policy), key=lambda one: len(one.turns))
    chosen, rejected = go_on(policy, [Branch(of=first, turn=2)], num=2)
    losses = []
    for num_given in (2, 0):
        a, b = (replace(one, num_given=num_given) for one in (chosen, rejected))
        pair = PreferencePair(
            kind=PairKind.FAILURE_FAILURE, chosen=a, rejected=b, chosen_turns=len(a.turns), rejected_turns=len(b.turns)
        )
        (group,) = groups_from_pairs([pair], chat.encode)
        losses.append(loss_of(model, group))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    given = chat.encode(chosen)
    assert num_action_tokens(given) < num_action_tokens(chat.encode(replace(chosen, num_given=0)))
    assert [end - start for start, end in given.spans[:2]] == [0, 0]


def loss_of(model, group):
    """Return the loss against a reference that is another by a fixed amount a token."""
    logprobs = []
    for node in group.nodes:
        ids = torch.tensor([node.ids])
        with torch.no_grad():
            logp_TV = model(ids).logits[0].float().log_softmax(-1)
        places = [i for start, end in node.spans for i in range(start, end)]
        logprobs.append(torch.stack([logp_TV[i - 1, ids[0, i]] for i in places]))
    reference = [one * 1.1 for one in logprobs]
    objective = PreferenceObjective(config=LossConfig(expert_sft=0.0, failure_sft=0.0))
    loss, _ = objective([group], logprobs, reference)
    return float(loss)
