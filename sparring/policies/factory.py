"""The one place where policies are made: a model in this process, or a server's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sparring.core.types import Trajectory
from sparring.data.chat import Chat, ChatConfig, Dialogue

if TYPE_CHECKING:
    from sparring.models.loading import ModelConfig
    from sparring.policies.completions import OpenAIConfig
    from sparring.policies.local.completions import LocalCompletions
    from sparring.policies.local.policy import LocalPolicy
    from sparring.policies.openai import OpenAIPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What an agent reads before its first observation, and how turns are written."""

    config: ChatConfig
    instruction: str
    examples: Sequence[Trajectory] = ()

    def chat(self, model: Any, tokenizer: Any) -> Chat:
        """Return the tokens' side of it, for a model in this process."""
        from sparring.models.loading import end_ids_of

        return Chat(
            tokenizer,
            self.config,
            instruction=self.instruction,
            examples=self.examples,
            end_ids=end_ids_of(model),
        )

    def dialogue(self) -> Dialogue:
        """Return the messages' side of it, for a server."""
        return Dialogue(self.config, instruction=self.instruction, examples=self.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How actions are drawn, and for how many episodes at once."""

    temperature: float
    """0 is greedy."""
    max_new_tokens: int
    """Where an action without an end of turn is cut."""
    num_envs: int = 1
    """Episodes open at once."""
    num_lanes: int = 1
    """Groups of episodes that play independently of each other."""
    keep_logprobs: bool = False
    """Replies carry each sampled token's log-probability."""


def local_policy(model: Any, chat: Chat, sampling: Sampling) -> LocalPolicy:
    """Return a policy over a model in this process."""
    from sparring.policies.local.policy import LocalPolicy

    return LocalPolicy(
        model,
        chat,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        num_slots_per_lane=sampling.num_envs // sampling.num_lanes,
        keep_logprobs=sampling.keep_logprobs,
        returns_early=sampling.num_lanes == 1,
    )


def loaded_policy(config: ModelConfig, prompt: Prompt, sampling: Sampling) -> LocalPolicy:
    """Return a policy over a model that is loaded for it."""
    from sparring.models.loading import load_model

    model, tokenizer = load_model(config)
    return local_policy(model, prompt.chat(model, tokenizer), sampling)


def local_completions(config: ModelConfig, chat: ChatConfig, sampling: Sampling) -> LocalCompletions:
    """Return a client of a model that is loaded for it: dialogues as they are, without an instruction.

    Args:
        config: the model.
        chat: of the agents; its template and its `max_context` hold.
        sampling: how all answers are drawn; `num_envs` dialogues at once.
    """
    from sparring.policies.local.completions import LocalCompletions

    bare = Prompt(config=replace(chat, format="code", instruction="", num_examples=0), instruction="")
    alone = replace(sampling, num_lanes=1)
    return LocalCompletions(loaded_policy(config, bare, alone), num_rows=sampling.num_envs)


def server_policy(config: OpenAIConfig, prompt: Prompt, sampling: Sampling, own_key: str = "") -> OpenAIPolicy:
    """Return a policy over a server that speaks OpenAI's chat completions; `own_key` as for `CompletionClient`."""
    from sparring.policies.openai import OpenAIPolicy

    return OpenAIPolicy(
        config,
        prompt.dialogue(),
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        own_key=own_key,
    )
