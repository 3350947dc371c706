"""What decodes a model's actions, trusted only after it gave the model's own logits on a few short rows.

A decoder makes use of much that a model may do otherwise: attention to the whole past, positions and masks as they are
handed in, key-value heads alike in all layers, a past that is all in the cache. Configurations don't tell it reliably.
So before an agent plays, rows of several lengths are fed in pieces and then token by token, and what comes out is
compared with the model's forward over each whole row, which is what training sees.

Shapes: N positions compared, V vocabulary.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparring.core.errors import ModelError
from sparring.policies.local.cache import GRAIN, round_up
from sparring.policies.local.decoding import Decoder, SlotDecoder
from sparring.policies.local.own_cache import Feeding, OwnDecoder

TRIAL_STEPS = 3
"""Tokens that are decoded one by one."""
TRIAL_MARGIN = 16
"""How far the longest row reaches beyond what could change a model's attention: a block of the cache, a window."""
TRIAL_LENGTHS = (29, 7)
"""Lengths of the rows beside it."""
TRIAL_TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-4, torch.bfloat16: 0.15, torch.float16: 0.02}
"""Largest difference of logits at which a decoder is trusted, in parts of what another past makes of them."""
TRIAL_ROUNDINGS = 4
"""Roundings of the dtype that are let pass at any rate."""
OWN_CACHE_SHARE = 1 / 4
"""Share of it at which a model's own cache is trusted, over which rounding differs less; what exceeds it is slower and
safe."""
WINDOW_WORDS = ("window", "chunk", "local")
"""A whole number whose name has one of these words may limit how far a layer sees."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which decoder serves a model."""

    feeding: Feeding | None = None
    """How its own cache is fed; none: over the slot cache."""
    may_be_lean: bool = True
    """Whether the lean forward is right, where it can be had."""

    def decoder(self, model: PreTrainedModel, *, max_positions: int, **vocabulary: Any) -> Decoder:
        """Make it.

        Args:
            model: the one that the verdict is on.
            max_positions: most tokens in an episode.
            vocabulary: what decoders are told of the tokenizer: `num_tokens`, `end_ids` and `unused_ids`.
        """
        if self.feeding is not None:
            return OwnDecoder(model, **vocabulary, feeding=self.feeding)
        return SlotDecoder(model, **vocabulary, max_positions=max_positions, may_be_lean=self.may_be_lean)


_VERDICTS: dict[Hashable, Verdict] = {}
"""What was found in this process: a run loads models of one kind again and again, only with other weights."""


def verdict_on(model: PreTrainedModel, *, num_tokens: int, max_positions: int) -> Verdict:
    """Find the fastest decoder that gives a model's own logits; models of the same kind are tried once a process.

    Args:
        model: any transformers causal language model.
        num_tokens: size of the tokenizer.
        max_positions: most tokens in an episode.

    Raises:
        ModelError: the logits after a token depend on later ones, or are not finite, or the model's forward fails.
    """
    parts = tuple(type(part) for part in model.modules())
    key = (parts, model.config.to_json_string(), model.dtype, model.device.type, num_tokens, max_positions)
    if key not in _VERDICTS:
        _VERDICTS[key] = _try_all(model, num_tokens, max_positions)
    return _VERDICTS[key]


def _try_all(model: PreTrainedModel, num_tokens: int, max_positions: int) -> Verdict:
    """Try one kind of decoder after the other; tell of one that isn't the first in a warning."""
    name = type(model).__name__
    rows = list(_rows(num_tokens, _reach(model, max_positions)))
    slots = partial(SlotDecoder, model, num_tokens=num_tokens, end_ids=(), max_positions=max_positions, recorder=None)
    trial = slots()
    with trial.sampling():
        own = _own_logits(model, rows, num_tokens)
        bound = _bound(model, rows[-1], own[-1])
        reason = first = _difference(trial, rows, own, bound)
        if not reason:
            return Verdict()
        if trial.is_lean and not _difference(slots(may_be_lean=False), rows, own, bound):
            return Verdict(may_be_lean=False)
        for feeding in Feeding:
            share = 1 if feeding is Feeding.ANEW else OWN_CACHE_SHARE
            decoder = OwnDecoder(model, num_tokens=num_tokens, end_ids=(), feeding=feeding)
            reason = _difference(decoder, rows, own, share * bound)
            if not reason:
                warnings.warn(
                    f"{name} is decoded {feeding.value}, which is slower: over rows of a common cache it doesn't give "
                    f"the model's own logits ({first}).",
                    stacklevel=4,
                )
                return Verdict(feeding=feeding)
    raise ModelError(
        f"model.path: {name} can't play: its logits after the first tokens of a sequence are others when more tokens "
        f"follow ({reason}). Is it a causal language model? Use another."
    )


def _reach(model: PreTrainedModel, max_positions: int) -> int:
    """Return how long a row has to be for what a model may do otherwise to show."""
    windows = [size for size in _windows(model) if size < max_positions]
    return min(max([GRAIN, *windows]) + TRIAL_MARGIN, max_positions)


