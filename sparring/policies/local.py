"""A transformers model in this process: open episodes in, sampled actions out; and how a model is loaded and saved.

Every open episode keeps its row of a key-value cache across turns, so a turn costs its new tokens only. What is in the
cache is always a prefix of what `Chat.encode` gives for the finished trajectory.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from sparring.chat import Chat, known_ids
from sparring.convert import check_values
from sparring.errors import ConfigError, ModelError, quote
from sparring.policies.agreement import check_agreement
from sparring.policies.base import Episode, Reply
from sparring.policies.folders import check_folder, check_size, fetch_folder, one_line
from sparring.policies.saving import write_folder
from sparring.ranges import ADJUSTABLE_WITH_NOTE, Name, Place
from sparring.types import StopReason

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from sparring.policies.decoding import Decoder

_MODELS = Path(__file__).parent.parent / "models"
BUNDLED = {f"sparring-{name}": _MODELS / name for name in ("worlds", "tools", "code")}
"""Models that ship with the package: name → folder. The first has learnt the language of ScienceWorld, of the invented
WebShop's pages and of SQL over invented databases; the second, going on from it, BFCL's function calls over invented
conversations; the third, going on from that, the code of AppWorld over invented households."""
BUNDLED_NAMES = " or ".join(map(repr, BUNDLED))
LOGPROB_DIGITS = 6
"""Decimals of a kept log-probability: as many as single precision has, and short in a file."""
ENOUGH = 1 / 8
"""The share of a batch's actions that has to be whole before `act` returns early."""
NEEDS_SENTENCEPIECE = (
    "its tokenizer is a tokenizer.model, which takes other packages to read. Run `pip install sentencepiece protobuf`, "
    "or put a tokenizer.json beside it."
)
MIN_PREFIX = 64
"""From this many tokens on, what all episodes begin with (instruction, worked examples) is computed once a lane."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model both agents start from."""

    path: Place = "sparring-worlds"
    """The bundled model's name, a folder, or a Hugging Face Hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights in memory. `auto`: bfloat16 on a GPU or a CPU that computes in it natively, float32 elsewhere."""
    device: Annotated[Name, ADJUSTABLE_WITH_NOTE] = "auto"
    """`auto`: the first GPU where there is one, else the CPU; or a torch device, for instance `cuda:1`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""

    def __post_init__(self) -> None:
        check_values(self)


def resolve_model(path: str, *, trusts_code: bool = False) -> str:
    """Return the folder or Hub id that `model.path` names, after looking into the folder.

    Raises:
        ModelError: a folder that is missing, that lacks a config, safetensors weights or a tokenizer, or in which
            something is refused (`check_folder`).
    """
    if path in BUNDLED:
        folder = BUNDLED[path]
    elif Path(path).expanduser().exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        folder = Path(path).expanduser()
    else:
        return path
    if not folder.is_dir():
        raise ModelError(f"model.path: there is no folder {str(folder)!r}. Give a folder, a Hub id, {BUNDLED_NAMES}.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path: {str(folder)!r} has no config.json, so it is no Hugging Face model folder.")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        remedy = "Its .bin files are pickles and are not opened: convert them." if pickled else "Was it saved in full?"
        raise ModelError(f"model.path: {str(folder)!r} has no weights (*.safetensors). {remedy}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"model.path: {str(folder)!r} has no tokenizer (tokenizer.json).")
    check_folder(folder, trusts_code=trusts_code)
    return str(folder)


def load_model(model: ModelConfig | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model (in eval mode) and its tokenizer. Weights come from safetensors alone.

    Raises:
        ModelError: it is not there, incomplete, needs code that was not allowed, or has no chat template.
        ConfigError: a device that torch does not know.
    """
    import torch

    config = model if isinstance(model, ModelConfig) else ModelConfig(path=model)
    device = resolve_device(config.device)
    loaded, tokenizer = _load(config, torch.bfloat16 if is_bfloat16(config, device) else torch.float32)
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"model.path: the tokenizer of {config.path!r} has no chat template. Use a chat model, or put a "
            "chat_template.jinja beside its tokenizer.json."
        )
    num_embeddings = cast(Any, loaded.get_input_embeddings()).num_embeddings
    if (num_tokens := max(known_ids(tokenizer)) + 1) > num_embeddings:
        raise ModelError(f"model.path: the tokenizer has {num_tokens} tokens, the model only {num_embeddings}.")
    return cast("PreTrainedModel", torch.nn.Module.to(loaded, device)).eval(), tokenizer


