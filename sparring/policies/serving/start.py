"""A model is loaded and made ready to be served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sparring.data.chat import ChatConfig
from sparring.models.loading import ModelConfig, check_context, end_ids_of, load_model
from sparring.models.rope import most_positions
from sparring.policies.serving.conversations import Conversations
from sparring.policies.serving.model import ServedChat, ServedModel
from sparring.policies.serving.server import Server, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that answers."""

    model: ServedModel
    name: str
    max_context: int
    max_new_tokens: int

    def listen(self, address: tuple[str, int], key: str, record: Path | None, *, idle_s: float) -> Server:
        """Open a server for it.

        Raises:
            ConfigError: the address can't be had.
        """
        service = Service(
            self.model,
            Conversations(record, self.name, idle_s=idle_s),
            name=self.name,
            max_context=self.max_context,
            max_new_tokens=self.max_new_tokens,
            key=key,
        )
        return Server(address, service)


def start(
    config: ModelConfig, chat: ChatConfig, *, name: str, max_context: int | None, max_new_tokens: int, num_slots: int
) -> Served:
    """Load a model.

    Args:
        config: which one.
        chat: its template and context; format, instruction and examples are the clients' business.
        name: what clients call it.
        max_context: most tokens of a conversation; none: the chat's, or as many as the model has positions.
        max_new_tokens: most tokens of an answer where a request does not say.
        num_slots: most requests in a batch.

    Raises:
        SparringError: the model can't be loaded, or was not made for such a context.
    """
    model, tokenizer = load_model(config)
    if max_context is None:
        max_context = min(chat.max_context, most_positions(model.config) or chat.max_context)
    check_context(model.config, max_context)
    own = replace(chat, format="action", instruction="", num_examples=0, max_context=max_context)
    served = ServedChat(tokenizer, own, instruction="", end_ids=end_ids_of(model))
    ready = ServedModel(model, served, num_slots=num_slots)
    return Served(model=ready, name=name, max_context=own.max_context, max_new_tokens=max_new_tokens)
