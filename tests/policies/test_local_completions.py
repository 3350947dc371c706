"""A model in this process answers dialogues as it answers episodes: each by itself, in order, within its context."""

from __future__ import annotations

from sparring.data.chat import ChatConfig
from sparring.models.loading import ModelConfig
from sparring.policies.completions import Completion, Request
from sparring.policies.factory import Sampling, local_completions
from sparring.policies.transport import ContextFull

MODEL = ModelConfig(path="sparring-tools", dtype="float32")
ASKED = [
    Request(messages=[{"role": "user", "content": words}], temperature=0.9, max_tokens=12, seed=seed)
    for seed, words in enumerate(("Please list the files.", "Please create the file 'a.txt'.", "Go to 'docs'."))
]
LATER = Request(
    messages=[*ASKED[0].messages, {"role": "assistant", "content": "ls()"}, {"role": "user", "content": "Once more."}],
    temperature=0.9,
    max_tokens=12,
    seed=0,
)


def client(num: int, max_context: int = 512):
    sampling = Sampling(temperature=0.9, max_new_tokens=12, num_envs=num)
    return local_completions(MODEL, ChatConfig(max_context=max_context), sampling)


def test_answers_depend_on_their_own_dialogue_alone() -> None:
    together, one_by_one = client(4).complete([*ASKED, LATER]), client(1).complete([*ASKED, LATER])
    assert together == one_by_one
    for answer in together:
        assert isinstance(answer, Completion) and answer.text and 0 < answer.num_written <= 12
    first, later = together[0], together[-1]
    assert isinstance(first, Completion) and isinstance(later, Completion) and later.num_read > first.num_read > 5


def test_what_does_not_fit_has_no_answer() -> None:
    long = Request(messages=[{"role": "user", "content": "word " * 200}], temperature=0.9, max_tokens=12, seed=0)
    outcomes = client(2, max_context=64).complete([long, ASKED[0]])
    assert isinstance(outcomes[0], ContextFull) and isinstance(outcomes[1], Completion)