def end_ids_of(model: PreTrainedModel) -> frozenset[int]:
    """Return the tokens at which the model's own generation stops.

    Raises:
        ModelError: its generation config names something else than token ids.
    """
    listed = getattr(model.generation_config, "eos_token_id", None)  # the generation config may be None
    ids = listed if isinstance(listed, list | tuple) else [] if listed is None else [listed]
    if wrong := [one for one in ids if type(one) is not int or one < 0]:
        raise ModelError(f"model.path: generation_config.json: eos_token_id: {wrong[0]!r} is no token id.")
    return frozenset(ids)


def _load(config: ModelConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load what a checked folder holds.

    Raises:
        ModelError: it can't be loaded, or weights are missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trusts_code = config.trust_remote_code
    path = resolve_model(config.path, trusts_code=trusts_code)
    folder = Path(path) if Path(path).is_dir() else fetch_folder(path, trusts_code=trusts_code)
    weights = check_folder(folder, trusts_code=trusts_code)
    try:
        check_size(folder, weights, trusts_code=trusts_code)
        with _without_warnings("transformers"):  # what it says of a load that failed or was interrupted misleads
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusts_code)
            tokenizer.encode("x")  # some settings of another type show then only
            loaded, report = cast(
                "tuple[PreTrainedModel, dict[str, Any]]",
                AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    trust_remote_code=trusts_code,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,  # so that the report says which
                    output_loading_info=True,
                ),
            )
    except ModelError:
        raise
    except Exception as error:  # a folder from elsewhere can make the libraries raise anything
        what = one_line(error)
        if "tiktoken" in what or "sentencepiece" in what.lower():
            what = NEEDS_SENTENCEPIECE
        raise ModelError(f"model.path: can't load {config.path!r}: {what}") from error
    check_agreement(loaded, report, config.path)
    cast(Any, loaded).stored_dtype = weights.dtype  # in which a trained model is saved
    return loaded, tokenizer


@contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Let a logger tell nothing below an error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str]) -> None:
    """Save an ordinary Hugging Face folder (safetensors), whole or not at all; one that is there is replaced.

    A model that was loaded from bfloat16 or float16 weights is saved in that dtype, whatever it is in by now.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_folder(model, tokenizer, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@dataclass(slots=True)
class _Slot:
    """What a row of the cache holds."""

    episode_id: str
    held: list[int] = field(default_factory=list)
    """The tokens whose keys and values are in the row."""
    num_turns: int = 0
    """Turns the episode will have once the world has answered our last action."""
    last_action: tuple[int, ...] = ()
    draft: _Draft | None = None
    """The action that is being decoded."""


@dataclass(slots=True)
class _Draft:
    """The first tokens of an action, all of them held."""

    logits_V: torch.Tensor
    """Before the next one."""
    uniform_T: torch.Tensor | None
    """What its tokens are sampled from; none if greedy."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_whole: bool = False