def _windows(model: PreTrainedModel) -> Iterator[int]:
    """Yield the numbers that may limit how far layers see, by the names they have in the configuration or a module."""
    for holder in (model.config, model.config.get_text_config(), *model.modules()):
        for name, value in vars(holder).items():
            if type(value) is int and value > 0 and any(word in name for word in WINDOW_WORDS):
                yield value


def _rows(num_tokens: int, reach: int) -> Iterator[list[int]]:
    for number, length in enumerate(dict.fromkeys([reach, *(min(length, reach) for length in TRIAL_LENGTHS)])):
        yield [(7919 * (place + 1) + 104729 * number) % num_tokens for place in range(length)]


def _own_logits(model: PreTrainedModel, rows: Sequence[Sequence[int]], num_tokens: int) -> list[Tensor]:
    """Compute the logits that a decoder is to give for each row, logits_NV, by the model's forward over all of it."""
    accepts_slice = "logits_to_keep" in inspect.signature(model.forward).parameters
    found = []
    for row in rows:
        num = min(TRIAL_STEPS + 1, len(row))
        last_only: dict[str, Any] = {"logits_to_keep": num} if accepts_slice else {}
        try:
            out: Any = model(input_ids=torch.tensor([row], device=model.device), use_cache=False, **last_only)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"model.path: {type(model).__name__} fails on {len(row)} tokens: {_told(error)}"
            ) from error
        logits_NV = out.logits[0, -num:, :num_tokens].float()
        if logits_NV.isnan().any():
            raise ModelError("The model's logits are not finite: its weights are broken (a training that diverged?).")
        found.append(logits_NV)
    return found


def _bound(model: PreTrainedModel, row: Sequence[int], own_NV: Tensor) -> float:
    """Return the largest difference at which a decoder is trusted: the less the past matters, the smaller it is.

    Args:
        row: one whose past is changed, to see how much that matters.
        own_NV: its logits.
    """
    half, num_tokens = len(row) // 2, own_NV.shape[-1]
    other = [(31 * token + 7) % num_tokens for token in row[:half]]
    (other_NV,) = _own_logits(model, [[*other, *row[half:]]], num_tokens)
    reach = min(1.0, float(_gaps(other_NV, own_NV).max()))
    return max(TRIAL_TOLERANCE.get(model.dtype, 0.0) * reach, TRIAL_ROUNDINGS * torch.finfo(model.dtype).eps)


def _difference(decoder: Decoder, rows: Sequence[Sequence[int]], own: Sequence[Tensor], bound: float) -> str:
    """Say why a decoder may not be trusted; empty: it may.

    Rounding in half precision may choose another expert at a position, so there it is the median that counts.
    """
    is_half = decoder.dtype in (torch.bfloat16, torch.float16)
    try:
        gaps = [_gaps(*both) for both in zip(_decoded(decoder, rows), own, strict=True)]
        gap = max(float(gaps_N.median() if is_half else gaps_N.max()) for gaps_N in gaps)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return _told(error)
    return "" if gap <= bound else f"they differ by {gap:.2g} of their spread"


def _decoded(decoder: Decoder, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Feed the rows in two pieces each and then token by token; return each row's last logits, logits_NV."""
    num = min(TRIAL_STEPS, *(len(row) - 1 for row in rows)) if rows else 0
    begun = [len(row) - num for row in rows]
    half = [length // 2 for length in begun]
    index = range(len(rows))
    if all(half):
        decoder.prefill(index, [0] * len(rows), [row[:end] for row, end in zip(rows, half, strict=True)])
    logits_BV = decoder.prefill(
        index, half, [row[start:end] for row, start, end in zip(rows, half, begun, strict=True)]
    )
    steps = [logits_BV]
    feed = decoder.steps(begun, round_up(max(map(len, rows))))
    for step in range(num):
        lengths = [length + step for length in begun]
        token_B, position_B = (
            torch.tensor(values, device=logits_BV.device)
            for values in ([row[at] for row, at in zip(rows, lengths, strict=True)], lengths)
        )
        steps.append(feed(token_B, position_B, [length + 1 for length in lengths]))
    return list(torch.stack(steps, 1))


def _gaps(logits_NV: Tensor, own_NV: Tensor) -> Tensor:
    """Return how logits differ in parts of their spread, both as root mean squares over the vocabulary: gaps_N.

    What is -inf on both sides is left out.
    """
    own_NV = own_NV[-len(logits_NV) :]
    own_NV, logits_NV = (part.masked_fill(own_NV.isinf() & (own_NV == logits_NV), 0.0) for part in (own_NV, logits_NV))
    spread_N = (own_NV - own_NV.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    gaps_N = (logits_NV - own_NV).square().mean(-1).sqrt() / spread_N.clamp_min(torch.finfo(spread_N.dtype).tiny)
    return gaps_N.nan_to_num(torch.inf)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
