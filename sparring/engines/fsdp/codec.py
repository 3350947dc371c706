"""What ranks say to each other, as bytes: plain values and tensors, never a pickle.

A message is a safetensors file in memory; one of its tensors is the plain values, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sparring.core.errors import ConfigError
from sparring.core.types import PairKind
from sparring.data.batches import Edge, Group, Sample
from sparring.data.chat import Encoded

VALUES = "plain values"
_KIND = "a dataclass"
"""Stands before the name of the dataclass that a mapping was."""
COLUMNS = tuple(column.name for column in dataclasses.fields(Sample))

Kinds = Mapping[str, type]
"""Dataclasses that may be sent, by name."""


@dataclass(slots=True)
class Message:
    """Plain values and tensors."""

    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def pack(message: Message) -> bytes:
    """Return a message's bytes."""
    values = torch.frombuffer(bytearray(json.dumps(message.values).encode()), dtype=torch.uint8)
    return save({VALUES: values, **{name: one.detach().cpu().contiguous() for name, one in message.tensors.items()}})


def unpack(data: bytes) -> Message:
    """Return the message that bytes hold."""
    tensors = load(data)
    return Message(json.loads(bytes(tensors.pop(VALUES).numpy())), tensors)


def kinds_of(*classes: type) -> Kinds:
    """Name dataclasses that may be sent."""
    return {one.__name__: one for one in classes}


def to_plain(value: Any, kinds: Kinds) -> Any:
    """Return a dataclass of plain fields as what JSON has.

    Raises:
        ConfigError: its class is none of those that may be sent.
    """
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    name = type(value).__name__
    if kinds.get(name) is not type(value):
        raise ConfigError(f"engine.kind: 'fsdp' can't send a {name} to other ranks. Train with engine.kind = 'local'.")
    fields = [one.name for one in dataclasses.fields(value) if one.init]
    return {_KIND: name, **{field: to_plain(getattr(value, field), kinds) for field in fields}}


def from_plain(value: Any, kinds: Kinds) -> Any:
    """Return what `to_plain` was given."""
    if not isinstance(value, dict):
        return tuple(value) if isinstance(value, list) else value
    fields = {name: from_plain(one, kinds) for name, one in value.items() if name != _KIND}
    return kinds[value[_KIND]](**fields)


# ── Nodes and groups ──────────────────────────────────────────────────────────────────────────────────────────────────


def nodes_message(nodes: Sequence[Encoded]) -> Message:
    """Return nodes as a message; their tokens are one tensor."""
    ids = torch.tensor([token for node in nodes for token in node.ids], dtype=torch.int64)
    spans = [[list(span) for span in node.spans] for node in nodes]
    return Message({"lengths": [len(node.ids) for node in nodes], "spans": spans}, {"ids": ids})


def nodes_of(message: Message) -> list[Encoded]:
    """Return the nodes of a message."""
    parts = message.tensors["ids"].split(message.values["lengths"]) if message.values["lengths"] else ()
    return [
        Encoded(ids=tuple(part.tolist()), spans=tuple((start, end) for start, end in spans))
        for part, spans in zip(parts, message.values["spans"], strict=True)
    ]


def groups_message(groups: Sequence[Group]) -> Message:
    """Return groups as a message. Numbers beside the tokens travel in double precision, as Python has them."""
    message = nodes_message([node for group in groups for node in group.nodes])
    message.values["groups"] = [
        {
            "task_id": group.task_id,
            "num_nodes": len(group.nodes),
            "edges": [dataclasses.asdict(edge) for edge in group.edges],
            "counts": [[len(getattr(sample, name)) for name in COLUMNS] for sample in group.samples],
        }
        for group in groups
    ]
    for name in COLUMNS:
        column = [value for group in groups for sample in group.samples for value in getattr(sample, name)]
        message.tensors[f"samples/{name}"] = torch.tensor(column, dtype=torch.float64)
    return message


def groups_of(message: Message) -> list[Group]:
    """Return the groups of a message."""
    nodes = iter(nodes_of(message))
    columns = {name: iter(message.tensors[f"samples/{name}"].tolist()) for name in COLUMNS}
    groups = []
    for entry in message.values["groups"]:
        samples = [
            Sample(
                **{
                    name: tuple(next(columns[name]) for _ in range(count))
                    for name, count in zip(COLUMNS, counts, strict=True)
                }
            )
            for counts in entry["counts"]
        ]
        edges = [Edge(**{**edge, "kind": PairKind(edge["kind"])}) for edge in entry["edges"]]
        own = tuple(next(nodes) for _ in range(entry["num_nodes"]))
        groups.append(Group(task_id=entry["task_id"], nodes=own, edges=tuple(edges), samples=tuple(samples)))
    return groups