class _Lane:
    """Which episode has which row. The first rows are always those of the current batch."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: list[_Slot | None] = []

    def find(self, episode_id: str) -> _Slot | None:
        return next((slot for slot in self.rows if slot and slot.episode_id == episode_id), None)

    def drafting(self) -> set[str]:
        """Return the episodes whose action is being decoded."""
        return {slot.episode_id for slot in self.rows if slot and slot.draft}

    def close(self, episode_id: str) -> None:
        for row, slot in enumerate(self.rows):
            if slot and slot.episode_id == episode_id:
                self.rows[row] = None

    def arrange(self, episode_ids: Sequence[str]) -> list[_Slot]:
        """Bring the batch into rows 0…n−1, in whatever order moves least, and return their slots."""
        num, wanted = len(episode_ids), set(episode_ids)
        present = {slot.episode_id for slot in self.rows if slot}
        fresh = [episode_id for episode_id in episode_ids if episode_id not in present]
        self.rows += [None] * (num - len(self.rows))
        strays = [row for row in range(num, len(self.rows)) if (slot := self.rows[row]) and slot.episode_id in wanted]
        for row in range(num):
            slot = self.rows[row]
            if slot and slot.episode_id in wanted:
                continue
            if strays:
                self._exchange(row, strays.pop())
                continue
            if slot:
                if None not in self.rows[num:]:
                    self.rows.append(None)
                self._exchange(row, self.rows.index(None, num))
            self.rows[row] = _Slot(fresh.pop(0))
        while self.rows and self.rows[-1] is None:
            self.rows.pop()
        return [slot for slot in self.rows[:num] if slot]

    def _exchange(self, row: int, other: int) -> None:
        cache, one, two = self.decoder.cache, self.rows[row], self.rows[other]
        cache.reserve(other + 1, 1)
        if one and two:
            cache.swap(row, other, max(len(one.held), len(two.held)))
        elif one:
            cache.move(row, other, len(one.held))
        elif two:
            cache.move(other, row, len(two.held))
        self.rows[row], self.rows[other] = two, one


class LocalPolicy:
    """Samples actions from a model in this process."""

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        *,
        temperature: float,
        max_new_tokens: int,
        num_slots_per_lane: int,
        keep_logprobs: bool = False,
        returns_early: bool = False,
    ) -> None:
        """Args:
        model: what decodes it is compared with its own forward at once.
        chat: how episodes become tokens.
        temperature: 0 is greedy.
        max_new_tokens: where an action without an end of turn is cut.
        num_slots_per_lane: most episodes open at once in a lane (memory is taken as it is needed).
        keep_logprobs: replies carry each sampled token's log-probability at the temperature; greedy ones have none.
        returns_early: `act` answers as soon as some actions are whole, and decodes the others on when it is called
            again: no row waits for the longest action of its batch. For worlds whose envs answer at once.

        Raises:
            ConfigError: `chat.max_context` exceeds what the model was made for.
            ModelError: the model isn't causal, or its logits are not finite.
        """
        from sparring.policies.trial import verdict_on
        from sparring.rope import fix_rope

        check_context(model.config, chat.config.max_context)
        if temperature < 0 or max_new_tokens < 1:
            raise ConfigError("rollout: temperature must be at least 0, and max_new_tokens at least 1.")
        fix_rope(model, chat.config.max_context)
        self._verdict = verdict_on(model, num_tokens=chat.num_tokens, max_positions=chat.config.max_context)
        self._model = model
        self._chat = chat
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        self._num_slots = num_slots_per_lane
        self._keep_logprobs = keep_logprobs
        self._returns_early = returns_early
        prefix = chat.prefix()
        self._prefix = prefix if MIN_PREFIX <= len(prefix) <= chat.config.max_context - max_new_tokens else []
        self._lanes: dict[int, _Lane] = {}

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply | None]:
        """Answer the current observation of each episode, in order; None where the action is not whole yet.

        An episode whose next action might not fit `chat.max_context` gets `CONTEXT_LIMIT`.

        Raises:
            ModelError: the model's outputs are not finite.
        """
        here = self._lane(lane)
        begun = here.drafting()
        fresh = {one.id: self._pending(here.find(one.id), one) for one in episodes if one.id not in begun}
        room = self._chat.config.max_context - self._max_new_tokens
        cut = {id for id, (start, pending) in fresh.items() if start + len(pending) > room}
        for id in cut:
            here.close(id)
        batch = {one.id: one for one in episodes if one.id not in cut}
        replies: dict[str, Reply | None] = dict.fromkeys(cut, Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT))
        if batch:
            with here.decoder.sampling():
                slots = here.arrange(list(batch))
                assert len(here.rows) <= self._num_slots, "more episodes are open in a lane than it has slots"
                self._begin(here.decoder, slots, fresh, batch)
                self._decode(here.decoder, slots)
            replies |= {slot.episode_id: self._reply(slot, batch[slot.episode_id]) for slot in slots}
        return [replies[one.id] for one in episodes]

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended; its row is free for another. Unknown ids are ignored."""
        for lane in self._lanes.values():
            lane.close(episode_id)

    def held_ids(self, episode_id: str) -> list[int]:
        """Return the tokens whose keys and values the cache holds for an open episode (none for an unknown one)."""
        slots = (lane.find(episode_id) for lane in self._lanes.values())
        return next((list(slot.held) for slot in slots if slot), [])

    def _lane(self, lane: int) -> _Lane:
        if lane not in self._lanes:
            decoder = self._verdict.decoder(
                self._model,
                num_tokens=self._chat.num_tokens,
                end_ids=self._chat.end_ids,
                max_positions=self._chat.config.max_context,
                unused_ids=self._chat.unused_ids,
            )
            if self._prefix:
                with decoder.sampling():
                    decoder.remember(self._prefix)
            self._lanes[lane] = _Lane(decoder)
        return self._lanes[lane]

    def _pending(self, slot: _Slot | None, episode: Episode) -> tuple[int, list[int]]:
        """Return how many of the held tokens stay, and the tokens to feed after them."""
        turns = episode.turns
        if slot and turns and slot.num_turns == len(turns) and slot.last_action == turns[-1].token_ids:
            return len(slot.held), [slot.last_action[-1], *self._chat.next(slot.last_action, episode.observation)]
        ids = self._chat.history(turns, episode.observation)
        held = slot.held if slot else self._prefix
        same = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), min(len(held), len(ids)))
        same = min(same, len(ids) - 1)
        return same, ids[same:]

    def _begin(
        self,
        decoder: Decoder,
        slots: Sequence[_Slot],
        fresh: Mapping[str, tuple[int, list[int]]],
        episodes: Mapping[str, Episode],
    ) -> None:
        """Feed what is new to the rows whose next action begins."""
        import torch

        rows = [row for row, slot in enumerate(slots) if slot.draft is None]
        if not rows:
            return
        starts, pieces = zip(*(fresh[slots[row].episode_id] for row in rows), strict=True)
        for row, start in zip(rows, starts, strict=True):
            if not slots[row].held and start:
                decoder.recall(row, start)
                slots[row].held = self._prefix[:start]
        logits_BV = decoder.prefill(rows, starts, pieces)
        for row, start, piece, logits_V in zip(rows, starts, pieces, logits_BV, strict=True):
            slot, uniform_T = slots[row], None
            slot.held[start:] = piece
            if self._temperature:
                drawn_T = uniforms(episodes[slot.episode_id], self._max_new_tokens)
                uniform_T = torch.from_numpy(drawn_T).to(logits_V.device)
            slot.draft = _Draft(logits_V, uniform_T)

    def _decode(self, decoder: Decoder, slots: Sequence[_Slot]) -> None:
        """Decode on until all actions are whole, or enough of them."""
        import torch

        drafts = [slot.draft for slot in slots if slot.draft]
        drawn = decoder.decode(
            torch.stack([draft.logits_V for draft in drafts]),
            [len(slot.held) for slot in slots],
            [len(draft.ids) for draft in drafts],
            self._max_new_tokens,
            self._temperature,
            torch.stack([u for draft in drafts if (u := draft.uniform_T) is not None]) if self._temperature else None,
            enough=math.ceil(len(slots) * ENOUGH) if self._returns_early else len(slots),
        )
        for row, (slot, draft) in enumerate(zip(slots, drafts, strict=True)):
            draft.ids += drawn.tokens[row]
            draft.logprobs += drawn.logprobs[row]
            draft.logits_V = drawn.logits_BV[row]
            slot.held += drawn.tokens[row][:-1] if drawn.is_over[row] else drawn.tokens[row]
            draft.is_whole = drawn.is_over[row]

    def _reply(self, slot: _Slot, episode: Episode) -> Reply | None:
        """Return a slot's action if it is whole."""
        draft = slot.draft
        if draft is None or not draft.is_whole:
            return None
        slot.draft, slot.last_action = None, tuple(draft.ids)
        slot.num_turns = len(episode.turns) + 1
        text, action = self._chat.parse(draft.ids)
        kept = tuple(round(value, LOGPROB_DIGITS) for value in draft.logprobs) if self._keep_logprobs else ()
        return Reply(text=text, action=action, token_ids=slot.last_action, logprobs=kept)


def uniforms(episode: Episode, num: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the numbers in [0, 1) that the next action is sampled from.

    They depend on the episode's id and seed, the number of turns played and the token's place: on nothing else.
    """
    import numpy as np

    digest = hashlib.blake2b(f"{episode.id}\0{episode.seed}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(digest, "little"), counter=len(episode.turns) << 128)
    # 24 bits each: exact in float32, and never rounded up to 1.
    return ((generator.random_raw(num) >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)


def check_context(config: PretrainedConfig, max_context: int) -> None:
    """Refuse a model whose config has fewer positions than `max_context`.

    Raises:
        ConfigError: `chat.max_context` exceeds the model's positions.
    """
    from sparring.rope import most_positions

    limit = most_positions(config)
    if limit and max_context > limit:
        raise ConfigError(f"chat.max_context is {max_context}, but the model has {limit} positions. Lower it to that.")


def check_room(path: str, max_context: int, *, trusts_code: bool = False) -> None:
    """Refuse a model folder with fewer positions than `max_context` before it is loaded; a Hub id is asked at loading.

    Raises:
        ConfigError: as for `check_context`.
        ModelError: its config can't be read.
    """
    from transformers import AutoConfig

    if not Path(path).is_dir():
        return
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trusts_code)
    except Exception as error:  # a folder from elsewhere can make the library raise anything
        raise ModelError(f"model.path: can't read the config of {path!r}: {one_line(error)}") from error
    check_context(config, max_context)


def resolve_device(name: str) -> torch.device:
    """Return the torch device that `model.device` names.

    Raises:
        ConfigError: torch knows none of this name, or it is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(f"model.device: torch has no {quote(name)} here: {quote(first_line, bare=True)}") from None
    return device


def is_bfloat16(config: ModelConfig, device: torch.device) -> bool:
    """Say whether a model's weights lie in memory as bfloat16 on a device."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and _computes_bf16(device))


def _computes_bf16(device: torch.device) -> bool:
    import torch

    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
